"""A training run on disk: begin or continue it, save as it goes, stop it cleanly."""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from gru_xp.files import make_writable_folder
from gru_xp.training import checkpoint, memory, plot, text
from gru_xp.training.config import TrainingConfig
from gru_xp.training.errors import DivergenceError, SessionError
from gru_xp.training.trainer import Trainer

SAVE_SECONDS = 15.0

FILES = (checkpoint.FILE, checkpoint.CONFIG_FILE, plot.FILE, "trial")
"""What is written into a run's folder."""


def begin(config: TrainingConfig, out: Path, /, *, overwrite: bool) -> Trainer:
    """Start a run that will be kept in folder `out`; nothing is written there yet.

    Parameters
    ----------
    config : TrainingConfig
        `text_sha256` is filled in.
    out : Path
    overwrite : bool
        Whether `out` may hold a model. It stays until the first save replaces it.

    Raises
    ------
    SessionError
        If `out` holds a model that may not be overwritten, or memory would not do.
    TextError
        If the text cannot be used.
    BackendError
        If the backend is not usable here.
    OSError
        If a text cannot be read, or nothing can be written to `out`.
    """
    if checkpoint.exists(out) and not overwrite:
        raise SessionError(
            f"{out} already holds a model: go on with it by --resume, replace it by --overwrite, "
            "or choose another --out"
        )
    content = text.read_texts([Path(path) for path in config.texts])
    corpus = text.split(content)
    if config.batch_size * config.seq_len < len(corpus.training):  # else another error comes
        memory.check(config, 1 + len(set(corpus.training)))
    trainer = Trainer(replace(config, text_sha256=_sha256(content)), corpus)
    make_writable_folder(out)
    return trainer


def resume(out: Path, given: dict[str, Any], /) -> Trainer:
    """Continue the run in folder `out`.

    Parameters
    ----------
    out : Path
    given : dict
        Fields of the configuration that the user gave; they must be those of the run.

    Raises
    ------
    CheckpointError
        If `out` holds no checkpoint that can be used.
    SessionError
        If an option contradicts the run, or its text has changed.
    TextError
        If the text cannot be used.
    BackendError
        If the backend of the run is not usable here.
    OSError
        If a file cannot be read, or nothing can be written to `out`.
    """
    stored = checkpoint.load(out)
    finished = len(stored.arrays["losses"]) >= stored.config.steps
    if finished and given.get("steps", 0) > stored.config.steps:
        raise SessionError(
            f"the run in {out} is complete, and its learning rate has fallen to zero by its "
            f"{stored.config.steps} steps: for more, begin another run with --steps "
            f"{given['steps']} and --overwrite, or into another --out"
        )
    for name, value in given.items():
        if value != (of_run := getattr(stored.config, name)):
            raise SessionError(
                f"the run in {out} has {name.replace('_', ' ')} {_shown(of_run)}, not "
                f"{_shown(value)}: leave the option out to resume it, or begin another with "
                "--overwrite"
            )
    content = text.read_texts([Path(path) for path in stored.config.texts])
    if _sha256(content) != stored.config.text_sha256:
        source = ", ".join(stored.config.texts) or "this Python's language reference"
        raise SessionError(f"{source} is not the text that the run in {out} began with")
    trainer = Trainer.resume(stored, text.split(content))
    make_writable_folder(out)
    return trainer


def run(trainer: Trainer, out: Path, /, *, on_step: Callable[[float], None]) -> int | None:
    """Train to the end, or until a signal comes; save every 15 seconds and at the end.

    Parameters
    ----------
    trainer : Trainer
        Not ``finished`` afterwards if a signal came: then the step that ran was completed and
        saved.
    out : Path
    on_step : callable
        Called after each step with its loss in bits per character.

    Returns
    -------
    int or None
        Number of the signal that has ended the run: Ctrl-C's, SIGTERM or SIGHUP.

    Raises
    ------
    DivergenceError
        If the loss or a weight is no finite number any more. The last checkpoint is from before
        that, and the message says of which step.
    OSError
        If a checkpoint cannot be written.
    """
    if trainer.finished:
        return None
    _keep_freed_memory()
    saved, last = time.monotonic(), trainer.steps_done

    def save() -> None:
        nonlocal saved, last
        checkpoint.save(out, trainer.checkpoint())
        saved, last = time.monotonic(), trainer.steps_done

    # What overflows ends in a number that is not finite, of which an error tells.
    with _signals() as noted, np.errstate(over="ignore", invalid="ignore"):
        try:
            while not trainer.finished and noted() is None:
                on_step(trainer.step())
                if time.monotonic() - saved > SAVE_SECONDS:
                    save()
            save()
        except DivergenceError as error:
            kept = f"{out} holds the run at step {last}" if last else "nothing has been saved"
            raise DivergenceError(f"{error}; {kept}") from error
        return noted()


@contextmanager
def _signals() -> Iterator[Callable[[], int | None]]:
    """Take note of the first Ctrl-C, SIGTERM or SIGHUP.

    A second Ctrl-C acts as ever. The others come twice of themselves, as when a terminal is closed,
    and must not end what the first one has begun.
    """
    first: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        first.append(number)
        if number == signal.SIGINT:
            signal.signal(number, before[number])

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        # One that is ignored stays so, as SIGHUP under nohup; SIGINT is of background jobs.
        if number is None or (name != "SIGINT" and signal.getsignal(number) is signal.SIG_IGN):
            continue
        before[number] = signal.signal(number, note)
    try:
        yield lambda: first[0] if first else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _keep_freed_memory() -> None:
    """Keep Linux's allocator from giving a large array's memory back to the system at once.

    Every array would be given fresh pages, a fifth of a step's time. glibc keeps what is smaller
    than the largest block that was ever freed, if that was below 32 MB; so one is.
    """
    np.empty(31 << 20, dtype=np.uint8)


def _sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "the language reference"
    return str(value)
