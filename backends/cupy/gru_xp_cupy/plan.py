"""How the persistent kernel is laid out on a device and what a step takes, or that it does not fit.

A pure function of the device's properties and the sizes. All numbers that a time is made of stand
in `Costs` and `StepCosts`.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import mul
from typing import NamedTuple

THREADS = 256
"""Of a block; ``threads`` in ``persistent.cu`` says the same."""

COUNT_WORDS = 32
"""From one group's count of arrivals to the next; ``line`` in ``persistent.cu`` says the same."""

_WARPS = THREADS // 32
_COLUMNS = 8  # of a tile
_BLOCK_BYTES = 64  # of a block of terms
_LANE_BYTES = 16
_KIB = 1 << 10
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
_TENSOR = {"float16": "half", "bfloat16": "bfloat16", "float32": "float"}
_TENSOR_CORES = 80  # compute capability from which these have the instructions that are used
_FEWER_ROWS = 100  # from which tiles of more rows would have registers spilled
_TENSOR_ROWS = 16
# Times 16 rows, times 8 columns: what the registers hold without spilling.
_TENSOR_TILES = dict.fromkeys(
    ("float16", "bfloat16"), ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (4, 1), (4, 2))
) | {"float32": ((1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (4, 1), (4, 2))}
_INDEX_LIMIT = 2**31 - 1  # of a weight's index
_SCALAR_ROWS = (1, 2, 4, 8)


class Device(NamedTuple):
    """What the plan needs to know of a device."""

    multiprocessors: int
    shared_bytes: int
    """Shared memory that a block can have at most."""
    compute_capability: int
    """Such as 90."""
    cooperative: bool = True
    """Whether it can launch blocks that wait for one another."""


class Costs(NamedTuple):
    """What a step is made of, each on one multiprocessor: microseconds, or how many there are."""

    base: float
    """A step of one row and few units: the barrier of the grid, sums and gates."""
    round: float
    """From one set of loads of the state to the next."""
    turns: float
    """KiB of sums that warps add to those of others, in turns."""
    loaded: float
    """KiB of the state, which all multiprocessors read."""
    resident: float
    """KiB of weights in shared memory."""
    streamed: float
    """KiB of weights that are read again."""
    sums: float
    """KiB of sums that warps leave, of tensor cores."""
    instructions: float
    """Thousands of the tensor cores' instructions, of 16 rows and 8 columns."""
    scalar_sums: float
    """KiB of sums that warps leave, of the ordinary processors."""
    multiply_adds: float
    """Millions of multiply-adds of the ordinary processors."""
    units: float
    """Rows and units of each thread: their gates, and what is loaded and stored for them."""


HOPPER = Costs(2.1, 0.85, 0.17, 0.002, 0.0015, 0.05, 0.023, 1.4, 0.46, 3.6, 0.45)
"""Fitted to what an H200 took; see ``RECORD.md``. For other devices nobody has measured them."""


class StepCosts(NamedTuple):
    """What a step of two launches takes, in microseconds."""

    host: float
    """In which the host has told the device to make a product and compute the gates."""
    base: float
    megabyte: float
    """Of weights, which are read again."""
    tensor_gigaflop: float
    scalar_gigaflop: float
    scalar_rows: int
    """What fewer rows take as long as, on the ordinary processors."""


HOPPER_STEPS = StepCosts(13.0, 5.0, 0.25, 2.5, 25.0, 64)
"""Fitted to what an H200 took beside its host."""

HOPPER_START_FORWARD, HOPPER_START_BACKWARD = 0.6, 2.3
"""Microseconds a megabyte of weights, which are put on the chip; the backward transposes them."""


class Plan(NamedTuple):
    """A launch of the persistent kernel."""

    tile: str
    """Type in ``tile.cuh``."""
    groups: int
    """Of blocks, each with rows of its own."""
    rows: int
    """Of a group."""
    units: int
    """Hidden units of a block."""
    blocks: int
    """Of all groups."""
    splits: int
    """Parts of the sums, computed by different warps."""
    slots: int
    """Sums that are kept apart until they are added; the splits of one slot take turns."""
    resident: int
    """Blocks of terms of each split that stay in shared memory."""
    streams: bool
    """Whether there are others, which are read again in each step."""
    early: int
    """Rows of a thread whose numbers are loaded a step ahead."""
    shared_bytes: int
    counts: Costs
    """Of what a step is made of."""

    @property
    def step(self) -> float:
        """Microseconds of a step, as `HOPPER` has it."""
        return float(sum(map(mul, self.counts, HOPPER)))


class _Tile(NamedTuple):
    name: str
    rows: int
    across: int
    ahead: int
    """Blocks of terms whose loads are under way at the same time."""
    tensor: bool
    early: int
    """Most rows that the registers hold beside the tile."""


def plan(
    rows: int, size: int, /, *, dtype: str, gates: int, tf32: bool, device: Device
) -> Plan | None:
    """Lay out the kernel so that a step takes the least time; None if it does not fit.

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
    found = plans(rows, size, dtype=dtype, gates=gates, tf32=tf32, device=device)
    return min(found, key=lambda each: each.step, default=None)


def plans(
    rows: int, size: int, /, *, dtype: str, gates: int, tf32: bool, device: Device
) -> Iterator[Plan]:
    """Lay out the kernel in every way that fits; arguments as of `plan`."""
    bytes_each = _BYTES.get(dtype, 0)
    if not device.cooperative or not bytes_each or not rows or not size:
        return
    if size * bytes_each % _LANE_BYTES or 3 * size**2 > _INDEX_LIMIT:
        return
    for tile in _tiles(dtype, tf32=tf32, device=device):
        of_groups = None
        for groups in range(1, min(-(-rows // tile.rows), device.multiprocessors) + 1):
            made = _lay_out(rows, size, groups, tile, bytes_each, gates, device)
            if made is not None and made.rows != of_groups:
                of_groups = made.rows
                yield made


def _tiles(dtype: str, *, tf32: bool, device: Device) -> Iterator[_Tile]:
    tensor = device.compute_capability >= _TENSOR_CORES
    if dtype == "float32" and not (tf32 and tensor):
        for rows in _SCALAR_ROWS:
            yield _Tile(f"Scalar<{rows}>", rows, 1, 8 // rows, False, 4)
    elif tensor:
        single = dtype == "float32"
        for down, across in _TENSOR_TILES[dtype]:
            if device.compute_capability >= _FEWER_ROWS and down > 1 + single:
                continue
            name = f"Tensor<{_TENSOR[dtype]},{down},{across}>"
            early = 2 if min(down, across) > 1 or (single and across > 2) else 4
            yield _Tile(name, _TENSOR_ROWS * down, across, 4 // down, True, early)


def _lay_out(
    rows: int, size: int, groups: int, tile: _Tile, bytes_each: int, gates: int, device: Device
) -> Plan | None:
    of_group = -(-rows // groups)
    groups = -(-rows // of_group)
    columns = _COLUMNS * tile.across
    units = -(-size // (device.multiprocessors // groups * columns)) * columns
    if units > THREADS:
        return None
    row_tiles, unit_tiles = -(-of_group // tile.rows), units // columns
    of_thread = -(-of_group // (THREADS // units))
    early = min(1 << (of_thread - 1).bit_length(), tile.early)
    splits = 1
    while splits * 2 * row_tiles * unit_tiles <= _WARPS:
        splits *= 2
    terms = 3 * size // gates
    blocks = -(-terms * bytes_each // _BLOCK_BYTES)
    whole = -(-blocks // splits)
    # Sums that take turns cost less than weights that are read again.
    slots, resident = splits, 0
    while slots:
        sums = 4 * of_group * (units + slots * _row_sums(gates * units))
        left = device.shared_bytes - sums
        resident = min(whole, (left // (gates * units * _BLOCK_BYTES) - 1) // splits)
        if resident == whole or slots == 1:
            break
        slots //= 2
    if resident < 1:
        return None
    if resident < whole and not tile.tensor and rows > 1:
        return None  # bound by the ordinary processors: cuBLAS is faster
    shared = gates * units * (splits * resident | 1) * _BLOCK_BYTES
    shared += sums
    made = Plan(
        tile.name,
        groups,
        of_group,
        units,
        groups * -(-size // units),
        splits,
        slots,
        resident,
        resident < whole,
        early,
        shared,
        HOPPER,
    )
    return made._replace(counts=_counts(made, tile, size, gates, bytes_each))


def _row_sums(columns: int) -> int:
    """Numbers from one row's sums to the next, as ``divide`` in ``persistent.cu`` has it."""
    return columns + (8 - columns) % 16


def _counts(made: Plan, tile: _Tile, size: int, gates: int, bytes_each: int) -> Costs:
    """Count what a step is made of."""
    terms = 3 * size // gates
    columns = gates * made.units
    row_tiles = -(-made.rows // tile.rows)
    unit_tiles = made.units // (_COLUMNS * tile.across)
    passes = -(-row_tiles * unit_tiles * made.splits // _WARPS)
    blocks = -(-terms * bytes_each // _BLOCK_BYTES)
    kept = min(blocks, made.splits * made.resident)
    row_of_blocks = columns * _BLOCK_BYTES * row_tiles / _KIB
    sums = 4 * made.splits * made.rows * columns / _KIB
    instructions = 2 * blocks * -(-made.rows // _TENSOR_ROWS) * columns // _COLUMNS
    return Costs(
        base=1,
        round=passes * -(-kept // (2 * made.splits * tile.ahead)),
        turns=(made.splits // made.slots - 1) * 4 * made.rows * columns / _KIB,
        loaded=made.rows * terms * bytes_each * unit_tiles / _KIB,
        resident=kept * row_of_blocks,
        streamed=(blocks - kept) * row_of_blocks,
        sums=sums * tile.tensor,
        instructions=instructions * tile.tensor / 1e3,
        scalar_sums=sums * (not tile.tensor),
        multiply_adds=made.rows * columns * terms * (not tile.tensor) / 1e6,
        units=made.rows * made.units / THREADS,
    )


def start_of_one_launch(size: int, /, *, dtype: str, gates: int) -> float:
    """Return the microseconds by which the persistent kernel's launch takes longer to start."""
    megabytes = 3 * size**2 * _BYTES.get(dtype, 8) / 1e6
    return megabytes * (HOPPER_START_FORWARD if gates > 1 else HOPPER_START_BACKWARD)


def step_of_two_launches(
    rows: int, size: int, /, *, dtype: str, tf32: bool, device: Device
) -> float:
    """Return the microseconds of a step on the path of `gru_xp_cupy.steps`."""
    costs = HOPPER_STEPS
    bytes_each = _BYTES.get(dtype, 8)
    if dtype == "float32" and not (tf32 and device.compute_capability >= _TENSOR_CORES):
        flops = max(rows, costs.scalar_rows if rows > 1 else 1) * costs.scalar_gigaflop
    else:
        flops = rows * costs.tensor_gigaflop
    weights = 3 * size**2 * bytes_each / 1e6 * costs.megabyte
    return max(costs.host, costs.base + weights + 6 * size**2 / 1e9 * flops)
