"""The accelerator's functions, as `gru_xp.accelerator_api` defines them."""

from __future__ import annotations

import os
import warnings
from typing import Any

from gru_xp.accelerator_api import Array, Loop, Tape

try:
    import gru_xp_numpy._native as _native
except ImportError as error:
    raise ImportError(
        f"its C++ extension is not there ({error}), as where the package was installed without a "
        "compiler for it: install GCC or clang (on Windows clang-cl: Visual C++ alone has no "
        "vector types), then run pip install --force-reinstall --no-deps --no-cache-dir with "
        "what you gave pip before"
    ) from error


OPTIONS = frozenset({"lengths", "reverse"})
"""Of a `Loop`."""


def forward(
    gx: Array,
    h0: Array,
    weight_hh: Array,
    b_hn: Array | None,
    loop: Loop,
    /,
    *,
    keep_tape: bool,
) -> Any:
    """Run the loop over time forward; see `gru_xp.accelerator_api.Accelerator`."""
    result = _native.forward(gx, h0, weight_hh, b_hn, loop.lengths, loop.reverse, keep_tape)
    if result is NotImplemented:
        return NotImplemented
    h, tape = result
    return h, None if tape is None else Tape(*tape)


def backward(dh: Array, dh_last: Array | None, tape: Tape, weight_hh: Array, loop: Loop, /) -> Any:
    """Run the loop over time back; see `gru_xp.accelerator_api.Accelerator`."""
    return _native.backward(dh, dh_last, *tape, weight_hh, loop.lengths, loop.reverse)


def matmul(a: Array, b: Array, /, bias: Array | None = None) -> Any:
    """Multiply matrices; see `gru_xp.accelerator_api.OptionalFunctions`."""
    return _native.matmul(a, b, bias)


def step(
    x: Array,
    h: Array | None,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None = None,
    bias_hh: Array | None = None,
    reset_after: bool = True,
    /,
) -> Any:
    """Take a whole step of a cell; see `gru_xp.accelerator_api.OptionalFunctions`."""
    if not reset_after:
        return NotImplemented
    return _native.step(x, h, weight_ih, weight_hh, bias_ih, bias_hh)


def set_num_threads(count: int, /) -> None:
    """Set the upper bound on the threads of one call; 0 means the default again.

    A count far above that of the processors is lowered, with a warning.
    """
    _native.set_num_threads(count)
    if count > (most := get_num_threads()):
        warnings.warn(
            f"gru_xp: {count} threads were asked for, {most} are the most on this machine",
            RuntimeWarning,
            stacklevel=3,
        )


def get_num_threads() -> int:
    """Upper bound on the threads of one call."""
    return int(_native.num_threads())


def isa() -> str:
    """Name of the instruction set in use: "plain", "avx2" or "avx512"."""
    return str(_native.isa())


def describe() -> str:
    """Say what this is, for the list of backends."""
    return f"C++, {isa()}"


def measure_fma_peak(dtype: str, seconds: float = 0.2) -> float:
    """FLOP/s that one thread can do at most in multiply-adds, measured."""
    return float(_native.measure_fma_peak(dtype, seconds))


_MOST = (1 << 31) - 1  # that C++ takes


def _from_environment() -> None:
    text = os.environ.get("GRU_XP_NUM_THREADS")
    if text is None:
        return
    if text.strip().isdecimal() and int(text) > 0:
        set_num_threads(min(int(text), _MOST))
    else:
        warnings.warn(
            f"gru_xp: GRU_XP_NUM_THREADS={text!r} is ignored: expected a positive integer",
            RuntimeWarning,
            stacklevel=2,
        )


_from_environment()
