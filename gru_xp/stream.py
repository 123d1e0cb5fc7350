"""Stream: a GRU fed step by step or in chunks, as sound or sensors come in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Protocol

from gru_xp.arrays import door, transfer
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import A
from gru_xp.core import stack
from gru_xp.core.loop import Loop
from gru_xp.core.parameters import Form, GRUParams


class Source(Protocol):
    """What a stream needs of its GRU."""

    batch_first: bool
    bidirectional: bool
    _place: Place

    @property
    def _params(self) -> Sequence[GRUParams]: ...

    def _loop(self) -> Loop: ...


class Stream(Generic[A]):
    """A GRU's state between calls, made by `gru_xp.GRU.stream`.

    Gives what one call over the whole sequence gives, in evaluation: no tape is kept, and dropout
    is off. The weights are the GRU's own: a change there shows in the next call here.

    Examples
    --------
    >>> import numpy as np
    >>> import gru_xp
    >>> stream = gru_xp.GRU(3, 4, rng=0).stream()
    >>> for sample in np.ones((5, 3), dtype=np.float32):
    ...     y = stream.step(sample)
    >>> y.shape, stream.state.shape
    ((4,), (1, 4))
    """

    def __init__(self, gru: Source, h0: A | None = None) -> None:
        if gru.bidirectional:
            raise ValueError(
                "GRU.stream: a bidirectional GRU cannot stream, as its reverse direction starts "
                "at the last step: call it on the whole sequence"
            )
        self._gru = gru
        self.state = h0

    @property
    def state(self) -> A | None:
        """States of all layers, (num_layers, N, H) or (num_layers, H).

        None before the first call of a stream that starts from zeros. What is assigned is copied.
        """
        return self._state

    @state.setter
    def state(self, value: A | None) -> None:
        if value is not None:
            place = self._gru._place
            _, (value,) = door.admit("GRU.stream", place, {"h0": value})
            value = transfer.private(value, place)
        self._state = value

    def step(self, x: A) -> A:
        """Take one step, (I,) or (N, I); return the last layer's state, (H,) or (N, H)."""
        _, (step,) = door.admit("Stream.step", self._gru._place, {"input": x})
        if step.ndim not in (1, 2):
            raise ValueError(
                "Stream.step: expected one step of 1-D (input_size,) or 2-D (batch, input_size), "
                f"got {step.ndim}-D: for a chunk call the stream itself"
            )
        sideways = self._gru.batch_first and step.ndim == 2
        y: Any = self(step[:, None, :] if sideways else step[None, ...])
        last: A = y[:, 0, :] if sideways else y[0, ...]
        return last

    def __call__(self, x: A) -> A:
        """Take a chunk, shaped as the GRU's input; return the outputs of its steps."""
        y: A
        gru = self._gru
        y, self._state, _ = stack.forward(
            gru._params,
            x,
            self.state,
            gru._loop(),
            Form(gru.batch_first),
            keep_tape=False,
            owner="GRU.stream",
            place=gru._place,
        )
        return y
