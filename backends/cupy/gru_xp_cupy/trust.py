"""A small case on the user's device, before a kernel is trusted there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import cupy
import numpy as np

from gru_xp import backend, portable
from gru_xp.tape import Tape
from gru_xp_cupy.compiled import compiling

_STEPS, _HIDDEN = 4, 24
_MOST_ROWS = 16  # from which on the kernels are the same for all
_ROUNDINGS = 32  # of the dtype's, by which two orders of the sums may differ
_EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
_TF32 = 2.0**-10

_trusted: dict[tuple[str, str, int, int, bool], bool] = {}


def trusted(
    path: str,
    dtype: str,
    rows: int,
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    /,
    *,
    tf32: bool,
) -> bool:
    """Whether a path agrees with the portable loop on the current device; asked once a process.

    Parameters
    ----------
    path : str
        What a warning calls it.
    dtype : str
    rows : int
        N, by which a kernel may be chosen.
    forward, backward : callable
        As in `gru_xp_cupy.steps`.
    tf32 : bool
        Whether float32 products are rounded to TF32.
    """
    rows = min(1 << (rows - 1).bit_length(), _MOST_ROWS)
    key = (path, dtype, rows, cupy.cuda.Device().id, tf32)
    if key not in _trusted:
        try:
            with compiling(f"{dtype} ({path})"):
                error = _largest_error(dtype, rows, forward, backward)
        except Exception as failure:  # whatever it is, the portable loop still runs
            error, reason = float("nan"), f"{type(failure).__name__}: {failure}"
        else:
            reason = f"its results differ by {error:.1e}"
        limit = _ROUNDINGS * (_TF32 if tf32 and dtype == "float32" else _EPSILON[dtype])
        _trusted[key] = error <= limit  # False for NaN
        if not _trusted[key]:
            warnings.warn(
                f"gru_xp: CuPy's accelerator ({path}, {dtype}) failed its check on this device and "
                f"is not used: {reason}. The portable loop runs instead; please report this with "
                "the output of gru-xp info (GRU_XP_ACCELERATORS=0 silences it)",
                RuntimeWarning,
                stacklevel=2,
            )
    return _trusted[key]


def _largest_error(
    dtype: str, rows: int, forward: Callable[..., Any], backward: Callable[..., Any]
) -> float:
    """Largest difference from the portable loop, of results that are all of the order of 1."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return cupy.asarray(rng.uniform(-0.5, 0.5, shape)).astype(dtype)

    xp = backend.namespace("cupy")
    gx, h0 = draw(_STEPS, rows, 3 * _HIDDEN), draw(rows, _HIDDEN)
    weight_hh, b_hn = draw(3 * _HIDDEN, _HIDDEN), draw(_HIDDEN)
    dh, dh_last = draw(_STEPS, rows, _HIDDEN), draw(rows, _HIDDEN)
    lengths = cupy.asarray(np.arange(_STEPS, _STEPS - rows, -1) % (_STEPS + 1))
    errors = []
    for reverse in (False, True):
        options: dict[str, Any] = {"lengths": lengths, "reverse": reverse}
        h, tape = portable.forward(gx, h0, weight_hh, b_hn, **options, xp=xp)
        results = forward(gx, h0, weight_hh, b_hn, keep_tape=True, **options)
        if results is NotImplemented:
            raise RuntimeError("it declined the case of the check")
        own_h, own_tape = results
        assert tape is not None
        gradients = portable.backward(dh, dh_last, tape, weight_hh, **options, xp=xp)
        own = backward(dh, dh_last, Tape(*own_tape), weight_hh, **options)
        if own is NotImplemented:
            raise RuntimeError("it declined the case of the check")
        for wanted, got in zip((h, *gradients), (own_h, *own), strict=True):
            difference = cupy.abs(wanted.astype(np.float64) - got.astype(np.float64))
            errors.append(float(cupy.max(difference)))
    return float(np.max(errors))  # NaN if one is
