"""Stream: a GRU that processes its input step by step or in chunks, such as live audio."""

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
    """A GRU that keeps its state between calls. Created by `gru_xp.GRU.stream`.

    The outputs are those of one call over the whole sequence in evaluation mode: no tape is kept
    and dropout is off. The stream has its own copy of the weights, taken when it is created. Later
    changes to the GRU (new weights, `to`, `train`, `eval`) do not affect it. To continue with new
    weights, create a new stream from the `state` of the old one.

    A stream can be pickled and copied, together with its weights, `state` and initial state.
    Whether an accelerator runs the stream is decided when the stream is created; calls made while
    accelerators are switched off use the portable code.

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
    """The accelerator's stream, or None if there is none."""
    _quick: NativeStream | None
    """`_native` while the accelerator's stream holds the state, else None."""
    _state: Array | None
    """The state while `_quick` is None."""

    def __init__(
        self, params: Sequence[GRUParams], loop: Loop, form: Form, h0: A | None = None
    ) -> None:
        if form.bidirectional or loop.reverse:
            raise ValueError(
                f"GRU.stream: a GRU with {'reverse' if loop.reverse else 'bidirectional'}=True "
                "cannot be streamed, because its reverse direction starts at the last step. Call "
                "the GRU on the whole sequence instead"
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
        """Copy of the states of all layers, (num_layers, N, H) or (num_layers, H).

        It is None before the first call of a stream that starts from zeros. An assigned array is
        copied. Assigning None resets the state to zeros, for any number of rows.

        Raises
        ------
        TypeError, ValueError
            If an assigned value is not an array of the weights' library and device, or has
            the wrong shape.
        """
        state = self._held()
        return None if state is None else transfer.private(state, self._place)

    @state.setter
    def state(self, value: A | None) -> None:
        self._hold(self._own("Stream.state", "state", value))

    def reset(self) -> None:
        """Reset to the initial state: the `h0` with which the stream was created, or zeros."""
        self._hold(self._start)

    def step(self, x: A, out: A | None = None) -> A:
        """Process one step.

        Parameters
        ----------
        x : array, (I,) or (N, I)
            Input, of the same library and on the same device as the weights.
        out : array, (H,) or (N, H), optional
            Array into which the result is written; it may be `x` itself. It must have the dtype of
            the result, which is that of the weights if `x` and the state also have it. If None, a
            new array is allocated. Not supported for JAX, whose arrays are immutable.

        Returns
        -------
        h : array, (H,) or (N, H)
            State of the last layer. This is `out` if it was given.

        Raises
        ------
        ValueError, TypeError
            If a shape, library, device or dtype does not match, or `out` is not writeable. In that
            case the state is unchanged.
        RuntimeError
            If an accelerator runs the stream and another thread is using it. A stream handles one
            call at a time; reading `state` counts as a call. The portable code does not detect
            concurrent calls.
        """
        quick = self._quick
        if quick is not None and are_on():
            y = quick.step(x, out)
            if y is not NotImplemented:
                return y  # type: ignore[no-any-return]
        return self._portable_step(x, out)

    def __call__(self, x: A) -> A:
        """Process a chunk of steps and return their outputs.

        Parameters
        ----------
        x : array, (T, N, I), (N, T, I) with `batch_first`, or (T, I)
            Input, of the same library and on the same device as the weights.

        Returns
        -------
        y : array, (T, N, H), (N, T, H) with `batch_first`, or (T, H)
            State of the last layer after each step.

        Raises
        ------
        ValueError, TypeError, RuntimeError
            As in `step`.
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
        """Leave out the accelerator's stream and the place, since devices may not be picklable."""
        arguments = (self._params, self._loop, self._form, self._start)
        return type(self), arguments, (self._held(),)

    def __setstate__(self, held: tuple[Array | None]) -> None:
        self._hold(*held)

    def _portable_step(self, x: A, out: A | None) -> A:
        held = self._held()
        call, (step, _) = door.admit("Stream.step", self._place, {"input": x}, {"state": held})
        if step.ndim not in (1, 2):
            raise ValueError(
                "Stream.step: expected input to be 1-D (input_size,) or 2-D (batch, input_size), "
                f"got {step.ndim}-D. To process a chunk of steps, call the stream itself"
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
        """Run a chunk through the portable code; return its outputs and the state after it."""
        self._check_rows(x, state)
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

    def _check_rows(self, x: Array, state: Array | None) -> None:
        """Check that the state has as many rows as the input, or neither has a batch axis."""
        ndim = getattr(x, "ndim", None)
        if state is None or ndim not in (2, 3):
            return  # zeros fit, or stack.forward raises an error for x
        rows = None if ndim == 2 else x.shape[0 if self._form.batch_first else 1]
        own = None if state.ndim == 2 else state.shape[1]
        if rows != own:
            raise ValueError(
                f"GRU.stream: expected input {_told(own)}, like the state of the stream, got input "
                f"{_told(rows)}. Create a stream for each batch, or set the state to None first"
            )

    def _own(self, owner: str, name: str, value: Array | None) -> Array | None:
        """Check the user's states and copy them."""
        if value is None:
            return None
        _, (value,) = door.admit(owner, self._place, {name: value})
        layers, size = len(self._params), self._params[0].weight_hh.shape[1]
        shape = tuple(value.shape)
        if value.ndim not in (2, 3) or (shape[0], shape[-1]) != (layers, size):
            raise ValueError(
                f"{owner}: expected {name} of shape ({layers}, N, {size}), or ({layers}, {size}) "
                f"for input without a batch axis, got {shape}"
            )
        return transfer.private(value, self._place)

    def _held(self) -> Array | None:
        return self._state if self._quick is None else self._quick.state

    def _hold(self, state: Array | None) -> None:
        """Store a checked state that shares no memory with the caller.

        A state whose dtype differs from that of the weights is stored here, because the
        accelerator's stream would cast it. The state is detached, because the autograd graph of
        torch would otherwise grow with each step.
        """
        state = transfer.detached(state)
        native = self._native
        if native is not None and (state is None or state.dtype == self._place.dtype):
            native.state = state
            self._quick, self._state = native, None
        else:
            self._quick, self._state = None, state


def _told(rows: int | None) -> str:
    return "without a batch axis" if rows is None else f"with batch size {rows}"


def _frozen(params: GRUParams, place: Place) -> GRUParams:
    """Copy weights, detached from their autograd graph."""
    return GRUParams(
        *(
            None if array is None else transfer.private(transfer.detached(array), place)
            for array in params
        )
    )


def _target(out: Any, shape: tuple[int, ...], call: Place) -> Array:
    """Check the array into which a result of this shape is to be written."""
    if call.library == "jax":
        raise TypeError(
            "Stream.step: out is not supported for JAX, whose arrays are immutable. Use the "
            "returned array instead"
        )
    _, (target,) = door.admit("Stream.step", call, {"out": out})
    if tuple(target.shape) != shape or target.dtype != call.dtype or not is_writeable(target):
        raise ValueError(
            f"Stream.step: expected a writeable out of shape {shape} and dtype {call.dtype}, got "
            f"{'an' if is_writeable(target) else 'a read-only'} array of shape "
            f"{tuple(target.shape)} and dtype {target.dtype}"
        )
    return target
