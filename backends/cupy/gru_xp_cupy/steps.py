"""The recurrence with two launches a step: CuPy's product, and a kernel for the gates."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from gru_xp.accelerator_api import Loop, Tape, portable
from gru_xp_cupy import compiled
from gru_xp_cupy.arrays import NULL, contiguous, initial_states, states_of, tape_arrays
from gru_xp_cupy.sources import NUMBERS

NAME = "a kernel a step"

_THREADS = 256


def sizes_to_check(rows: int, dtype: str, /) -> tuple[tuple[int, int], ...]:
    """N and H of the cases that prove these kernels; they are the same for all sizes."""
    return ((5, 24),)


def forward(
    gx: Any, h0: Any, weight_hh: Any, b_hn: Any, loop: Loop, /, *, keep_tape: bool
) -> tuple[Any, Tape | None]:
    """See `gru_xp.accelerator_api.Accelerator`; T and N are at least 1."""
    steps, rows, _ = gx.shape
    size = h0.shape[1]
    gx, b_hn, lengths = contiguous(gx), contiguous(b_hn), contiguous(loop.lengths, np.int64)
    kernel = compiled.gates("forward_gates", NUMBERS[gx.dtype.name])
    states = initial_states(h0, steps, reverse=loop.reverse)
    tape = tape_arrays(gx, size) if keep_tape else [NULL] * 4
    gh = cupy.empty((rows, 3 * size), gx.dtype)
    for t in portable.times(steps, loop.reverse):
        h, h_next = (states[t + 1], states[t]) if loop.reverse else (states[t], states[t + 1])
        cupy.matmul(h, weight_hh.T, out=gh)
        arguments = (gx, gh, b_hn, h, h_next, *tape, lengths, t, rows, size)
        kernel((_blocks(rows, size),), (_THREADS,), arguments)
    return states_of(states, tape if keep_tape else None, reverse=loop.reverse)


def backward(
    dh: Any, dh_last: Any, tape: Tape, weight_hh: Any, loop: Loop, /
) -> tuple[Any, Any, Any]:
    """See `gru_xp.accelerator_api.Accelerator`; T and N are at least 1."""
    steps, rows, size = dh.shape
    dtype = dh.dtype
    dh, lengths = contiguous(dh), contiguous(loop.lengths, np.int64)
    kept = [contiguous(each) for each in tape]
    kernel = compiled.gates("backward_gates", NUMBERS[dtype.name])
    computed = np.dtype(np.float64 if dtype.name == "float64" else np.float32)
    if dh_last is None:
        carried = cupy.zeros((rows, size), computed)
    else:
        carried = dh_last.astype(computed, order="C", copy=True)
    dgx = cupy.empty((steps, rows, 3 * size), dtype)
    dgh_n = cupy.empty((steps, rows, size), dtype)
    product, dh0 = (cupy.empty((rows, size), dtype) for _ in range(2))
    dgh = cupy.empty((rows, 3 * size), dtype)
    behind = -1
    for t in (*portable.times(steps, not loop.reverse), -1):
        arguments = (dh, *kept, dgx, dgh_n, lengths, carried, product, dgh, dh0)
        kernel((_blocks(rows, size),), (_THREADS,), (*arguments, behind, t, rows, size))
        if t >= 0:
            cupy.matmul(dgh, weight_hh, out=product)
        behind = t
    return dgx, dgh_n, dh0


def _blocks(rows: int, size: int) -> int:
    return -(-rows * size // _THREADS)
