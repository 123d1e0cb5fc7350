"""The recurrence with two launches per step: cuBLAS's product and a kernel for the gates.

A step with few rows takes only a few microseconds on a GPU, so the time on the host matters.
Everything possible is therefore prepared before the loop: pointers, strides and the kernel's
arguments.
"""

from __future__ import annotations

import ctypes
from typing import Any

import cupy
import numpy as np

from gru_xp.accelerator_api import Loop, Tape, portable
from gru_xp_cupy import arrays, blas, compiled
from gru_xp_cupy.arrays import NULL, contiguous, initial_states, states_of, tape_arrays
from gru_xp_cupy.sources import NUMBERS
from gru_xp_cupy.trust import Proof

NAME = "a kernel a step"

_THREADS = 256


def proof(rows: int, size: int, dtype: str, /) -> Proof:
    """Return the case that checks these kernels, which are the same for all sizes."""
    return Proof(blas.compute_type(dtype), 5, 24)


def forward(
    gx: Any, h0: Any, weight_hh: Any, b_hn: Any, loop: Loop, /, *, keep_tape: bool
) -> tuple[Any, Tape | None]:
    """See `gru_xp.accelerator_api.Accelerator`; T and N are at least 1."""
    steps, rows, _ = gx.shape
    size = h0.shape[1]
    gx, weight_hh, b_hn = (contiguous(each) for each in (gx, weight_hh, b_hn))
    lengths = contiguous(loop.lengths, np.int64)
    states = initial_states(h0, steps, reverse=loop.reverse)
    tape = tape_arrays(gx, size) if keep_tape else [NULL] * 4
    gh = cupy.empty((rows, 3 * size), gx.dtype)
    product = blas.Product(weight_hh, rows, gx.dtype.name, transposed=True)
    kernel = compiled.gates("forward_gates", NUMBERS[gx.dtype.name])
    launch = _Launch(kernel, (gx, gh, b_hn, states, *tape, lengths), rows, size, loop.reverse)
    first, bytes_each = arrays.address(states), h0.nbytes
    for t in portable.times(steps, loop.reverse):
        before = first + (t + 1 if loop.reverse else t) * bytes_each
        product(before, arrays.address(gh))
        launch(t)
    return states_of(states, tape if keep_tape else None, reverse=loop.reverse)


def backward(
    dh: Any, dh_last: Any, tape: Tape, weight_hh: Any, loop: Loop, /
) -> tuple[Any, Any, Any]:
    """See `gru_xp.accelerator_api.Accelerator`; T and N are at least 1."""
    steps, rows, size = dh.shape
    dtype = dh.dtype
    dh, weight_hh = contiguous(dh), contiguous(weight_hh)
    lengths = contiguous(loop.lengths, np.int64)
    kept = [contiguous(each) for each in tape]
    computed = np.dtype(np.float64 if dtype.name == "float64" else np.float32)
    if dh_last is None:
        carried = cupy.zeros((rows, size), computed)
    else:
        carried = dh_last.astype(computed, order="C", copy=True)
    dgx = cupy.empty((steps, rows, 3 * size), dtype)
    dgh_n = cupy.empty((steps, rows, size), dtype)
    dh_prev, dh0 = (cupy.empty((rows, size), dtype) for _ in range(2))
    dgh = cupy.empty((rows, 3 * size), dtype)
    product = blas.Product(weight_hh, rows, dtype.name, transposed=False)
    kernel = compiled.gates("backward_gates", NUMBERS[dtype.name])
    arguments = (dh, *kept, dgx, dgh_n, lengths, carried, dh_prev, dgh, dh0)
    launch = _Launch(kernel, arguments, rows, size, -1)
    for t in (*portable.times(steps, not loop.reverse), -1):
        launch(t)  # its last argument is the previous step of this loop, whose product is ready
        if t >= 0:
            product(arrays.address(dgh), arrays.address(dh_prev))
        launch.last = t
    return dgx, dgh_n, dh0


class _Launch:
    """Launches of a kernel, one per step, whose arguments differ in at most two numbers.

    The kernel takes the arrays, followed by t, rows, size and one further number.
    """

    def __init__(
        self, kernel: Any, arguments: tuple[Any, ...], rows: int, size: int, last: int
    ) -> None:
        self._kept = arguments  # their memory must outlive the launches
        values = [ctypes.c_void_p(arrays.address(each)) for each in arguments]
        numbers = [ctypes.c_int64(int(each)) for each in (0, rows, size, last)]
        self._t, self._last = numbers[0], numbers[-1]
        self._values = (*values, *numbers)
        pointers = [ctypes.addressof(each) for each in self._values]
        self._pointers = (ctypes.c_void_p * len(pointers))(*pointers)
        self._kernel = kernel.kernel.ptr
        threads = min(_THREADS, -(-size // 32) * 32)
        self._grid = (rows, -(-size // threads), 1, threads, 1, 1, 0)
        self._stream = cupy.cuda.get_current_stream().ptr

    @property
    def last(self) -> int:
        """The number after the sizes."""
        return int(self._last.value)

    @last.setter
    def last(self, value: int) -> None:
        self._last.value = value

    def __call__(self, t: int, /) -> None:
        """Launch the kernel for a step."""
        self._t.value = t
        cupy.cuda.driver.launchKernel(
            self._kernel, *self._grid, self._stream, ctypes.addressof(self._pointers), 0
        )
