"""The accelerator's functions, as `gru_xp.accelerator_api` defines them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from gru_xp.accelerator_api import Loop, Tape
from gru_xp_cupy import persistent, steps
from gru_xp_cupy.sources import NUMBERS
from gru_xp_cupy.trust import trusted

OPTIONS = frozenset({"lengths", "reverse"})
"""Of a `Loop`."""

_persistent: ContextVar[bool] = ContextVar(
    "gru_xp_persistent_kernel", default=os.environ.get("GRU_XP_PERSISTENT_KERNEL", "0") == "1"
)


@contextmanager
def use_persistent_kernel(enabled: bool = True) -> Iterator[None]:
    """Switch the persistent kernel on or off within a ``with`` block; it is off by default.

    It runs all steps in one launch, with the recurrent weights on the chip. It is experimental: no
    GPU has run it yet, and if it is wrong it may hang the device. It is used where it fits, and
    only after its results have agreed with the portable loop's in a small case. The environment
    variable ``GRU_XP_PERSISTENT_KERNEL=1`` switches it on from the start. The switch belongs to
    the current thread or task.
    """
    token = _persistent.set(bool(enabled))
    try:
        yield
    finally:
        _persistent.reset(token)


def forward(gx: Any, h0: Any, weight_hh: Any, b_hn: Any, loop: Loop, /, *, keep_tape: bool) -> Any:
    """Run the loop over time forward; see `gru_xp.accelerator_api.Accelerator`."""
    for path in _paths(gx, h0, weight_hh, b_hn):
        result = path.forward(gx, h0, weight_hh, b_hn, loop, keep_tape=keep_tape)
        if result is not NotImplemented:
            return result
    return NotImplemented


def backward(dh: Any, dh_last: Any, tape: Tape, weight_hh: Any, loop: Loop, /) -> Any:
    """Run the loop over time back; see `gru_xp.accelerator_api.Accelerator`."""
    for path in _paths(dh, dh_last, *tape, weight_hh):
        result = path.backward(dh, dh_last, tape, weight_hh, loop)
        if result is not NotImplemented:
            return result
    return NotImplemented


def persistent_kernel_runs(rows: int, hidden: int, dtype: str, /, *, training: bool) -> bool:
    """Whether the persistent kernel, switched on, would run such a call on the current device.

    Parameters
    ----------
    rows, hidden : int
        N and H.
    dtype : str
        Name of the arrays' dtype.
    training : bool
        Whether the backward counts too.
    """
    functions = ("persistent_forward", "persistent_backward")[: 1 + training]
    fits = dtype in NUMBERS and all(persistent.fits(f, rows, hidden, dtype) for f in functions)
    return fits and _is_trusted(persistent, rows, dtype)


def describe() -> str:
    """Say what this is, for the list of backends."""
    return "CUDA" + (", persistent kernel: experimental" if _persistent.get() else "")


def _paths(array: Any, /, *others: Any) -> Iterator[ModuleType]:
    """Ways to run a call, the fastest first."""
    dtype, rows = array.dtype.name, array.shape[1]
    if dtype not in NUMBERS or 0 in array.shape:
        return
    # The kernels take every array to be of the first one's dtype.
    if any(other is not None and other.dtype != array.dtype for other in others):
        return
    for path in (persistent, steps) if _persistent.get() else (steps,):
        if _is_trusted(path, rows, dtype):
            yield path


def _is_trusted(path: ModuleType, rows: int, dtype: str) -> bool:
    sizes = path.sizes_to_check(rows, dtype)
    tf32 = persistent.rounds_to_tf32()
    return bool(sizes) and trusted(path.NAME, dtype, sizes, path.forward, path.backward, tf32=tf32)
