"""The recurrence with one launch for all steps; see ``kernels/persistent.cu``."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import cupy
import numpy as np

from gru_xp.accelerator_api import Loop, Tape
from gru_xp_cupy import compiled
from gru_xp_cupy.arrays import NULL, contiguous, initial_states, states_of, tape_arrays
from gru_xp_cupy.plan import THREADS, Device, Plan, plan

NAME = "persistent kernel"

_GATES = {"persistent_forward": 3, "persistent_backward": 1}
"""Gates whose products a kernel's block sums up apart."""


def forward(gx: Any, h0: Any, weight_hh: Any, b_hn: Any, loop: Loop, /, *, keep_tape: bool) -> Any:
    """See `gru_xp.accelerator_api`; NotImplemented where it does not fit on the device."""
    steps, rows, _ = gx.shape
    size = h0.shape[1]
    launch = _launch("persistent_forward", rows, size, gx.dtype.name)
    if launch is None:
        return NotImplemented
    way, kernel = launch
    states = initial_states(h0, steps, reverse=loop.reverse)
    tape = tape_arrays(gx, size) if keep_tape else [NULL] * 4
    arguments = (
        *(contiguous(each) for each in (gx, weight_hh, b_hn)),
        states,
        *tape,
        contiguous(loop.lengths, np.int64),
        cupy.zeros(1, np.uint32),
        *_integers(steps, rows, size, way.units, way.splits, loop.reverse),
    )
    kernel((way.blocks,), (THREADS,), arguments, shared_mem=way.shared_bytes)
    return states_of(states, tape if keep_tape else None, reverse=loop.reverse)


def backward(dh: Any, dh_last: Any, tape: Tape, weight_hh: Any, loop: Loop, /) -> Any:
    """See `gru_xp.accelerator_api`; NotImplemented where it does not fit on the device."""
    steps, rows, size = dh.shape
    launch = _launch("persistent_backward", rows, size, dh.dtype.name)
    if launch is None:
        return NotImplemented
    way, kernel = launch
    dgx = cupy.empty((steps, rows, 3 * size), dh.dtype)
    dgh_n = cupy.empty((steps, rows, size), dh.dtype)
    dh0 = cupy.empty((rows, size), dh.dtype)
    arguments = (
        *(contiguous(each) for each in (dh, dh_last, *tape, weight_hh)),
        dgx,
        dgh_n,
        dh0,
        contiguous(loop.lengths, np.int64),
        cupy.zeros(1, np.uint32),
        *_integers(steps, rows, size, way.units, way.splits, loop.reverse),
    )
    kernel((way.blocks,), (THREADS,), arguments, shared_mem=way.shared_bytes)
    return dgx, dgh_n, dh0


def sizes_to_check(rows: int, dtype: str, /) -> tuple[tuple[int, int], ...]:
    """N and H of the cases that prove the kernels which a call of so many rows takes.

    A small one, for the tile by the number of rows; and one of several tiles of rows, and of two
    tiles of units a block, if that fits on the device.
    """
    at_once = min(1 << (rows - 1).bit_length(), 16)
    return _sizes_to_check(at_once, dtype, rounds_to_tf32(), cupy.cuda.Device().id)


@cache
def _sizes_to_check(
    rows: int, dtype: str, tf32: bool, device: int, /
) -> tuple[tuple[int, int], ...]:
    return tuple(
        size
        for size in ((rows, 24), (17, 8 * (_device(device).multiprocessors + 1)))
        if all(fits(function, *size, dtype) for function in _GATES)
    )


def fits(function: str, rows: int, size: int, dtype: str, /) -> bool:
    """Whether a kernel, "persistent_forward" or "persistent_backward", fits on the device."""
    return _launch(function, rows, size, dtype) is not None


def _launch(function: str, rows: int, size: int, dtype: str) -> tuple[Plan, Any] | None:
    """Plan and kernel; None where it does not fit, or not all blocks can run at once."""
    number = cupy.cuda.Device().id
    device, gates = _device(number), _GATES[function]
    way = plan(rows, size, dtype=dtype, gates=gates, tf32=rounds_to_tf32(), device=device)
    if way is None:
        return None
    kernel = compiled.persistent(function, way.tile, number)
    if kernel.max_dynamic_shared_size_bytes < way.shared_bytes:
        kernel.max_dynamic_shared_size_bytes = way.shared_bytes
    at_once = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(
        kernel.kernel.ptr, THREADS, way.shared_bytes
    )
    return (way, kernel) if at_once * device.multiprocessors >= way.blocks else None


@cache
def _device(number: int) -> Device:
    device = cupy.cuda.Device(number)
    attributes = device.attributes
    return Device(
        attributes["MultiProcessorCount"],
        attributes["MaxSharedMemoryPerBlockOptin"],
        int(device.compute_capability),
        bool(attributes["CooperativeLaunch"]),
    )


def rounds_to_tf32() -> bool:
    """Whether CuPy's own float32 products do: the variable CUPY_TF32, or `set_compute_type`."""
    try:  # CuPy has no public name for what is in force
        core = cupy._core
        in_force = core.get_compute_type(np.float32)
        return bool(in_force == core._routines_linalg.COMPUTE_TYPE_TF32)
    except AttributeError:
        return os.environ.get("CUPY_TF32") == "1"


def _integers(*values: int) -> tuple[np.int32, ...]:
    return tuple(np.int32(value) for value in values)
