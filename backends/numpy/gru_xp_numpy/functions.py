"""The accelerator's functions, as `gru_xp.accelerator_api` defines them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

from gru_xp.accelerator_api import Array, Form, GRUParams, Loop, Tape

try:
    import gru_xp_numpy._native as _native
except ImportError as error:
    raise ImportError(
        f"its C++ extension is missing ({error}), probably because no suitable compiler was found "
        "during installation. Install GCC or clang (on Windows clang-cl, because Visual C++ has no "
        "vector types), then run pip install --force-reinstall --no-deps --no-cache-dir with the "
        "same arguments as before"
    ) from error


OPTIONS = frozenset({"lengths", "reverse", "reset_after"})
"""Options of a `Loop` that the accelerator supports."""


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
    result = _native.forward(
        gx, h0, weight_hh, b_hn, loop.lengths, loop.reverse, loop.reset_after, keep_tape
    )
    if result is NotImplemented:
        return NotImplemented
    states, gates = result
    if loop.reverse:
        h, h_prev = states[:-1], states[1:]
    else:
        h, h_prev = states[1:], states[:-1]
    return h, None if gates is None else Tape(h_prev, *gates)


def backward(dh: Array, dh_last: Array | None, tape: Tape, weight_hh: Array, loop: Loop, /) -> Any:
    """Run the loop over time backward; see `gru_xp.accelerator_api.Accelerator`."""
    return _native.backward(
        dh, dh_last, *tape, weight_hh, loop.lengths, loop.reverse, loop.reset_after
    )


def matmul(a: Array, b: Array, /, bias: Array | None = None) -> Any:
    """Multiply matrices; see `gru_xp.accelerator_api.OptionalFunctions`."""
    return _native.matmul(a, b, bias)


step = _native.step
"""A step of a cell in evaluation mode; see `gru_xp.accelerator_api.OptionalFunctions`."""


def sequence(
    x: Array, h0: Array | None, params: Sequence[GRUParams], loop: Loop, form: Form, /
) -> Any:
    """Run a whole GRU in evaluation mode; see `gru_xp.accelerator_api.OptionalFunctions`."""
    if loop.lengths is not None or loop.reverse:
        return NotImplemented
    return _native.sequence(
        x, h0, tuple(params), loop.reset_after, form.batch_first, form.bidirectional
    )


def stream(params: Sequence[GRUParams], loop: Loop, form: Form, /) -> Any:
    """Create a stream; see `gru_xp.accelerator_api.OptionalFunctions`."""
    return _native.stream(tuple(params), loop.reset_after, form.batch_first)


def set_num_threads(count: int, /) -> None:
    """Set the maximum number of threads of one call; 0 restores the default.

    A count far above the number of processors is reduced, with a warning.
    """
    _native.set_num_threads(count)
    if count > (most := get_num_threads()):
        warnings.warn(
            f"gru_xp: {count} threads were requested, the maximum on this machine is {most}",
            RuntimeWarning,
            stacklevel=3,
        )


def get_num_threads() -> int:
    """Return the maximum number of threads of one call."""
    return int(_native.num_threads())


def isa() -> str:
    """Return the name of the instruction set in use: "plain", "avx2" or "avx512".

    It is the best one that the processor supports, unless the environment variable ``GRU_XP_ISA``
    selects another.
    """
    return str(_native.isa())


def describe() -> str:
    """Describe the accelerator, for the list of backends."""
    return f"C++, {isa()}"


def measure_fma_peak(dtype: str, seconds: float = 0.2) -> float:
    """Measure the peak FLOP/s of multiply-adds on one thread."""
    return float(_native.measure_fma_peak(dtype, seconds))


_MOST = (1 << 31) - 1  # maximum of an int in C++


def _from_environment() -> None:
    name = os.environ.get("GRU_XP_ISA")
    if name is not None and not _native.set_isa(name):
        warnings.warn(
            f"gru_xp: GRU_XP_ISA={name!r} is ignored: expected plain, avx2 or avx512, as far as "
            f"this processor supports it. {isa()} is used",
            RuntimeWarning,
            stacklevel=2,
        )
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
