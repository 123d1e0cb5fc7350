"""Sizes and cases, their weights and inputs, and the job of a measuring process."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from gru_xp.core.parameters import shapes

HostArray = np.ndarray[Any, Any]


class Size(NamedTuple):
    """Time steps T, rows N, input features I, hidden units H."""

    steps: int
    rows: int
    inputs: int
    hidden: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


SIZES = (
    Size(100, 1, 64, 64),
    Size(100, 1, 256, 256),
    Size(100, 8, 64, 64),
    Size(100, 32, 128, 256),
    Size(50, 64, 512, 1024),
    Size(20, 128, 1024, 2048),
)
CELLS = (16, 64, 256, 512)
STREAMS = (16, 64)
THREADS = (1, 2)

GPU_SIZES = tuple(
    Size(512, rows, hidden, hidden)
    for hidden in (256, 512, 1024, 2048, 4096)
    for rows in (1, 16, 64, 256)
)

RANDOM = Size(300, 200, 800, 1300), Size(4, 1, 1, 8)
"""Upper and lower bounds of the sizes that `random_sizes` draws."""


def random_sizes(count: int, seed: int) -> tuple[Size, ...]:
    """Draw distinct sizes; the logarithm of each length is uniform."""
    rng = np.random.default_rng(seed)
    most, least = (np.log(bound) for bound in RANDOM)
    drawn: dict[Size, None] = {}
    while len(drawn) < count:
        drawn[Size(*map(int, np.rint(np.exp(rng.uniform(least, most)))))] = None
    return tuple(drawn)


CPU_PRECISIONS = ("float32", "float64")
PRECISIONS = ("float32", "tf32", "float16", "bfloat16", "float64")
"""Precisions of the products. "tf32" means float32 arrays, which products may round to 11 bits."""


def dtype_of(precision: str, /) -> str:
    """Return the name of the arrays' dtype for a precision."""
    return "float32" if precision == "tf32" else precision


class Kind(NamedTuple):
    """A kind of case."""

    subject: str
    """Format of the description, with the letters of a size in braces."""
    training: bool
    """Whether there is a backward."""
    method: str
    """Name of the contestant's method that prepares the case."""


_SEQUENCE, _CELL, _ONE_STEP = "{T}x{N}x{I}x{H}", "cell of {H}", "GRU of {H}, T = 1"
_STREAM = "stream of {H}"

KINDS = {
    "forward": Kind(_SEQUENCE, False, "forward"),
    "training": Kind(_SEQUENCE, True, "training"),
    "step": Kind(_CELL, False, "step"),
    "step training": Kind(_CELL, True, "step_training"),
    "single training": Kind(_ONE_STEP, True, "training"),
    "stream": Kind(_STREAM, False, "streams"),
}
"""Kinds for sequences, for single steps, and for streams, which are measured separately."""


class Case(NamedTuple):
    """A computation that is measured, on a sequence or a single step."""

    kind: str
    size: Size
    layers: int = 1

    def __str__(self) -> str:
        what = KINDS[self.kind]
        if what.subject == _SEQUENCE or what.training:
            return f"{self.subject} {'training' if what.training else 'forward'}"
        return self.subject

    @property
    def subject(self) -> str:
        """Description of the sequence (by its size), the cell, the one-step GRU or the stream."""
        letters = dict(zip("TNIH", self.size, strict=True))
        name = KINDS[self.kind].subject.format(**letters)
        return name if self.layers == 1 else f"{name}, {self.layers} layers"

    @property
    def training(self) -> bool:
        """Whether there is a backward."""
        return KINDS[self.kind].training

    @property
    def flops(self) -> int:
        """Number of floating-point operations of the matrix products only."""
        steps, rows, inputs, hidden = self.size
        of_all_inputs = inputs + (self.layers - 1) * hidden
        forward = 2 * steps * rows * 3 * hidden * (of_all_inputs + self.layers * hidden)
        # For each product of the forward, the backward has two: for the input and for the weight.
        return 3 * forward if self.training else forward


def cases(sizes: tuple[Size, ...], cells: tuple[int, ...]) -> list[Case]:
    """Return all cases for the sizes, and those of single steps, with I = H."""
    of_sequences = [kind for kind, each in KINDS.items() if each.subject == _SEQUENCE]
    of_steps = [kind for kind, each in KINDS.items() if each.subject in (_CELL, _ONE_STEP)]
    return [Case(kind, size) for size in sizes for kind in of_sequences] + [
        Case(kind, Size(1, 1, hidden, hidden)) for hidden in cells for kind in of_steps
    ]


def stream_cases(cells: tuple[int, ...]) -> list[Case]:
    """Return streams of one layer for each number of units, and of two layers for the largest."""
    layers = [(hidden, 1) for hidden in cells] + [(max(cells), 2)]
    return [Case("stream", Size(1, 1, hidden, hidden), count) for hidden, count in layers]


class Work(NamedTuple):
    """Weights, inputs, and the gradient of all outputs, on the host."""

    size: Size
    layers: tuple[dict[str, HostArray], ...]
    """Weights of each layer, by the names of a cell."""
    x: HostArray
    h0: HostArray
    """Initial state of one layer."""
    dy: HostArray

    @property
    def of_cell(self) -> dict[str, HostArray]:
        """The first layer's weights by the names of a cell."""
        return self.layers[0]

    @property
    def of_gru(self) -> dict[str, HostArray]:
        """All weights by the names of a GRU."""
        return {
            f"{name}_l{layer}": array
            for layer, weights in enumerate(self.layers)
            for name, array in weights.items()
        }


def work(size: Size, dtype: str, layers: int = 1) -> Work:
    """Draw the same numbers for all contestants, in float32 if the dtype is smaller."""
    rng = np.random.default_rng(1406)
    steps, rows, inputs, hidden = size

    def uniform(shape: tuple[int, ...], bound: float) -> HostArray:
        # In place, because the allocator would keep the memory of a large temporary array, which
        # would distort the peak memory.
        array: HostArray = rng.random(shape, np.float64 if dtype == "float64" else np.float32)
        array *= 2 * bound
        array -= bound
        return array

    bound = 1 / math.sqrt(hidden)
    return Work(
        size,
        tuple(
            {name: uniform(shape, bound) for name, shape in shapes(width, hidden).items()}
            for width in (inputs, *[hidden] * (layers - 1))
        ),
        x=uniform((steps, rows, inputs), 2),
        h0=uniform((rows, hidden), 1),
        dy=uniform((steps, rows, hidden), 1),
    )


@dataclass(frozen=True)
class Job:
    """The job of one measuring process, which is passed to it as JSON."""

    sizes: tuple[Size, ...]
    cells: tuple[int, ...]
    threads: int
    peers: tuple[str, ...]
    peers_asked: bool
    """Whether the peers were requested by name, so that a failing peer is an error."""
    backend: str
    precision: str
    repeats: int | None
    """Number of rounds of each case, or of steps of a stream. None chooses it by the time of a
    call."""
    memory_of: str | None = None
    """Contestant whose peak memory is measured at the first size. None means to measure times."""
    stream: bool = False
    """Whether the cells are streams, each of whose steps is timed."""

    @property
    def dtype(self) -> str:
        """Name of the arrays' dtype."""
        return dtype_of(self.precision)

    def to_json(self) -> str:
        """Return the job as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Create a job from the result of `to_json`."""
        fields = json.loads(text)
        fields["sizes"] = tuple(Size(*size) for size in fields["sizes"])
        fields["cells"] = tuple(fields["cells"])
        fields["peers"] = tuple(fields["peers"])
        return cls(**fields)
