"""Stream: a GRU fed step by step or in chunks, as sound or sensors come in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic

from gru_xp.arrays import door, transfer
from gru_xp.arrays.libraries import is_writeable
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import A, Array
from gru_xp.core import stack
from gru_xp.core.accelerators import accelerated, are_on
from gru_xp.core.contract import NativeStream
from gru_xp.core.loop import Loop
from gru_xp.core.parameters import Form, GRUParams


class Stream(Generic[A]):
    """A GRU's weights and its state between calls, made by `gru_xp.GRU.stream`.

    Gives what one call over the whole sequence gives, in evaluation: no tape is kept, and dropout
    is off. The weights are a copy, taken when the stream is made: what happens to the GRU later,
    be it a change of its weights, `to`, `train` or `eval`, does not reach it. To stream with new
    weights, make a new stream, from the `state` of the old one if it is to go on.

    A stream can be pickled and copied, weights, `state` and initial state with it. An accelerator
    is asked once, when the stream is made; where accelerators are switched off during a call, none
    runs in that call.

    Examples
    --------
    >>> import numpy as np
    >>> import gru_xp
    >>> stream = gru_xp.GRU(3, 4, rng=0).stream()
    >>> y = np.empty(4, dtype=np.float32)
    >>> for sample in np.ones((5, 3), dtype=np.float32):
    ...     y = stream.step(sample, out=y)
    >>> y.shape, stream.state.shape
    ((4,), (1, 4))
    """

    _native: NativeStream | None
    """The accelerator's stream, where it makes one."""
    _quick: NativeStream | None
    """That same one while it holds the state."""
    _state: Array | None
    """The state, while `_quick` is None."""

    def __init__(
        self, params: Sequence[GRUParams], loop: Loop, form: Form, h0: A | None = None
    ) -> None:
        if form.bidirectional or loop.reverse:
            raise ValueError(
                f"GRU.stream: a GRU with {'reverse' if loop.reverse else 'bidirectional'}=True "
                "cannot stream, as its reverse direction starts at the last step, which a stream "
                "does not know: call it on the whole sequence"
            )
        self._place = Place.of(params[0].weight_ih)
        self._params = tuple(_frozen(each, self._place) for each in params)
        self._loop, self._form = loop, form
        make = accelerated("stream", self._place, loop)
        made = NotImplemented if make is None else make(self._params, loop, form)
        self._native = None if made is NotImplemented else made
        self._start = self._own("GRU.stream", "h0", h0)
        self._hold(self._start)

    @property
    def state(self) -> A | None:
        """States of all layers, (num_layers, N, H) or (num_layers, H), as a copy.

        None before the first call of a stream that starts from zeros. What is assigned is copied;
        None means zeros, for any number of rows.

        Raises
        ------
        TypeError, ValueError
            If what is assigned is no array of the weights' library and device, or of no such shape.
        """
        state = self._held()
        return None if state is None else transfer.private(state, self._place)

    @state.setter
    def state(self, value: A | None) -> None:
        self._hold(self._own("Stream.state", "state", value))

    def reset(self) -> None:
        """Go back to the initial state: the `h0` with which the stream was made, or zeros."""
        self._hold(self._start)

    def step(self, x: A, out: A | None = None) -> A:
        """Take one step.

        Parameters
        ----------
        x : array, (I,) or (N, I)
            Input, of the weights' library and device.
        out : array, (H,) or (N, H), optional
            Where the result is written, which may be `x` itself; of the result's dtype, which is
            the weights' where that of `x` and of the state is. Without it the result is a new
            array. Not on JAX, whose arrays do not change.

        Returns
        -------
        h : array, (H,) or (N, H)
            The last layer's state; `out` itself, where it was given.

        Raises
        ------
        ValueError, TypeError
            If a shape, library, device or dtype does not fit, or `out` cannot be written to. Then
            the state is as it was.
        RuntimeError
            If another thread is in the middle of a call. A stream takes one call at a time, the
            reading of its state among them.
        """
        quick = self._quick
        if quick is not None and are_on():
            y = quick.step(x, out)
            if y is not NotImplemented:
                return y  # type: ignore[no-any-return]
        return self._portable_step(x, out)

    def __call__(self, x: A) -> A:
        """Take a chunk, shaped as the GRU's input; return the outputs of its steps.

        Raises as `step` does.
        """
        y: A
        quick = self._quick
        if quick is not None and are_on():
            y = quick.chunk(x)
            if y is not NotImplemented:
                return y
        y, state = self._forward(x, self._held())
        self._hold(state)
        return y

    def __reduce__(self) -> Any:
        """Leave out the accelerator's stream, and the place, as devices may not pickle."""
        arguments = (self._params, self._loop, self._form, self._start)
        return type(self), arguments, (self._held(),)

    def __setstate__(self, held: tuple[Array | None]) -> None:
        self._hold(*held)

    def _portable_step(self, x: A, out: A | None) -> A:
        held = self._held()
        call, (step, _) = door.admit("Stream.step", self._place, {"input": x}, {"state": held})
        if step.ndim not in (1, 2):
            raise ValueError(
                "Stream.step: expected one step of 1-D (input_size,) or 2-D (batch, input_size), "
                f"got {step.ndim}-D: for a chunk call the stream itself"
            )
        size = self._params[0].weight_hh.shape[1]
        target: Any = None if out is None else _target(out, (*step.shape[:-1], size), call)
        sideways = self._form.batch_first and step.ndim == 2
        y, state = self._forward(step[:, None, :] if sideways else step[None, ...], held)
        last: A = y[:, 0, :] if sideways else y[0, ...]
        if out is not None:
            with self._place.current():
                target[...] = last
            last = out
        self._hold(state)
        return last

    def _forward(self, x: Array, state: Array | None) -> tuple[Array, Array]:
        """Run a chunk by the portable path; return its outputs, and the state after it."""
        y, state, _ = stack.forward(
            self._params,
            x,
            state,
            self._loop,
            self._form,
            keep_tape=False,
            owner="GRU.stream",
            place=self._place,
        )
        return y, state

    def _own(self, owner: str, name: str, value: Array | None) -> Array | None:
        """Check states that come in, and copy them."""
        if value is None:
            return None
        _, (value,) = door.admit(owner, self._place, {name: value})
        layers, size = len(self._params), self._params[0].weight_hh.shape[1]
        shape = tuple(value.shape)
        if value.ndim not in (2, 3) or (shape[0], shape[-1]) != (layers, size):
            raise ValueError(
                f"{owner}: expected {name} of shape ({layers}, N, {size}), a state for each of the "
                f"N rows, or ({layers}, {size}) for input without a batch axis, got {shape}"
            )
        return transfer.private(value, self._place)

    def _held(self) -> Array | None:
        return self._state if self._quick is None else self._quick.state

    def _hold(self, state: Array | None) -> None:
        """Take a sound state of which nobody else can change the numbers.

        One of another dtype than the weights' stays here: the accelerator's stream would cast it.
        """
        native = self._native
        if native is not None and (state is None or state.dtype == self._place.dtype):
            native.state = state
            self._quick, self._state = native, None
        else:
            self._quick, self._state = None, state


def _frozen(params: GRUParams, place: Place) -> GRUParams:
    """Copy weights, off their autograd graph."""
    return GRUParams(
        *(
            None if array is None else transfer.private(transfer.detached(array), place)
            for array in params
        )
    )


def _target(out: Any, shape: tuple[int, ...], call: Place) -> Array:
    """Check what a result of a shape is to be written into."""
    if call.library == "jax":
        raise TypeError("Stream.step: JAX's arrays do not change: take the result, and pass no out")
    _, (target,) = door.admit("Stream.step", call, {"out": out})
    if tuple(target.shape) != shape or target.dtype != call.dtype or not is_writeable(target):
        raise ValueError(
            f"Stream.step: expected a writeable out of shape {shape} and dtype {call.dtype}, as "
            f"the result has, got{'' if is_writeable(target) else ' a read-only one of'} shape "
            f"{tuple(target.shape)} and dtype {target.dtype}"
        )
    return target
