"""Which way a call takes on a device by the cost model, and a table that tells it.

Pure functions of the device's properties, as those of ``plan.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gru_xp_cupy.plan import Device, Plan, plan, start_of_one_launch, step_of_two_launches

GATES = {"persistent_forward": 3, "persistent_backward": 1}
"""Kernels, and the gates whose products a block of theirs sums up apart."""

MANY = 1000
"""Steps of a sequence in which the start no longer counts."""

_PRECISIONS = {
    "float16": ("float16", False),
    "TF32": ("float32", True),
    "float32": ("float32", False),
}
_SIZES = 256, 512, 1024, 2048, 4096
_ROWS = 1, 16, 64, 256

LEGEND = """\
one: all steps in one launch, the weights on the chip; one*: a part of them is read again each step
two: a product and a kernel each step
The number is microseconds a step of a long sequence, in brackets those of the other way, or -
where that does not fit. They are the cost model's, fitted to an H200; the way with the smaller one
is taken. bfloat16 is as float16; float64 takes two."""


class Expected(NamedTuple):
    """What a call is expected to take, in microseconds."""

    one_launch: float | None
    """A step of the persistent kernel; None where it does not fit."""
    two_launches: float
    """A step of the other path."""
    start: float
    """By which the persistent kernel's launch takes longer to start."""

    def favours_one_launch(self, steps: int, /) -> bool:
        """Whether the persistent kernel is expected to be faster for so many steps."""
        own, other = self.one_launch, self.two_launches
        return own is not None and self.start + steps * own < steps * other


def expected(
    way: Plan | None, rows: int, size: int, /, *, dtype: str, gates: int, tf32: bool, device: Device
) -> Expected:
    """Return the times of a call whose launch is laid out in some way, None if in none."""
    return Expected(
        None if way is None else way.step,
        step_of_two_launches(rows, size, dtype=dtype, tf32=tf32, device=device),
        start_of_one_launch(size, dtype=dtype, gates=gates),
    )


def table(device: Device, /) -> str:
    """Tell for many sizes which way a long sequence takes on a device, and what either takes."""
    return "\n".join([*_lines(device), LEGEND])


def _lines(device: Device) -> Iterator[str]:
    for function, gates in GATES.items():
        yield _line(function.removeprefix("persistent_"), *(f"N = {rows}" for rows in _ROWS))
        for name, (dtype, tf32) in _PRECISIONS.items():
            for size in _SIZES:
                yield _line(
                    f"{name}, H = {size}",
                    *(
                        _cell(rows, size, dtype=dtype, gates=gates, tf32=tf32, device=device)
                        for rows in _ROWS
                    ),
                )


def _cell(rows: int, size: int, /, *, dtype: str, gates: int, tf32: bool, device: Device) -> str:
    way = plan(rows, size, dtype=dtype, gates=gates, tf32=tf32, device=device)
    times = expected(way, rows, size, dtype=dtype, gates=gates, tf32=tf32, device=device)
    one, two = "-", f"two {times.two_launches:.3g}"
    if way is not None:
        one = f"one{'*' if way.streams else ''} {way.step:.3g}"
    first, other = (one, two) if times.favours_one_launch(MANY) else (two, one)
    return f"{first} ({other})"


def _line(first: str, *cells: str) -> str:
    return (first.ljust(18) + "".join(cell.ljust(22) for cell in cells)).rstrip()
