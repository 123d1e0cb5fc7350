"""A lower bound of the time of a step on a GPU, from its bandwidths and arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gru_xp.bench.cases import Size

_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "tf32": 4, "float64": 8}

# Operations of dense products per clock and multiprocessor, where a multiplication and an addition
# count as one operation each. From NVIDIA's white papers on A100 (compute capability 8.0) and
# H100 (9.0).
_OPERATIONS = {
    "80": {"float32": 128, "tf32": 1024, "float16": 2048, "bfloat16": 2048, "float64": 128},
    "90": {"float32": 256, "tf32": 2048, "float16": 4096, "bfloat16": 4096, "float64": 256},
}
# Bytes from the L2 cache per clock and multiprocessor: for A100, NVIDIA's 5120 bytes per clock; for
# H100, 5500 GB/s measured on one with 132 multiprocessors at 1.98 GHz.
_L2_BYTES = {"80": 5120 / 108, "90": 5500 / (132 * 1.98)}


class Chip(NamedTuple):
    """Bounds of a GPU for one precision."""

    memory_bandwidth: float
    """Bytes per second."""
    l2_bandwidth: float
    """Bytes per second."""
    l2_bytes: int
    flops: float
    """Operations per second of dense products."""


def chip(attributes: Mapping[str, int], compute_capability: str, precision: str, /) -> Chip | None:
    """Return the bounds of a GPU at its highest clocks; None if they are not known.

    Parameters
    ----------
    attributes : mapping of str to int
        ``cupy.cuda.Device().attributes``, with clocks in kHz and the bus width in bits.
    compute_capability : str
        A compute capability such as "90".
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
    bandwidth = 2 * memory_clock * 1e3 * bus / 8  # two transfers per clock
    if not bandwidth or not clocks:  # CUDA 13 may report no clocks
        return None
    return Chip(bandwidth, _L2_BYTES[compute_capability] * clocks, l2_bytes, operations * clocks)


def step_seconds(size: Size, precision: str, chip: Chip, /) -> float:
    """Return a lower bound of a forward step that reads all of W_hh.

    cuDNN reads W_hh in every step, as does any implementation with one kernel per step. The bound
    is the maximum of three times: reading W_hh, 3H² numbers, from the L2 cache; reading the part of
    W_hh that does not fit into the L2 cache from memory; the 6NH² operations of the product. The
    input projection, launches and gates are not included. A kernel that keeps W_hh on the
    multiprocessors may be faster than the first two.

    Parameters
    ----------
    size : Size
        Size of the sequence.
    precision : str
        One of `gru_xp.bench.cases.PRECISIONS`.
    chip : Chip
        Bounds of the GPU for the same precision.

    Returns
    -------
    float
        Seconds per step.
    """
    weights = 3 * size.hidden**2 * _BYTES[precision]
    return max(
        weights / chip.l2_bandwidth,
        (weights - chip.l2_bytes) / chip.memory_bandwidth,
        6 * size.rows * size.hidden**2 / chip.flops,
    )
