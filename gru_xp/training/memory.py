"""How much memory a run needs, before it is asked for."""

from __future__ import annotations

import math
import os

from gru_xp.training.config import TrainingConfig
from gru_xp.training.errors import SessionError
from gru_xp.training.evaluation import PLACES
from gru_xp.training.model import weight_shapes
from gru_xp.training.projection import BLOCK

_ITEM_BYTES = {"float64": 8}  # of what is computed; with 16 bits the sums are of 32
# Counted on runs of several shapes, on NumPy; torch takes up to 1.7 times as much.
_COPIES = 12  # of weights: gradients, Adam's sums, an update's, those of a save
_OF_LOGITS = 5  # logits, exponentials, which of them are the targets, gradients
_OF_STATES = 7  # tape and gradients
_CERTAIN = 2  # times too much, before a run is refused
_ON_HOST = ("numpy", "array_api_strict", "torch")  # JAX may have a GPU, CuPy has one


def needed(config: TrainingConfig, vocabulary_size: int, /) -> int:
    """Bytes that a run takes at its peak, roughly; what the text takes not counted."""
    shapes = weight_shapes(vocabulary_size, config.hidden_size, config.layers)
    weights = sum(math.prod(shape) for shape in shapes.values())
    places = config.batch_size * config.seq_len
    logits = min(max(places, PLACES) * vocabulary_size, max(BLOCK, vocabulary_size))
    states = max(places * config.layers, PLACES) * config.hidden_size
    numbers = _COPIES * weights + _OF_LOGITS * logits + _OF_STATES * states
    return _ITEM_BYTES.get(config.dtype, 4) * numbers


def check(config: TrainingConfig, vocabulary_size: int, /) -> None:
    """Refuse a run that this machine's memory cannot hold, before minutes go into its weights.

    Raises
    ------
    SessionError
    """
    there, wanted = _physical(), needed(config, vocabulary_size)
    if config.backend in _ON_HOST and there is not None and wanted > _CERTAIN * there:
        raise SessionError(
            f"this run would need about {shown(wanted)} of memory, and the machine has "
            f"{shown(there)}: a smaller --hidden-size needs less, so do fewer --layers, a smaller "
            "--batch-size or --seq-len"
        )


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # as on Windows
        return None


def shown(count: int, /) -> str:
    """Write a number of bytes as people do."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:,.0f} TB"
