"""The choice between the kernels on a device by the cost model, and a table that shows it.

The functions are pure functions of the device's properties, like those of ``plan.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gru_xp_cupy.plan import (
    Device,
    Plan,
    Problem,
    plan,
    start_of_one_launch,
    step_of_two_launches,
)

GATES = {"persistent_forward": 3, "persistent_backward": 1}
"""Kernels, and the number of gates whose products a block of the kernel sums separately."""

MANY = 1000
"""Number of steps for which the time of the start is negligible."""

_PRECISIONS = "float16", "tf32", "float32"
_SIZES = 256, 512, 1024, 2048, 4096
_ROWS = 1, 16, 64, 256

LEGEND = """\
one: all steps in one launch, with the weights on the chip; one*: part of the weights is read again
in each step
two: one product and one kernel per step
The numbers are microseconds per step of a long sequence; those in parentheses are for the other
path, or - if it does not fit. They come from a cost model fitted to an H200, and the faster path
is used. bfloat16 is like float16; float64 uses two."""


class Expected(NamedTuple):
    """Expected times of a call, in microseconds."""

    one_launch: float | None
    """Time of a step of the persistent kernel; None if it does not fit."""
    two_launches: float
    """Time of a step with two launches."""
    start: float
    """Additional time to start the persistent kernel."""

    def favours_one_launch(self, steps: int, /) -> bool:
        """Whether the persistent kernel is expected to be faster for this number of steps."""
        own, other = self.one_launch, self.two_launches
        return own is not None and self.start + steps * own < steps * other


def expected(layout: Plan | None, problem: Problem, device: Device, /) -> Expected:
    """Return the expected times of a call.

    `layout` is the plan of the persistent kernel, or None if the kernel does not fit.
    """
    copies = problem.gates == GATES["persistent_backward"]
    copies = copies or (layout is not None and layout.streams)
    return Expected(
        None if layout is None else layout.step,
        step_of_two_launches(problem, device),
        start_of_one_launch(problem, copies=copies),
    )


def table(device: Device, /) -> str:
    """Return a table of the expected times of both paths on a device, for many sizes."""
    return "\n".join([*_lines(device), LEGEND])


def _lines(device: Device) -> Iterator[str]:
    for function, gates in GATES.items():
        yield _line(function.removeprefix("persistent_"), *(f"N = {rows}" for rows in _ROWS))
        for precision in _PRECISIONS:
            name = precision.replace("tf", "TF")
            for size in _SIZES:
                yield _line(
                    f"{name}, H = {size}",
                    *(_cell(Problem(rows, size, precision, gates), device) for rows in _ROWS),
                )


def _cell(problem: Problem, device: Device) -> str:
    layout = plan(problem, device)
    times = expected(layout, problem, device)
    one, two = "-", f"two {times.two_launches:.3g}"
    if layout is not None:
        one = f"one{'*' if layout.streams else ''} {layout.step:.3g}"
    first, other = (one, two) if times.favours_one_launch(MANY) else (two, one)
    return f"{first} ({other})"


def _line(first: str, *cells: str) -> str:
    return (first.ljust(18) + "".join(cell.ljust(22) for cell in cells)).rstrip()
