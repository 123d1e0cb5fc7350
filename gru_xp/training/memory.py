"""Estimate of the memory that a run needs."""

from __future__ import annotations

import math
import os

from gru_xp.training.config import TrainingConfig
from gru_xp.training.errors import SessionError
from gru_xp.training.evaluation import PLACES
from gru_xp.training.model import weight_shapes
from gru_xp.training.projection import BLOCK

_ITEM_BYTES = {"float64": 8}  # all other dtypes count as 4 bytes: with 16 bits, sums are float32
# The factors were measured with NumPy in runs of several shapes. torch needs up to 1.7 times as
# much memory.
_COPIES = 12  # copies of the weights: gradients, Adam's means, temporaries of an update and a save
_OF_LOGITS = 5  # arrays of the size of the logits: logits, exponentials, target masks, gradients
_OF_STATES = 7  # arrays of the size of the states: tape and gradients
_CERTAIN = 2  # a run is refused if it needs this many times the memory of the machine
_ON_HOST = ("numpy", "array_api_strict", "torch")  # CuPy uses a GPU, and JAX may


def needed(config: TrainingConfig, vocabulary_size: int, /) -> int:
    """Estimate the peak memory of a run in bytes, without the memory for the text."""
    shapes = weight_shapes(vocabulary_size, config.hidden_size, config.layers)
    weights = sum(math.prod(shape) for shape in shapes.values())
    places = config.batch_size * config.seq_len
    logits = min(max(places, PLACES) * vocabulary_size, max(BLOCK, vocabulary_size))
    states = max(places * config.layers, PLACES) * config.hidden_size
    numbers = _COPIES * weights + _OF_LOGITS * logits + _OF_STATES * states
    return _ITEM_BYTES.get(config.dtype, 4) * numbers


def check(config: TrainingConfig, vocabulary_size: int, /) -> None:
    """Refuse a run that does not fit into this machine's memory, before its weights are created.

    Raises
    ------
    SessionError
        If the run needs more than twice the memory of the machine.
    """
    there, wanted = _physical(), needed(config, vocabulary_size)
    if config.backend in _ON_HOST and there is not None and wanted > _CERTAIN * there:
        raise SessionError(
            f"this run would need about {shown(wanted)} of memory, but the machine has "
            f"{shown(there)}. Reduce --hidden-size, --layers, --batch-size or --seq-len"
        )


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not available, for example on Windows
        return None


def shown(count: int, /) -> str:
    """Format a number of bytes with a unit."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:,.0f} TB"
