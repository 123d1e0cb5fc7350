"""A lower bound of the time of a step on a GPU, from what the GPU can move and compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gru_xp.bench.cases import Size

_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "tf32": 4, "float64": 8}

# Of dense products, an operation each for a multiplication and an addition, per clock and
# multiprocessor: NVIDIA's papers on A100 (compute capability 8.0) and H100 (9.0).
_OPERATIONS = {
    "80": {"float32": 128, "tf32": 1024, "float16": 2048, "bfloat16": 2048, "float64": 128},
    "90": {"float32": 256, "tf32": 2048, "float16": 4096, "bfloat16": 4096, "float64": 256},
}
# Bytes from the L2 cache per clock and multiprocessor: NVIDIA's 5120 a clock of A100, and 5500 GB/s
# as measured on an H100 of 132 multiprocessors at 1.98 GHz.
_L2_BYTES = {"80": 5120 / 108, "90": 5500 / (132 * 1.98)}


class Chip(NamedTuple):
    """What bounds a GPU, in one precision."""

    memory_bandwidth: float
    """Bytes a second."""
    l2_bandwidth: float
    """Bytes a second."""
    l2_bytes: int
    flops: float
    """Operations a second of dense products."""


def chip(attributes: Mapping[str, int], compute_capability: str, precision: str, /) -> Chip | None:
    """Derive the bounds of a GPU at its highest clocks; None where too little is known of it.

    Parameters
    ----------
    attributes : mapping of str to int
        As ``cupy.cuda.Device().attributes``: clocks in kHz, the bus in bits.
    compute_capability : str
        Such as "90".
    precision : str
        One of `gru_xp.bench.cases.PRECISIONS`.
    """
    try:
        memory_clock, bus = attributes["MemoryClockRate"], attributes["GlobalMemoryBusWidth"]
        clocks = attributes["ClockRate"] * 1e3 * attributes["MultiProcessorCount"]
        l2_bytes = attributes["L2CacheSize"]
        operations = _OPERATIONS[compute_capability][precision]
    except KeyError:
        return None
    bandwidth = 2 * memory_clock * 1e3 * bus / 8  # two transfers a clock
    if not bandwidth or not clocks:  # CUDA 13 may tell no clocks
        return None
    return Chip(bandwidth, _L2_BYTES[compute_capability] * clocks, l2_bytes, operations * clocks)


def step_seconds(size: Size, precision: str, chip: Chip, /) -> float:
    """Bound from below a forward step that reads all of W_hh, as cuDNN and a kernel a step do.

    The largest of: W_hh, 3H² numbers, from the L2 cache; what of it the L2 cache cannot keep from
    step to step, from memory; the 6NH² operations of its product. The input projection, launches
    and gates come on top. A kernel that keeps W_hh on the multiprocessors may go below the first
    two.

    Parameters
    ----------
    size : Size
    precision : str
        One of `gru_xp.bench.cases.PRECISIONS`.
    chip : Chip
        In the same precision.
    """
    weights = 3 * size.hidden**2 * _BYTES[precision]
    return max(
        weights / chip.l2_bandwidth,
        (weights - chip.l2_bytes) / chip.memory_bandwidth,
        6 * size.rows * size.hidden**2 / chip.flops,
    )
