"""The accelerator's functions, as `gru_xp.recurrence` and `gru_xp.accelerators` define them."""

from __future__ import annotations

import os
import warnings
from typing import Any

from gru_xp.tape import Tape
from gru_xp.typing import Array

try:
    import gru_xp_numpy._native as _native
except ImportError as error:
    raise ImportError(
        f"its C++ extension is not there ({error}), as where the package was installed without a "
        "compiler for it: install GCC (Clang is not supported yet), then run pip install "
        "--force-reinstall --no-deps --no-cache-dir with what you gave pip before"
    ) from error


def forward(
    gx: Array,
    h0: Array,
    weight_hh: Array,
    b_hn: Array | None,
    /,
    *,
    lengths: Array | None = None,
    reverse: bool = False,
    keep_tape: bool = True,
    reset_after: bool = True,
) -> Any:
    """Run the loop over time forward; see `gru_xp.recurrence.forward`."""
    if not reset_after:
        return NotImplemented
    result = _native.forward(gx, h0, weight_hh, b_hn, lengths, reverse, keep_tape)
    if result is NotImplemented:
        return NotImplemented
    h, tape = result
    return h, None if tape is None else Tape(*tape)


def backward(
    dh: Array,
    dh_last: Array | None,
    tape: Tape,
    weight_hh: Array,
    /,
    *,
    lengths: Array | None = None,
    reverse: bool = False,
    reset_after: bool = True,
) -> Any:
    """Run the loop over time back; see `gru_xp.recurrence.backward`."""
    if not reset_after:
        return NotImplemented
    return _native.backward(dh, dh_last, *tape, weight_hh, lengths, reverse)


def matmul(a: Array, b: Array, /, bias: Array | None = None) -> Any:
    """Return ``a @ b``, plus `bias` for every row; see `gru_xp.products.matmul`."""
    return _native.matmul(a, b, bias)


step = _native.step
"""A whole step of a cell in eval; see `gru_xp.accelerators.quick_step`."""


def set_num_threads(count: int, /) -> None:
    """Set the upper bound on the threads of one call; 0 means the default again."""
    _native.set_num_threads(count)


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


def _from_environment() -> None:
    text = os.environ.get("GRU_XP_NUM_THREADS")
    if text is None:
        return
    if text.strip().isdecimal() and int(text) > 0:
        set_num_threads(min(int(text), 1 << 16))
    else:
        warnings.warn(
            f"gru_xp: GRU_XP_NUM_THREADS={text!r} is ignored: expected a positive integer",
            RuntimeWarning,
            stacklevel=2,
        )


_from_environment()
