"""Progress of a run: a bar on a terminal, otherwise a line every ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from gru_xp.training.trainer import Trainer

_LINE_SECONDS = 10.0
_SMOOTHING = 0.98


@contextmanager
def shown(trainer: Trainer, /) -> Iterator[Callable[[float], None]]:
    """Show progress on stderr; yield a function to be called after each step with its loss.

    The display contains the number of steps, the loss in bits per character (smoothed over about
    50 steps), the speed in characters per second, and the remaining time.
    """
    meter = _Meter(trainer)
    with _bar(meter) if sys.stderr.isatty() else _lines(meter) as show:

        def on_step(bits: float) -> None:
            meter.add(bits)
            show()

        yield on_step


class _Meter:
    """Loss, speed and remaining time of a run, based on the steps of this session."""

    def __init__(self, trainer: Trainer) -> None:
        self.steps = trainer.config.steps
        self.done = self._first = trainer.steps_done
        self._chunk_size = trainer.chunk_size
        self._start = 0.0
        self._bits: float | None = None

    def add(self, bits: float) -> None:
        smoothed = bits if self._bits is None else self._bits
        self._bits = _SMOOTHING * smoothed + (1 - _SMOOTHING) * bits
        self.done += 1
        if self.done == self._first + 1:  # exclude the first step: compilation, imports, memory
            self._start = time.perf_counter()

    def __str__(self) -> str:
        if self._bits is None:
            return ""
        pace = (time.perf_counter() - self._start) / max(1, self.done - self._first - 1)
        if self.done == self._first + 1 or pace <= 0:  # 0 if the clock has not advanced
            return f"{self._bits:.3f} bits/character"
        left = pace * (self.steps - self.done)
        return (
            f"{self._bits:.3f} bits/character, {self._chunk_size / pace:,.0f} characters/s, "
            f"{left:.0f} s left"
        )


@contextmanager
def _bar(meter: _Meter) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = BarColumn(bar_width=16), MofNCompleteColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=meter.steps, completed=meter.done)
        yield lambda: progress.update(task, completed=meter.done, description=str(meter))


@contextmanager
def _lines(meter: _Meter) -> Iterator[Callable[[], None]]:
    shown_at = float("-inf")

    def show() -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at > _LINE_SECONDS or meter.done == meter.steps:
            with suppress(OSError):  # a run goes on if nobody reads its progress
                print(f"step {meter.done}/{meter.steps}: {meter}", file=sys.stderr, flush=True)
            shown_at = time.monotonic()

    yield show
