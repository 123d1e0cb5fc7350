"""The recurrence with one launch for all steps; see ``kernels/persistent.cu``."""

from __future__ import annotations

import warnings
from functools import cache, lru_cache
from typing import Any

import cupy
import numpy as np

from gru_xp.accelerator_api import Loop, Tape
from gru_xp_cupy import choices, compiled
from gru_xp_cupy.arrays import (
    NULL,
    aligned,
    contiguous,
    in_panels,
    initial_states,
    states_of,
    tape_arrays,
)
from gru_xp_cupy.blas import rounds_to_tf32
from gru_xp_cupy.choices import GATES, Expected
from gru_xp_cupy.plan import BLOCK_BYTES, COUNT_WORDS, THREADS, Device, Plan, Problem, plan
from gru_xp_cupy.trust import Proof

NAME = "persistent kernel"


def forward(gx: Any, h0: Any, weight_hh: Any, b_hn: Any, loop: Loop, /, *, keep_tape: bool) -> Any:
    """See `gru_xp.accelerator_api`; NotImplemented if the kernel does not fit on the device."""
    steps, rows, _ = gx.shape
    size = h0.shape[1]
    launch = _launch("persistent_forward", rows, size, gx.dtype.name)
    if launch is None:
        return NotImplemented
    states = initial_states(h0, steps, reverse=loop.reverse)
    tape = tape_arrays(gx, size) if keep_tape else [NULL] * 4
    weights = _weights(launch[0], weight_hh, GATES["persistent_forward"])
    arguments = (contiguous(gx), weights, contiguous(b_hn), states, *tape)
    _run(launch, arguments, loop, steps, rows, size, terms=size)
    return states_of(states, tape if keep_tape else None, reverse=loop.reverse)


def backward(dh: Any, dh_last: Any, tape: Tape, weight_hh: Any, loop: Loop, /) -> Any:
    """See `gru_xp.accelerator_api`; NotImplemented if the kernel does not fit on the device."""
    steps, rows, size = dh.shape
    launch = _launch("persistent_backward", rows, size, dh.dtype.name)
    if launch is None:
        return NotImplemented
    dgx, dgh_n, dh0 = (
        cupy.empty(shape, dh.dtype)
        for shape in ((steps, rows, 3 * size), (steps, rows, size), (rows, size))
    )
    weights = _weights(launch[0], weight_hh.T, GATES["persistent_backward"])
    read = (*(contiguous(each) for each in (dh, dh_last, *tape)), weights)
    _run(launch, (*read, dgx, dgh_n, dh0), loop, steps, rows, size, terms=3 * size)
    return dgx, dgh_n, dh0


def _weights(layout: Plan, weights: Any, gates: int) -> Any:
    """Return the rows of all gates as the kernel takes them."""
    if not layout.streams:
        return aligned(weights)
    return in_panels(weights, gates, layout.units, _block_terms(weights.dtype))


def _block_terms(dtype: Any) -> int:
    return BLOCK_BYTES // int(dtype.itemsize)


def _run(
    launch: tuple[Plan, Any],
    arrays: tuple[Any, ...],
    loop: Loop,
    steps: int,
    rows: int,
    size: int,
    *,
    terms: int,
) -> None:
    layout, kernel = launch
    dtype = arrays[0].dtype
    block = _block_terms(dtype)
    exchanged = 2 * layout.groups * layout.padded_rows * -(-terms // block) * block
    arguments = (
        *arrays,
        cupy.zeros(exchanged, dtype),
        contiguous(loop.lengths, np.int64),
        cupy.zeros(layout.groups * COUNT_WORDS, np.uint32),
        *_integers(steps, rows, size, layout.rows, layout.units, layout.splits, layout.slots),
        *_integers(layout.resident, loop.reverse),
    )
    kernel((layout.blocks,), (THREADS,), arguments, shared_mem=layout.shared_bytes)


def proof(rows: int, size: int, dtype: str, /) -> Proof | None:
    """Return the case that checks the kernels of a call; it is shared by calls with equal plans."""
    return _proof(rows, size, dtype, rounds_to_tf32(), cupy.cuda.Device().id)


@cache
def _proof(rows: int, size: int, dtype: str, tf32: bool, device: int) -> Proof | None:
    launches = [_launch(function, rows, size, dtype) for function in GATES]
    layouts = [layout[:-1] for layout, _ in filter(None, launches)]
    return Proof((tf32, *layouts), rows, size) if all(launches) else None


def is_faster(function: str, steps: int, rows: int, size: int, dtype: str, /) -> bool:
    """Whether a kernel fits on the device and should be faster than two launches per step.

    `function` is "persistent_forward" or "persistent_backward".
    """
    return expected(function, rows, size, dtype).favours_one_launch(steps)


def expected(function: str, rows: int, size: int, dtype: str, /) -> Expected:
    """Return the expected times of a call on the current device."""
    launch = _launch(function, rows, size, dtype)
    problem = _problem(function, rows, size, dtype)
    return choices.expected(launch and launch[0], problem, current_device())


def current_device() -> Device:
    """Return the properties of the current device that a plan depends on."""
    return _device(cupy.cuda.Device().id)


def _launch(function: str, rows: int, size: int, dtype: str) -> tuple[Plan, Any] | None:
    """Return plan and kernel; None if it does not fit or not all blocks can run at once."""
    problem = _problem(function, rows, size, dtype)
    return _launch_on(cupy.cuda.Device().id, function, problem)


def _problem(function: str, rows: int, size: int, dtype: str) -> Problem:
    precision = "tf32" if dtype == "float32" and rounds_to_tf32() else dtype
    return Problem(rows, size, precision, GATES[function])


@lru_cache(maxsize=1024)
def _launch_on(number: int, function: str, problem: Problem) -> tuple[Plan, Any] | None:
    device = _device(number)
    layout = plan(problem, device)
    if layout is None:
        return None
    try:
        macros = layout.tile, layout.early, layout.held, layout.streams
        kernel = compiled.persistent(function, *macros, number)
        # Set to the maximum, because plans share a kernel and several threads may run this code.
        kernel.max_dynamic_shared_size_bytes = device.shared_bytes
        at_once = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(
            kernel.kernel.ptr, THREADS, layout.shared_bytes
        )
    except Exception as failure:  # the kernel for single steps can run after any failure
        warnings.warn(
            f"gru_xp: CuPy's persistent kernel cannot be used ({layout.tile}): "
            f"{type(failure).__name__}: {failure}. One kernel per step runs instead. Please report "
            "this with the output of gru-xp info. Set GRU_XP_PERSISTENT_KERNEL=0 to silence this "
            "warning",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return (layout, kernel) if at_once * device.multiprocessors >= layout.blocks else None


@cache
def _device(number: int) -> Device:
    device = cupy.cuda.Device(number)
    attributes = device.attributes
    # Unknown attributes count as 0, in which case the kernel does not fit.
    return Device(
        attributes.get("MultiProcessorCount", 0),
        attributes.get("MaxSharedMemoryPerBlockOptin", 0),
        int(device.compute_capability),
        bool(attributes.get("CooperativeLaunch", 0)),
    )


def _integers(*values: int) -> tuple[np.int32, ...]:
    return tuple(np.int32(value) for value in values)
