"""A text as parallel streams, cut into chunks for truncated back-propagation through time."""

from __future__ import annotations

from typing import Any

import numpy as np

from gru_xp.training.errors import TextError

Indices = np.ndarray[Any, np.dtype[np.int32]]


class Streams:
    """Reads a text in `batch_size` places at once, `seq_len` characters further at every step.

    The text is a ring: a stream that reaches its end goes on at its beginning. So every chunk
    starts where the last one of the same stream ended, the state can be carried from each to the
    next for ever, and the step's number alone says where all streams are.

    Parameters
    ----------
    text : int32 array, (L,)
        Characters as numbers.
    batch_size : int
        Number of streams, N, which start at equal distances.
    seq_len : int
        Number of characters of a chunk, T.

    Raises
    ------
    TextError
        If the text is shorter than one chunk of all streams and the character that follows.
    """

    def __init__(self, text: Indices, /, *, batch_size: int, seq_len: int) -> None:
        needed = batch_size * seq_len + 1
        if len(text) < needed:
            raise TextError(
                f"the text is shorter than a chunk: {len(text)} characters to train on, and batch "
                f"size {batch_size} times sequence length {seq_len} takes {needed}: give more "
                "text, or smaller sizes"
            )
        self._text = text
        self._starts = np.arange(batch_size, dtype=np.int64) * len(text) // batch_size
        self._seq_len = seq_len

    def chunk(self, step: int, /) -> tuple[Indices, Indices]:
        """Return the inputs of a step, (T, N), and the targets, each the character after."""
        times = step * self._seq_len + np.arange(self._seq_len, dtype=np.int64)
        places = (times[:, None] + self._starts) % len(self._text)
        return self._text[places], self._text[(places + 1) % len(self._text)]


def side_by_side(inputs: Indices, targets: Indices, /, *, streams: int) -> tuple[Indices, Indices]:
    """Lay one sequence out as streams of equal length, (T, streams), to be run at once.

    The last places may be left over: there the target is -1, padding.
    """
    length = -(-len(inputs) // streams)
    spare = length * streams - len(inputs)
    laid_out = (
        np.pad(inputs, (0, spare)),
        np.pad(targets, (0, spare), constant_values=-1),
    )
    return laid_out[0].reshape(streams, length).T, laid_out[1].reshape(streams, length).T
