"""The configuration of a training run: what decides, with the text, which weights it reaches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self

from gru_xp.arrays import dtypes, libraries

LIMIT = 10**6
"""Of each size, and of the number of steps."""

SEED_LIMIT = 1 << 128


@dataclass(frozen=True)
class TrainingConfig:
    """Options of a run. One configuration and one text give one result.

    Attributes
    ----------
    hidden_size : int
        Hidden units of each layer of the GRU.
    layers : int
        Layers of the GRU.
    dropout : float
        Probability with which an output of a layer is set to zero in training.
    steps : int
        Updates of the weights.
    batch_size, seq_len : int
        Streams that a step reads, and characters that it reads of each.
    learning_rate : float
        Where the schedule starts; it ends at zero.
    seed : int
        Of the initial weights, the dropout masks and the samples.
    backend : str
        Name of the array library, never "auto".
    dtype : str
        Of the weights and of the arithmetic: "float32", "float64", "float16" or "bfloat16". With
        16 bits the loss and Adam's sums stay in float32, and so do the master weights; float16
        has its loss scaled, see `gru_xp.training.loss_scale`.
    texts : tuple of str
        Paths of the files trained on; none means the language reference.
    text_sha256 : str
        Of the text, so that a resumed run is sure to read the same.
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
        """Return the fields as JSON has them."""
        return {**asdict(self), "texts": list(self.texts)}

    @classmethod
    def from_json(cls, fields: Any, /) -> Self:
        """Undo `to_json`; ValueError where `fields` are not what it returns."""
        kinds = {name: type(value) for name, value in cls().to_json().items()}
        if not isinstance(fields, dict) or kinds != {name: type(fields[name]) for name in fields}:
            raise ValueError("its configuration has other fields, or fields of other kinds")
        for name, allowed in _ALLOWED.items():
            if not allowed(fields[name]):
                raise ValueError(f"its configuration has no usable {name.replace('_', ' ')}")
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
