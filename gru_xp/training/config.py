"""The configuration of a training run, which together with the text determines its result."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self

from gru_xp.arrays import dtypes, libraries

LIMIT = 10**6
"""Maximum of each size and of the number of steps."""

SEED_LIMIT = 1 << 128


@dataclass(frozen=True)
class TrainingConfig:
    """Options of a training run. The same configuration and text give the same result.

    Attributes
    ----------
    hidden_size : int
        Number of hidden units of each layer of the GRU.
    layers : int
        Number of layers of the GRU.
    dropout : float
        Probability of setting an output of a layer to zero in training.
    steps : int
        Number of updates of the weights.
    batch_size, seq_len : int
        Number of streams that a step reads, and number of characters that it reads from each.
    learning_rate : float
        Initial learning rate of the schedule, which ends at zero.
    seed : int
        Seed of the initial weights, the dropout masks and the samples.
    backend : str
        Name of the array library, never "auto".
    dtype : str
        Dtype of the weights and of the arithmetic: "float32", "float64", "float16" or "bfloat16".
        With a 16-bit dtype, the loss, Adam's running means and the master weights are float32, and
        with float16 the loss is scaled (see `gru_xp.training.loss_scale`).
    texts : tuple of str
        Paths of the training files. An empty tuple means Python's language reference.
    text_sha256 : str
        SHA-256 hash of the text, by which a resumed run checks that the text is unchanged.
    """

    hidden_size: int = 256
    layers: int = 1
    dropout: float = 0.0
    steps: int = 2300
    batch_size: int = 32
    seq_len: int = 32
    learning_rate: float = 1.2e-2
    seed: int = 0
    backend: str = "numpy"
    dtype: str = "float32"
    texts: tuple[str, ...] = ()
    text_sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-compatible values."""
        return {**asdict(self), "texts": list(self.texts)}

    @classmethod
    def from_json(cls, fields: Any, /) -> Self:
        """Create a configuration from the result of `to_json`; raise ValueError if invalid."""
        kinds = {name: type(value) for name, value in cls().to_json().items()}
        if not isinstance(fields, dict) or kinds != {name: type(fields[name]) for name in fields}:
            raise ValueError("its configuration has unexpected fields or types of fields")
        for name, allowed in _ALLOWED.items():
            if not allowed(fields[name]):
                raise ValueError(f"its configuration has an invalid {name.replace('_', ' ')}")
        return cls(**{**fields, "texts": tuple(fields["texts"])})


def _is_size(value: int) -> bool:
    return 1 <= value <= LIMIT


_ALLOWED: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("hidden_size", "layers", "steps", "batch_size", "seq_len"), _is_size),
    "dropout": lambda value: 0 <= value < 1,
    "learning_rate": lambda value: 0 < value < math.inf,
    "seed": lambda value: 0 <= value < SEED_LIMIT,
    "backend": lambda value: value in libraries.NAMESPACES,
    "dtype": lambda value: value in dtypes.NAMES,
    "texts": lambda value: all(isinstance(each, str) and "\0" not in each for each in value),
}
