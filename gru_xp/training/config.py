"""The configuration of a training run, which together with the text determines its result."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from gru_xp.arrays import dtypes, libraries
from gru_xp.messages import printable

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

    Raises
    ------
    ValueError
        If a value has the wrong type or is out of range.
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

    def __post_init__(self) -> None:
        """Convert the values to the types of the fields, and check them."""
        for name, field in _FIELDS.items():
            value = getattr(self, name)
            try:
                converted = field.convert(value)
                valid = field.allows(converted)
            except (TypeError, ValueError, OverflowError):
                valid = False
            if not valid:
                raise ValueError(
                    f"the configuration has an invalid {name.replace('_', ' ')}: expected "
                    f"{field.expected}, got {_shown(value)}"
                )
            object.__setattr__(self, name, converted)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-compatible values."""
        return {**asdict(self), "texts": list(self.texts)}

    @classmethod
    def from_json(cls, fields: Any, /) -> Self:
        """Create a configuration from the result of `to_json`; raise ValueError if invalid."""
        kinds = {name: type(value) for name, value in cls().to_json().items()}
        if not isinstance(fields, dict) or kinds != {name: type(fields[name]) for name in fields}:
            raise ValueError("its configuration has unexpected fields or types of fields")
        return cls(**fields)


class _Field(NamedTuple):
    """What a field of the configuration may be."""

    convert: Callable[[Any], Any]
    allows: Callable[[Any], bool]
    expected: str


def _shown(value: object) -> str:
    try:
        return printable(repr(value)[:80])
    except ValueError:  # an integer of thousands of digits
        return f"a large {type(value).__name__}"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError
    return float(value)


def _paths(values: Any) -> tuple[str, ...]:
    if isinstance(values, (str, bytes)):
        raise TypeError
    return tuple(map(os.fspath, values))


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and b"\0" not in os.fsencode(value)


_SIZE = _Field(_integer, lambda value: 1 <= value <= LIMIT, f"an integer from 1 to {LIMIT}")
_FIELDS = {
    **dict.fromkeys(("hidden_size", "layers", "steps", "batch_size", "seq_len"), _SIZE),
    "dropout": _Field(_number, lambda value: 0 <= value < 1, "a number from 0 to less than 1"),
    "learning_rate": _Field(_number, lambda value: 0 < value < math.inf, "a positive number"),
    "seed": _Field(_integer, lambda value: 0 <= value < SEED_LIMIT, "an integer below 2**128"),
    "backend": _Field(
        _text, lambda value: value in libraries.NAMESPACES, " or ".join(libraries.NAMESPACES)
    ),
    "dtype": _Field(_text, lambda value: value in dtypes.NAMES, " or ".join(dtypes.NAMES)),
    "text_sha256": _Field(_text, lambda value: True, "a string"),
    "texts": _Field(_paths, lambda values: all(map(_is_path, values)), "a sequence of paths"),
}
