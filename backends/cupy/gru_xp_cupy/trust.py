"""Checks of a kernel on the user's device, with a case of the call's size, before it is used."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import cupy
import numpy as np

from gru_xp.accelerator_api import Loop, Place, Tape, portable

_STEPS = 4
_ROUNDINGS = 32  # rounding errors of the dtype by which two orders of summation may differ
_EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
_TF32 = 2.0**-10


class Proof(NamedTuple):
    """The size of a case that checks the kernels of a path, and the kernels that it checks."""

    kernels: Hashable
    """Key of the kernels. Calls with the same key are checked only once."""
    rows: int
    hidden: int


_trusted: dict[tuple[str, str, Hashable, int], bool] = {}


def trusted(
    path: str,
    dtype: str,
    proof: Proof,
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    /,
    *,
    tf32: bool,
) -> bool:
    """Whether a path agrees with the portable loop on the current device.

    The result is cached for the lifetime of the process.

    Parameters
    ----------
    path : str
        Name of the path in warnings.
    dtype : str
        Name of the arrays' dtype.
    proof : Proof
        The case to run.
    forward, backward : callable
        The functions of the path, as in `gru_xp_cupy.steps`.
    tf32 : bool
        Whether float32 products are rounded to TF32.
    """
    key = (path, dtype, proof.kernels, cupy.cuda.Device().id)
    if key not in _trusted:
        try:
            error = _largest_error(dtype, proof.rows, proof.hidden, forward, backward)
        except NotImplementedError:
            raise  # a product in a stream that is being captured; the call would raise it as well
        except cupy.cuda.memory.OutOfMemoryError:
            return False  # not cached, since it says nothing about the kernels
        except Exception as failure:  # the portable loop can run after any failure
            error, reason = float("nan"), f"{type(failure).__name__}: {failure}"
        else:
            reason = f"its results differ by {error:.1e}"
        limit = _ROUNDINGS * (_TF32 if tf32 and dtype == "float32" else _EPSILON[dtype])
        _trusted[key] = error <= limit  # False for NaN
        if not _trusted[key]:
            warnings.warn(
                f"gru_xp: CuPy's accelerator ({path}, {dtype}) failed its check on this device and "
                f"is not used: {reason}. Slower code runs instead. Please report this with the "
                "output of gru-xp info. Set GRU_XP_ACCELERATORS=0 to silence this warning",
                RuntimeWarning,
                stacklevel=2,
            )
    return _trusted[key]


def _largest_error(
    dtype: str, rows: int, hidden: int, forward: Callable[..., Any], backward: Callable[..., Any]
) -> float:
    """Return the largest difference from the portable loop, relative to the largest value."""
    start = 0

    def draw(*shape: int, bound: float = 0.5) -> Any:
        """Draw pseudorandom numbers on the device, because large sizes need many."""
        nonlocal start
        count = math.prod(shape)
        x = cupy.arange(start, start + count, dtype=np.uint32)
        start += count
        for _ in range(2):  # a hash of the index, so that rows and columns are unrelated
            x = (x ^ (x >> np.uint32(16))) * np.uint32(0x45D9F3B)
        uniform = (x ^ (x >> np.uint32(16))).astype(np.float32) * np.float32(2.0**-32)
        return ((2 * bound) * uniform - bound).reshape(shape).astype(dtype)

    gx, h0 = draw(_STEPS, rows, 3 * hidden), draw(rows, hidden)
    weight_hh, b_hn = draw(3 * hidden, hidden, bound=hidden**-0.5), draw(hidden)
    dh, dh_last = draw(_STEPS, rows, hidden), draw(rows, hidden)
    lengths = cupy.asarray(np.arange(_STEPS, _STEPS - rows, -1) % (_STEPS + 1))
    place = Place("cupy", None, gx.dtype)  # None is the current device
    errors = []
    for reverse in (False, True):
        loop = Loop(lengths=lengths, reverse=reverse)
        arguments = (gx, h0, weight_hh, b_hn, loop)
        h, tape = portable.forward(*arguments, keep_tape=True, place=place)
        results = forward(*arguments, keep_tape=True)
        if results is NotImplemented:
            raise RuntimeError("it declined the call of the check")
        own_h, own_tape = results
        assert tape is not None
        gradients = portable.backward(dh, dh_last, tape, weight_hh, loop, place=place)
        own = backward(dh, dh_last, Tape(*own_tape), weight_hh, loop)
        if own is NotImplemented:
            raise RuntimeError("it declined the call of the check")
        for wanted, got in zip((h, *gradients), (own_h, *own), strict=True):
            exact = wanted.astype(np.float64)
            error = cupy.max(cupy.abs(exact - got.astype(np.float64)))
            errors.append(float(error / cupy.max(cupy.abs(exact))))
    return float(np.max(errors))  # NaN if one is
