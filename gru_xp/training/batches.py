"""A text as parallel streams, cut into chunks for truncated backpropagation through time."""

from __future__ import annotations

from typing import Any

import numpy as np

from gru_xp.training.errors import TextError

Indices = np.ndarray[Any, np.dtype[np.int32]]


class Streams:
    """Reads a text at `batch_size` positions in parallel, `seq_len` characters per step.

    A stream that reaches the end of the text continues at its beginning. Each chunk therefore
    starts where the previous chunk of the same stream ended, the state can always be carried over,
    and the number of a step determines the positions of all streams.

    Parameters
    ----------
    text : int32 array, (L,)
        Characters as numbers.
    batch_size : int
        Number of streams, N, whose starts are evenly spaced.
    seq_len : int
        Number of characters in a chunk, T.

    Raises
    ------
    TextError
        If the text has fewer than N * T + 1 characters.
    """

    def __init__(self, text: Indices, /, *, batch_size: int, seq_len: int) -> None:
        needed = batch_size * seq_len + 1
        if len(text) < needed:
            raise TextError(
                f"expected a training text of at least {needed} characters for batch size "
                f"{batch_size} and sequence length {seq_len}, got {len(text)}. Provide more text, "
                "or choose smaller sizes"
            )
        self._text = text
        self._starts = np.arange(batch_size, dtype=np.int64) * len(text) // batch_size
        self._seq_len = seq_len

    def chunk(self, step: int, /) -> tuple[Indices, Indices]:
        """Return the inputs of a step, (T, N), and the targets, the characters that follow."""
        times = step * self._seq_len + np.arange(self._seq_len, dtype=np.int64)
        places = (times[:, None] + self._starts) % len(self._text)
        return self._text[places], self._text[(places + 1) % len(self._text)]


def side_by_side(inputs: Indices, targets: Indices, /, *, streams: int) -> tuple[Indices, Indices]:
    """Split one sequence into parallel streams of equal length, (T, streams).

    The end of the last streams may be padding, whose targets are -1.
    """
    length = -(-len(inputs) // streams)
    spare = length * streams - len(inputs)
    laid_out = (
        np.pad(inputs, (0, spare)),
        np.pad(targets, (0, spare), constant_values=-1),
    )
    return laid_out[0].reshape(streams, length).T, laid_out[1].reshape(streams, length).T
