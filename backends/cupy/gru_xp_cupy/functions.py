"""The accelerator's functions, as `gru_xp.accelerator_api` defines them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from gru_xp.accelerator_api import Loop, Tape
from gru_xp_cupy import blas, persistent, steps
from gru_xp_cupy.choices import GATES, MANY, table
from gru_xp_cupy.sources import NUMBERS
from gru_xp_cupy.trust import trusted

OPTIONS = frozenset({"lengths", "reverse"})
"""Options of a `Loop` that the accelerator supports."""

RECORDED = frozenset({90})
"""Compute capabilities of devices on which the persistent kernel has run; see ``RECORD.md``."""

_FROM_START = {"0": False, "1": True}.get(os.environ.get("GRU_XP_PERSISTENT_KERNEL", ""))
_persistent: ContextVar[bool | None] = ContextVar("gru_xp_persistent_kernel", default=None)


@contextmanager
def use_persistent_kernel(enabled: bool | None = True) -> Iterator[None]:
    """Context manager that switches the persistent kernel on or off within a ``with`` block.

    The kernel runs all steps in one launch and keeps the recurrent weights on the chip as far as
    they fit. It is used only if the cost model in ``plan.py`` expects it to be faster than two
    launches per step, and only after its results have agreed with those of the portable loop. By
    default, it is on for devices with a compute capability on which it has run, 9.0 (an H200). On
    other devices it is off, because it is experimental there: an error in it could hang the device.
    The environment variable ``GRU_XP_PERSISTENT_KERNEL``, 1 or 0, switches it on or off for the
    whole process. The context manager affects the current thread or asyncio task only.

    Parameters
    ----------
    enabled : bool or None
        Whether the kernel is used. None restores the default, which depends on the environment
        variable and the device.
    """
    token = _persistent.set(None if enabled is None else bool(enabled))
    try:
        yield
    finally:
        _persistent.reset(token)


def forward(gx: Any, h0: Any, weight_hh: Any, b_hn: Any, loop: Loop, /, *, keep_tape: bool) -> Any:
    """Run the loop over time forward; see `gru_xp.accelerator_api.Accelerator`."""
    for path in _paths("persistent_forward", weight_hh, gx, h0, b_hn):
        result = path.forward(gx, h0, weight_hh, b_hn, loop, keep_tape=keep_tape)
        if result is not NotImplemented:
            return result
    return NotImplemented


def backward(dh: Any, dh_last: Any, tape: Tape, weight_hh: Any, loop: Loop, /) -> Any:
    """Run the loop over time backward; see `gru_xp.accelerator_api.Accelerator`."""
    for path in _paths("persistent_backward", weight_hh, dh, dh_last, *tape):
        result = path.backward(dh, dh_last, tape, weight_hh, loop)
        if result is not NotImplemented:
            return result
    return NotImplemented


def persistent_kernel_runs(rows: int, hidden: int, dtype: str, /, *, training: bool) -> bool:
    """Whether the persistent kernel, if switched on, would run a call on the current device.

    The answer is for a call with many steps. For few steps, two launches per step may be faster.

    Parameters
    ----------
    rows, hidden : int
        N and H.
    dtype : str
        Name of the arrays' dtype.
    training : bool
        Whether the kernel must run the backward too.
    """
    functions = tuple(GATES)[: 1 + training]
    if dtype not in NUMBERS:
        return False
    faster = all(persistent.is_faster(each, MANY, rows, hidden, dtype) for each in functions)
    return faster and _is_trusted(persistent, rows, hidden, dtype)


def expected_step(rows: int, hidden: int, dtype: str, /) -> dict[str, float]:
    """Return the expected microseconds of a step, "forward" and "backward".

    They are predicted by the cost model in ``plan.py``, for the path of a call on the current
    device. The result is empty if no kernel supports the dtype.
    """
    if dtype not in NUMBERS:
        return {}
    times = {}
    for function in GATES:
        one_launch, step, _ = persistent.expected(function, rows, hidden, dtype)
        if _uses_persistent() and one_launch is not None:
            step = min(step, one_launch)
        times[function.removeprefix("persistent_")] = step
    return times


def describe() -> str:
    """Describe the accelerator, for the list of backends."""
    if not _uses_persistent():
        return "CUDA, a kernel a step"
    tested = persistent.current_device().compute_capability in RECORDED
    return "CUDA, persistent kernel" + ("" if tested else ": experimental")


def explain() -> str:
    """Explain which kernels run calls of many sizes on the current device, and why."""
    of_all = table(persistent.current_device())
    if _uses_persistent():
        return of_all
    return (
        "All calls take two launches per step, because the persistent kernel is off. With "
        f"GRU_XP_PERSISTENT_KERNEL=1:\n{of_all}"
    )


def _uses_persistent() -> bool:
    for asked in (_persistent.get(), _FROM_START):
        if asked is not None:
            return asked
    return persistent.current_device().compute_capability in RECORDED


def _paths(function: str, weight_hh: Any, sequence: Any, /, *others: Any) -> Iterator[ModuleType]:
    """Yield the modules that can run a call, the fastest first."""
    dtype, rows, hidden = sequence.dtype.name, sequence.shape[1], weight_hh.shape[1]
    if dtype not in NUMBERS or 0 in sequence.shape:
        return
    # The kernels assume that every array has the dtype of the first one.
    if any(each is not None and each.dtype != sequence.dtype for each in (weight_hh, *others)):
        return
    paths = [steps]
    if _uses_persistent() and persistent.is_faster(
        function, sequence.shape[0], rows, hidden, dtype
    ):
        paths = [persistent, steps]
    for path in paths:
        if _is_trusted(path, rows, hidden, dtype):
            yield path


def _is_trusted(path: ModuleType, rows: int, hidden: int, dtype: str) -> bool:
    proof = path.proof(rows, hidden, dtype)
    tf32 = blas.rounds_to_tf32()
    return proof is not None and trusted(
        path.NAME, dtype, proof, path.forward, path.backward, tf32=tf32
    )
