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
        f"its C++ extension is not there ({error}), as where the package was installed without a "
        "compiler for it: install GCC or clang (on Windows clang-cl: Visual C++ alone has no "
        "vector types), then run pip install --force-reinstall --no-deps --no-cache-dir with "
        "what you gave pip before"
    ) from error


OPTIONS = frozenset({"lengths", "reverse", "reset_after"})
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
    """Run the loop over time back; see `gru_xp.accelerator_api.Accelerator`."""
    return _native.backward(
        dh, dh_last, *tape, weight_hh, loop.lengths, loop.reverse, loop.reset_after
    )


def matmul(a: Array, b: Array, /, bias: Array | None = None) -> Any:
    """Multiply matrices; see `gru_xp.accelerator_api.OptionalFunctions`."""
    return _native.matmul(a, b, bias)


step = _native.step
"""A whole step of a cell in eval; see `gru_xp.accelerator_api.OptionalFunctions`."""


def sequence(
    x: Array, h0: Array | None, params: Sequence[GRUParams], loop: Loop, form: Form, /
) -> Any:
    """Run a whole GRU in eval; see `gru_xp.accelerator_api.OptionalFunctions`."""
    if loop.lengths is not None or loop.reverse:
        return NotImplemented
    return _native.sequence(
        x, h0, tuple(params), loop.reset_after, form.batch_first, form.bidirectional
    )


def stream(params: Sequence[GRUParams], loop: Loop, form: Form, /) -> Any:
    """Make a GRU that is fed step by step; see `gru_xp.accelerator_api.OptionalFunctions`."""
    return _native.stream(tuple(params), loop.reset_after, form.batch_first)


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
    """Name of the instruction set in use: "plain", "avx2" or "avx512".

    It is the best that the processor has, or the one that the environment variable ``GRU_XP_ISA``
    names.
    """
    return str(_native.isa())


def describe() -> str:
    """Say what this is, for the list of backends."""
    return f"C++, {isa()}"


def measure_fma_peak(dtype: str, seconds: float = 0.2) -> float:
    """FLOP/s that one thread can do at most in multiply-adds, measured."""
    return float(_native.measure_fma_peak(dtype, seconds))


_MOST = (1 << 31) - 1  # that C++ takes


def _from_environment() -> None:
    name = os.environ.get("GRU_XP_ISA")
    if name is not None and not _native.set_isa(name):
        warnings.warn(
            f"gru_xp: GRU_XP_ISA={name!r} is ignored: expected plain, avx2 or avx512, if this "
            f"processor has it; {isa()} is used",
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
