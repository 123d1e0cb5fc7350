"""The recurrence with one launch for all steps; see ``kernels/persistent.cu``."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import cupy
import numpy as np

from gru_xp.tape import Tape
from gru_xp_cupy import compiled
from gru_xp_cupy.arrays import NULL, contiguous, initial_states, states_of, tape_arrays
from gru_xp_cupy.plan import THREADS, Device, Plan, plan

NAME = "persistent kernel"

_GATES = {"persistent_forward": 3, "persistent_backward": 1}
"""Gates whose products a kernel's block sums up apart."""


def forward(
    gx: Any,
    h0: Any,
    weight_hh: Any,
    b_hn: Any,
    /,
    *,
    lengths: Any,
    reverse: bool,
    keep_tape: bool,
) -> Any:
    """See `gru_xp.recurrence.forward`; NotImplemented where it does not fit on the device."""
    steps, rows, _ = gx.shape
    size = h0.shape[1]
    way = _plan(rows, size, gx.dtype.name, gates=_GATES["persistent_forward"])
    kernel = None if way is None else _ready("persistent_forward", way)
    if way is None or kernel is None:
        return NotImplemented
    states = initial_states(h0, steps, reverse=reverse)
    tape = tape_arrays(gx, size) if keep_tape else [NULL] * 4
    arguments = (
        *(contiguous(each) for each in (gx, weight_hh, b_hn)),
        states,
        *tape,
        contiguous(lengths, np.int64),
        cupy.zeros(1, np.uint32),
        *_integers(steps, rows, size, way.units, way.splits, reverse),
    )
    kernel((way.blocks,), (THREADS,), arguments, shared_mem=way.shared_bytes)
    return states_of(states, tape if keep_tape else None, reverse=reverse)


def backward(
    dh: Any,
    dh_last: Any,
    tape: Tape,
    weight_hh: Any,
    /,
    *,
    lengths: Any,
    reverse: bool,
) -> Any:
    """See `gru_xp.recurrence.backward`; NotImplemented where it does not fit on the device."""
    steps, rows, size = dh.shape
    way = _plan(rows, size, dh.dtype.name, gates=_GATES["persistent_backward"])
    kernel = None if way is None else _ready("persistent_backward", way)
    if way is None or kernel is None:
        return NotImplemented
    dgx = cupy.empty((steps, rows, 3 * size), dh.dtype)
    dgh_n = cupy.empty((steps, rows, size), dh.dtype)
    dh0 = cupy.empty((rows, size), dh.dtype)
    arguments = (
        *(contiguous(each) for each in (dh, dh_last, *tape, weight_hh)),
        dgx,
        dgh_n,
        dh0,
        contiguous(lengths, np.int64),
        cupy.zeros(1, np.uint32),
        *_integers(steps, rows, size, way.units, way.splits, reverse),
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
    way = _plan(rows, size, dtype, gates=_GATES[function])
    return way is not None and _ready(function, way) is not None


def _plan(rows: int, size: int, dtype: str, *, gates: int) -> Plan | None:
    device = _device(cupy.cuda.Device().id)
    return plan(rows, size, dtype=dtype, gates=gates, tf32=rounds_to_tf32(), device=device)


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


def _ready(function: str, way: Plan) -> Any:
    """Return the kernel, None if the driver says that not all blocks can run at once."""
    number = cupy.cuda.Device().id
    kernel = compiled.persistent(function, way.tile, number)
    if kernel.max_dynamic_shared_size_bytes < way.shared_bytes:
        kernel.max_dynamic_shared_size_bytes = way.shared_bytes
    at_once = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(
        kernel.kernel.ptr, THREADS, way.shared_bytes
    )
    return kernel if at_once * _device(number).multiprocessors >= way.blocks else None


def _integers(*values: int) -> tuple[np.int32, ...]:
    return tuple(np.int32(value) for value in values)
