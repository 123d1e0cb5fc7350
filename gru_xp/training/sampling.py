"""Generation of text with a model, one character per step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gru_xp import to_numpy
from gru_xp.arrays.typing import Array
from gru_xp.training.errors import DivergenceError
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
    """Generate characters after a prompt, one at a time.

    Parameters
    ----------
    model : CharModel
        The model.
    vocabulary : Vocabulary
        The vocabulary of the model.
    prompt : str
        Text that the model reads first. It is not part of the output. An empty prompt is read as a
        newline.
    length : int
        Number of characters to generate.
    temperature : float
        Divisor of the logits. Values below 1 make likely characters more likely, values above 1
        less. With 0, the most likely character is always chosen.
    rng : int or numpy.random.Generator, optional
        Seed or generator for the draws. They are made on the host, so that a seed gives the same
        text on every backend, up to rounding.

    Yields
    ------
    str
        One character, never the unknown character.

    Raises
    ------
    DivergenceError
        If an output of the model is not finite.
    """
    generator = np.random.default_rng(rng)
    state = model.start(1)

    def read(number: int) -> Array:
        """Run one step and return the state of the last layer, (1, H)."""
        nonlocal state
        inputs = model.indices(np.full((1, 1), number))
        with np.errstate(over="ignore", invalid="ignore"):
            h, state, _ = model.forward(inputs, state, keep_tape=False)
        return h[0, ...]

    for number in vocabulary.encode(prompt or "\n"):
        h = read(int(number))
    for _ in range(length):
        with np.errstate(over="ignore", invalid="ignore"):
            logits = to_numpy(model.logits(h))[0].astype(np.float64)
        if not np.isfinite(logits).all():
            raise DivergenceError(
                "an output of the model is not finite, because its weights are too large. Train it "
                "with a smaller learning rate"
            )
        logits[Vocabulary.UNKNOWN] = -np.inf
        number = _draw(logits, temperature, generator)
        yield vocabulary.character(number)
        h = read(number)


def _draw(logits: np.ndarray[Any, Any], temperature: float, generator: np.random.Generator) -> int:
    if temperature == 0:
        return int(np.argmax(logits))
    # Subtract the largest logit first, because dividing by a tiny temperature could overflow.
    with np.errstate(over="ignore"):
        weights = np.exp((logits - np.max(logits)) / temperature)
    return int(generator.choice(len(logits), p=weights / np.sum(weights)))
