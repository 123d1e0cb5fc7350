"""Text that a model writes, one step a character."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gru_xp import to_numpy
from gru_xp.arrays.typing import Array
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
    generator = np.random.default_rng(rng)
    state = model.start(1)

    def read(number: int) -> Array:
        """Take one step; return the last layer's state, (1, H)."""
        nonlocal state
        inputs = model.indices(np.full((1, 1), number))
        h, state, _ = model.forward(inputs, state, keep_tape=False)
        return h[0, ...]

    for number in vocabulary.encode(prompt or "\n"):
        h = read(int(number))
    for _ in range(length):
        logits = to_numpy(model.logits(h))[0].astype(np.float64)
        logits[Vocabulary.UNKNOWN] = -np.inf
        number = _draw(logits, temperature, generator)
        yield vocabulary.character(number)
        h = read(number)


def _draw(logits: np.ndarray[Any, Any], temperature: float, generator: np.random.Generator) -> int:
    if temperature == 0:
        return int(np.argmax(logits))
    # The largest is subtracted before the division, which a tiny temperature would overflow.
    with np.errstate(over="ignore"):
        weights = np.exp((logits - np.max(logits)) / temperature)
    return int(generator.choice(len(logits), p=weights / np.sum(weights)))
