"""How the persistent kernel is laid out on a device, or that it does not fit there."""

from __future__ import annotations

from typing import NamedTuple

THREADS = 256
"""Of a block; ``__launch_bounds__`` in ``persistent.cu`` says the same."""

_WARPS = THREADS // 32
_COLUMNS = 8  # of a tile
_BLOCK_BYTES = 64  # of a block of terms
_LANE_BYTES = 16
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
_TENSOR = {"float16": "Tensor<half>", "bfloat16": "Tensor<bfloat16>", "float32": "Tensor<float>"}
_TENSOR_CORES = 80  # compute capability from which these have the instructions that are used


class Device(NamedTuple):
    """What the plan needs to know of a device."""

    multiprocessors: int
    shared_bytes: int
    """Shared memory that a block can have at most."""
    compute_capability: int
    """Such as 90."""
    cooperative: bool = True
    """Whether it can launch blocks that wait for one another."""


class Plan(NamedTuple):
    """A launch of the persistent kernel."""

    tile: str
    """Type in ``tile.cuh``."""
    units: int
    """Hidden units of a block."""
    blocks: int
    splits: int
    """Parts of the sums, computed by different warps."""
    shared_bytes: int


class _Tile(NamedTuple):
    name: str
    rows: int
    across: int


def plan(
    rows: int, size: int, /, *, dtype: str, gates: int, tf32: bool, device: Device
) -> Plan | None:
    """Lay out the kernel; None if it does not fit.

    Parameters
    ----------
    rows, size : int
        N and H.
    dtype : str
        Name of the arrays' dtype.
    gates : int
        Gates whose products a block sums up apart: 3 forward, 1 backward.
    tf32 : bool
        Whether float32 products may be rounded to TF32.
    device : Device
    """
    tile = _tile(rows, dtype, tf32=tf32, device=device)
    bytes_each = _BYTES.get(dtype, 0)
    if tile is None or not rows or not size or size * bytes_each % _LANE_BYTES:
        return None
    if not device.cooperative:
        return None
    units = -(-size // (device.multiprocessors * _COLUMNS)) * _COLUMNS
    tiles = -(-rows // tile.rows) * -(-units // (tile.across * _COLUMNS))
    splits = max(1, _WARPS // tiles)
    while splits:
        shared = _shared_bytes(rows, size, units, splits, gates, bytes_each)
        if shared <= device.shared_bytes:
            return Plan(tile.name, units, -(-size // units), splits, shared)
        splits //= 2
    return None


def _tile(rows: int, dtype: str, *, tf32: bool, device: Device) -> _Tile | None:
    if dtype == "float32" and not (tf32 and device.compute_capability >= _TENSOR_CORES):
        at_once = next((count for count in (1, 2, 4, 8) if rows <= count), 16)
        return _Tile(f"Scalar<{at_once}>", at_once, 1)
    if dtype in _TENSOR and device.compute_capability >= _TENSOR_CORES:
        return _Tile(_TENSOR[dtype], 16, 2)
    return None


def _shared_bytes(
    rows: int, size: int, units: int, splits: int, gates: int, bytes_each: int
) -> int:
    """Bytes that ``divide`` in ``persistent.cu`` divides."""
    blocks = -(-size * bytes_each // _BLOCK_BYTES) * (3 // gates)
    weights = gates * units * (blocks | 1) * _BLOCK_BYTES
    sums = 4 * splits * rows * gates * units
    return weights + sums + 4 * rows * units
