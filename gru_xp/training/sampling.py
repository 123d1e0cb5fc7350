"""Text that a model writes, one step of a `GRUCell` a layer and character."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from gru_xp import GRUCell, to_numpy
from gru_xp.arrays.typing import Array, Backend
from gru_xp.training.model import CharModel
from gru_xp.training.text import Vocabulary


def sample(
    model: CharModel,
    vocabulary: Vocabulary,
    /,
    *,
    prompt: str,
    length: int,
    temperature: float,
    rng: np.random.Generator | int | None,
) -> Iterator[str]:
    """Write characters after a prompt, one at a time.

    Parameters
    ----------
    model : CharModel
    vocabulary : Vocabulary
        The model's own.
    prompt : str
        What the model reads first; it is not repeated. An empty one is read as a newline, after
        which a text may begin.
    length : int
        Number of characters to write.
    temperature : float
        Divides the logits: below 1 the likely characters become more so, above 1 less. At 0 the
        likeliest is always taken.
    rng : int or numpy.random.Generator, optional
        Seed of the draws, which are made on the host: one seed gives the same text on every
        backend, up to rounding.

    Yields
    ------
    str
        One character; never the unknown.
    """
    xp, generator = model.xp, np.random.default_rng(rng)
    cells = _cells(model)
    # Row k is character k as a one-hot input.
    one_hot = xp.eye(model.vocabulary_size, dtype=cells[0].dtype, device=cells[0].device)
    states: list[Array | None] = [None] * len(cells)

    def read(number: int) -> Array:
        """Take one step of every layer; return the last one's state."""
        h = one_hot[number, :]
        for layer, cell in enumerate(cells):
            h = states[layer] = cell(h, states[layer])
        return h

    for number in vocabulary.encode(prompt or "\n"):
        h = read(int(number))
    for _ in range(length):
        logits = to_numpy(model.logits(h)).astype(np.float64)
        logits[Vocabulary.UNKNOWN] = -np.inf
        number = _draw(logits, temperature, generator)
        yield vocabulary.character(number)
        h = read(number)


def _cells(model: CharModel) -> list[GRUCell]:
    """Return a cell with the weights of each GRU layer, that keeps no tape."""
    place = model.place
    cells = []
    for params in model.gru:
        cell = GRUCell(
            params.weight_ih.shape[1],
            model.hidden_size,
            backend=cast(Backend, place.library),
            device=place.device,
            dtype=place.dtype,
        )
        cell.load_state_dict(params.named())
        cells.append(cell.eval())
    return cells


def _draw(logits: np.ndarray[Any, Any], temperature: float, generator: np.random.Generator) -> int:
    if temperature == 0:
        return int(np.argmax(logits))
    # The largest is subtracted before the division, which a tiny temperature would overflow.
    with np.errstate(over="ignore"):
        weights = np.exp((logits - np.max(logits)) / temperature)
    return int(generator.choice(len(logits), p=weights / np.sum(weights)))
