"""The layout of the persistent kernel on a device and the expected time of a step.

All functions are pure functions of the device's properties and the sizes. `Costs` and `StepCosts`
contain all constants of the cost model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import mul
from typing import Any, NamedTuple

THREADS = 256
"""Threads per block; must equal ``threads`` in ``share.cuh``."""

COUNT_WORDS = 32
"""Distance of the groups' arrival counters in words; must equal ``line`` in ``persistent.cu``."""

BLOCK_BYTES = 64
"""Bytes of a block of terms; must equal ``block_bytes`` in ``tile.cuh``."""

_WARPS = THREADS // 32
_COLUMNS = 8  # columns of a tile
_LANE_BYTES = 16
_KIB = 1 << 10
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
_TENSOR = {"float16": "half", "bfloat16": "bfloat16", "float32": "float"}
_TENSOR_CORES = 80  # compute capability from which tensor cores have the required instructions
# From the first compute capability on, tiles with more rows would spill registers, and with a wide
# tile a thread can compute fewer rows at once. For the others, the largest tile does not spill any.
_FEWER_ROWS, _HOPPER = 100, range(90, 100)
_TENSOR_ROWS = 16
# Tile sizes, in multiples of 16 rows and 8 columns, that fit into the registers without spilling.
_TENSOR_TILES = dict.fromkeys(
    ("float16", "bfloat16"), ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (4, 1), (4, 2))
) | {"float32": ((1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (4, 1), (4, 2))}
# 16-byte pieces of weights per thread that the registers hold in addition to a tile: of CUDA cores,
# of tensor cores of compute capability 9.x, and of other tensor cores.
_SCALAR_HELD, _HELD, _FEWER_HELD = 12, 18, 12
_INDEX_LIMIT = 2**31 - 1  # maximum index of a weight
_SCALAR_ROWS = (1, 2, 4, 8)


class Device(NamedTuple):
    """Properties of a device that a plan depends on."""

    multiprocessors: int
    shared_bytes: int
    """Maximum shared memory of a block."""
    compute_capability: int
    """Compute capability such as 90."""
    cooperative: bool = True
    """Whether it supports cooperative launches, in which blocks wait for each other."""


class Problem(NamedTuple):
    """The loop over time of a call, in one direction."""

    rows: int
    """N."""
    size: int
    """H."""
    precision: str
    """Name of the arrays' dtype, or "tf32" for float32 whose products may be rounded to TF32."""
    gates: int
    """Number of gates whose products a block sums separately: 3 forward, 1 backward."""

    @property
    def dtype(self) -> str:
        """Name of the arrays' dtype."""
        return "float32" if self.precision == "tf32" else self.precision

    @property
    def terms(self) -> int:
        """Number of terms of a sum."""
        return 3 * self.size // self.gates

    @property
    def blocks(self) -> int:
        """Number of blocks of terms of a sum."""
        return -(-self.terms * _BYTES[self.dtype] // BLOCK_BYTES)

    @property
    def megabytes(self) -> float:
        """Size of the weights."""
        return 3 * self.size**2 * _BYTES.get(self.dtype, 8) / 1e6

    def uses_tensor_cores(self, device: Device, /) -> bool:
        """Whether tensor cores compute the product, if the device has them for the dtype."""
        if self.precision == "tf32":
            return device.compute_capability >= _TENSOR_CORES
        return self.precision != "float32"


class Costs(NamedTuple):
    """Parts of a step on one multiprocessor: either their counts, or microseconds for each."""

    base: float
    """A step with one row and few units: the grid barrier, sums and gates."""
    round: float
    """A round of loads of the state."""
    turns: float
    """KiB of sums that warps add, one after another, to those of other warps."""
    loaded: float
    """KiB of the state, which all multiprocessors read."""
    resident: float
    """KiB of weights in shared memory."""
    streamed: float
    """KiB of weights that are read again in each step."""
    sums: float
    """KiB of sums that warps store, if computed by tensor cores."""
    instructions: float
    """Thousands of tensor-core instructions for 16 rows and 8 columns."""
    scalar_sums: float
    """KiB of sums that warps store, if computed by CUDA cores."""
    multiply_adds: float
    """Millions of multiply-adds of CUDA cores."""
    units: float
    """Rows times units per thread: their gates, loads and stores."""


HOPPER = Costs(2.1, 0.85, 0.17, 0.002, 0.0015, 0.05, 0.023, 1.4, 0.46, 3.6, 0.45)
"""Fitted to times on an H200; see ``RECORD.md``. Other devices have not been measured."""


class StepCosts(NamedTuple):
    """Costs of a step with two launches, in microseconds."""

    host: float
    """Time in which the host launches the product and the kernel for the gates."""
    base: float
    megabyte: float
    """Time per megabyte of weights, which are read in each step."""
    tensor_gigaflop: float
    scalar_gigaflop: float
    scalar_rows: int
    """Number of rows below which the time on CUDA cores does not decrease further."""
    tensor_backward: float
    """Time of a backward step, relative to a forward step, if tensor cores compute the product."""


HOPPER_STEPS = StepCosts(13.0, 5.0, 0.25, 2.5, 25.0, 64, 1.3)
"""Fitted to times on an H200 and its host."""

HOPPER_START, HOPPER_START_OF_COPY = 0.6, 2.3
"""Microseconds per megabyte of weights to load them onto the chip, without and with a copy."""


class Plan(NamedTuple):
    """A launch of the persistent kernel."""

    tile: str
    """Name of a type in ``tile.cuh``."""
    groups: int
    """Number of groups of blocks; each group has its own rows."""
    rows: int
    """Rows per group."""
    units: int
    """Hidden units per block."""
    blocks: int
    """Number of blocks of all groups."""
    splits: int
    """Number of parts of the sums, which different warps compute."""
    slots: int
    """Number of partial sums that are stored separately; splits that share a slot take turns to add
    to it."""
    resident: int
    """Blocks of terms per split that stay in shared memory."""
    held: int
    """16-byte pieces of weights per thread that stay in registers."""
    streams: bool
    """Whether some blocks of terms are not on the chip, so that each step reads them again."""
    early: int
    """Rows that a thread computes at once; inputs of the first ones are loaded one step ahead."""
    shared_bytes: int
    counts: Costs
    """Counts of the parts of a step."""

    @property
    def padded_rows(self) -> int:
        """Rows of the tiles of a group."""
        kind, _, numbers = self.tile.partition("<")
        tile = int(numbers.rstrip(">")) if kind == "Scalar" else 16 * int(numbers.split(",")[1])
        return -(-self.rows // tile) * tile

    @property
    def step(self) -> float:
        """Microseconds per step according to `HOPPER`."""
        return float(sum(map(mul, self.counts, HOPPER)))

    def has_layout(self, recorded: Sequence[Any], /) -> bool:
        """Whether this is a recorded layout, except for `early`, of which the model is independent.

        A layout is recorded as the fields up to `shared_bytes`.
        """
        own = self._replace(early=recorded[self._fields.index("early")])
        return own[:-1] == tuple(recorded)


class _Tile(NamedTuple):
    name: str
    rows: int
    across: int
    ahead: int
    """Blocks of terms that are being loaded at the same time."""
    tensor: bool
    early: int
    """Maximum of `Plan.early`: rows that the registers hold in addition to the tile."""
    held: int
    """Maximum of `Plan.held` if `Plan.early` is 1."""


def plan(problem: Problem, device: Device, /) -> Plan | None:
    """Return the plan with the least time per step; None if the kernel does not fit."""
    return min(plans(problem, device), key=lambda each: each.step, default=None)


def plans(problem: Problem, device: Device, /) -> Iterator[Plan]:
    """Yield every plan that fits."""
    rows, size, dtype = problem.rows, problem.size, problem.dtype
    if not device.cooperative or dtype not in _BYTES or not rows or not size:
        return
    if size * _BYTES[dtype] % _LANE_BYTES or 3 * size**2 > _INDEX_LIMIT:
        return
    for tile in _tiles(problem, device):
        most = min(-(-rows // tile.rows), device.multiprocessors)
        for of_group in sorted({-(-rows // groups) for groups in range(1, most + 1)}, reverse=True):
            for held in sorted({0, tile.held}):
                made = _lay_out(problem, of_group, tile, held, device)
                if made is not None:
                    yield made
                    if not made.streams:
                        break  # all weights are on the chip


def _tiles(problem: Problem, device: Device) -> Iterator[_Tile]:
    if not problem.uses_tensor_cores(device):
        for rows in _SCALAR_ROWS:
            held = _SCALAR_HELD * (rows == 1)
            yield _Tile(f"Scalar<{rows}>", rows, 1, 8 // rows, False, 4, held)
    elif device.compute_capability >= _TENSOR_CORES:
        dtype = problem.dtype
        single = dtype == "float32"
        hopper = device.compute_capability in _HOPPER
        for down, across in _TENSOR_TILES[dtype]:
            largest = (down, across) == _TENSOR_TILES[dtype][-1]
            fewer = device.compute_capability >= _FEWER_ROWS
            if fewer and down > 1 + single:
                continue
            if largest and not hopper:
                continue
            name = f"Tensor<{_TENSOR[dtype]},{down},{across}>"
            large = down > 2 or min(down, across) > 1 or ((single or fewer) and across > 2)
            early = 1 if largest else 2 if large else 4
            held = (_HELD if hopper else _FEWER_HELD) * (down == 1 and across <= 2)
            yield _Tile(name, _TENSOR_ROWS * down, across, 4 // down, True, early, held)


def _lay_out(
    problem: Problem, of_group: int, tile: _Tile, held: int, device: Device
) -> Plan | None:
    """Return the plan for groups of `of_group` rows; None if it does not fit."""
    size, gates, blocks = problem.size, problem.gates, problem.blocks
    groups = -(-problem.rows // of_group)
    columns = _COLUMNS * tile.across
    units = -(-size // (device.multiprocessors // groups * columns)) * columns
    if units > THREADS:
        return None
    row_tiles, unit_tiles = -(-of_group // tile.rows), units // columns
    of_thread = -(-of_group // (THREADS // units))
    early = 1 if held else min(1 << (of_thread - 1).bit_length(), tile.early)
    splits = 1
    while splits * 2 * row_tiles * unit_tiles <= _WARPS:
        splits *= 2
    whole = -(-blocks // splits)
    in_registers = held // (gates * tile.across)
    if held and (row_tiles * unit_tiles > _WARPS or in_registers > blocks // splits):
        return None  # a warp would have several parts, or a split fewer blocks than in_registers
    # Letting sums take turns costs less than reading weights again.
    slots, resident = splits, 0
    while slots:
        sums = 4 * of_group * (units + slots * _row_sums(gates * units))
        left = device.shared_bytes - sums
        fit = (left // (gates * units * BLOCK_BYTES) - 1) // splits
        resident = min(whole - in_registers, fit)
        if in_registers + resident == whole or slots == 1:
            break
        slots //= 2
    streams = in_registers + resident < whole
    if resident < 1:
        return None
    shared = gates * units * (splits * resident | 1) * BLOCK_BYTES
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
        held,
        streams,
        early,
        shared,
        HOPPER,
    )
    return made._replace(counts=_counts(made, tile, problem))


def _row_sums(columns: int) -> int:
    """Return the stride between rows of sums, in elements; must match ``divide`` in share.cuh."""
    return columns + (8 - columns) % 16


def _counts(made: Plan, tile: _Tile, problem: Problem) -> Costs:
    """Count the parts of a step."""
    gates, blocks = problem.gates, problem.blocks
    columns = gates * made.units
    row_tiles = -(-made.rows // tile.rows)
    unit_tiles = made.units // (_COLUMNS * tile.across)
    passes = -(-row_tiles * unit_tiles * made.splits // _WARPS)
    in_registers = made.splits * (made.held // (gates * tile.across))
    kept = min(blocks, in_registers + made.splits * made.resident)
    row_of_blocks = columns * BLOCK_BYTES * row_tiles / _KIB
    sums = 4 * made.splits * made.rows * columns / _KIB
    instructions = 2 * blocks * -(-made.rows // _TENSOR_ROWS) * columns // _COLUMNS
    return Costs(
        base=1,
        round=passes * -(-kept // (2 * made.splits * tile.ahead)),
        turns=(made.splits // made.slots - 1) * 4 * made.rows * columns / _KIB,
        loaded=loaded_rows(made.rows, tensor=tile.tensor)
        * blocks
        * BLOCK_BYTES
        * unit_tiles
        / _KIB,
        resident=(kept - in_registers) * row_of_blocks,
        streamed=(blocks - kept) * row_of_blocks,
        sums=sums * tile.tensor,
        instructions=instructions * tile.tensor / 1e3,
        scalar_sums=sums * (not tile.tensor),
        multiply_adds=made.rows * columns * problem.terms * (not tile.tensor) / 1e6,
        units=made.rows * made.units / THREADS,
    )


def loaded_rows(rows: int, /, *, tensor: bool) -> int:
    """Return the number of rows that a group of `rows` rows loads; tensor cores load pairs."""
    if not tensor:
        return rows
    whole, rest = divmod(rows, _TENSOR_ROWS)
    return whole * _TENSOR_ROWS + 2 * min(rest, _TENSOR_ROWS // 2)


def start_of_one_launch(problem: Problem, /, *, copies: bool) -> float:
    """Return the additional time to start the persistent kernel, in microseconds.

    `copies` tells whether the weights are first copied into another order.
    """
    return problem.megabytes * (HOPPER_START_OF_COPY if copies else HOPPER_START)


def step_of_two_launches(problem: Problem, device: Device, /) -> float:
    """Return the expected microseconds of a step in `gru_xp_cupy.steps`."""
    costs, rows = HOPPER_STEPS, problem.rows
    tensor = problem.uses_tensor_cores(device)
    if tensor:
        flops = rows * costs.tensor_gigaflop
    else:
        flops = max(rows, costs.scalar_rows if rows > 1 else 1) * costs.scalar_gigaflop
    product = problem.megabytes * costs.megabyte + 6 * problem.size**2 / 1e9 * flops
    step = max(costs.host, costs.base + product)
    return step * costs.tensor_backward if tensor and problem.gates == 1 else step
