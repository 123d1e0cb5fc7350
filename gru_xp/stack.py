"""Whole sequences through layers and directions, forward and backward.

`gru_xp.functional` has these for users, and says what arguments and results are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from gru_xp import sequence, validation
from gru_xp.backend import device, runs_on_device_of_weights
from gru_xp.dtypes import cast, computing_dtype, like, where
from gru_xp.parameters import GRUParams, cast_params
from gru_xp.tape import Tape, valid_steps
from gru_xp.typing import Array, Namespace


class Form(NamedTuple):
    """What kind of GRU it is, besides its weights; the same for forward and backward."""

    batch_first: bool = False
    bidirectional: bool = False
    reset_after: bool = True

    @property
    def directions(self) -> int:
        """1, or 2 where it is bidirectional."""
        return 1 + self.bidirectional


class GRUTape(NamedTuple):
    """What the backward pass over whole sequences needs of its forward pass."""

    x: Array
    """As it was given."""
    h0: Array | None
    """As it was given."""
    lengths: Array | None
    """(N,)"""
    masks: tuple[Array, ...]
    """Dropout masks, as they were given."""
    inputs: tuple[Array, ...]
    """What went into each layer, (T, N, K), zero in padding."""
    tapes: tuple[Tape, ...]
    """One for each layer and direction, in the order of the weights."""


class GateValues(NamedTuple):
    """Gates of every step, (num_layers * directions, T, N, H), zero in padding.

    The order of the first axis is that of ``h_n``; T and N swap with ``batch_first``, and N is
    not there where the input has no batch axis.
    """

    r: Array
    """Reset gate."""
    z: Array
    """Update gate."""
    n: Array
    """Candidate."""


@runs_on_device_of_weights
def forward(
    params: Sequence[GRUParams],
    x: Array,
    h0: Array | None,
    /,
    *,
    lengths: Array | Sequence[int] | None,
    masks: Sequence[Array],
    form: Form,
    keep_tape: bool,
    owner: str,
    xp: Namespace,
) -> tuple[Array, Array, GRUTape | None]:
    """`functional.gru` for weights that are known to be sound; `owner` is whom errors name."""
    weight, size = params[0].weight_ih, params[0].weight_hh.shape[1]
    masks = tuple(masks)
    validation.check_array(x, weight, name="input", owner=owner, xp=xp)
    steps, rows = validation.check_sequence(
        x, input_size=weight.shape[1], batch_first=form.batch_first, owner=owner
    )
    batched = x.ndim == 3
    h_shape = (len(params), rows, size) if batched else (len(params), size)
    if h0 is not None:
        validation.check_array(h0, weight, name="h0", owner=owner, xp=xp)
        validation.check_shape(h0, h_shape, name="h0", owner=owner)
    if lengths is not None:
        lengths = validation.check_lengths(
            lengths, steps=steps, rows=rows, batched=batched, like=x, owner=owner, xp=xp
        )
    layers = len(params) // form.directions
    validation.check_masks(
        masks, (steps, rows, form.directions * size), layers=layers, owner=owner, like=x, xp=xp
    )

    dtype = computing_dtype(*(each for one in params for each in one), x, h0, *masks, xp=xp)
    weights = [cast_params(each, dtype, xp=xp) for each in params]
    valid = None if lengths is None else valid_steps(lengths, steps, xp=xp)
    if h0 is None:
        states = xp.zeros((len(params), rows, size), dtype=dtype, device=device(x))
    else:
        states = xp.reshape(cast(h0, dtype, xp=xp), (len(params), rows, size))

    y = _where(valid, time_first(cast(x, dtype, xp=xp), form, xp=xp), xp=xp)
    inputs: list[Array] = []
    tapes: list[Any] = []
    last: list[Array] = []
    for layer in range(layers):
        inputs.append(y)
        outputs = []
        for k in _places(layer, form):
            h, tape = sequence.forward(
                weights[k],
                y,
                states[k, ...],
                lengths=lengths,
                reverse=_reverse(k, form),
                keep_tape=keep_tape,
                reset_after=form.reset_after,
                xp=xp,
            )
            outputs.append(_where(valid, h, xp=xp))
            tapes.append(tape)
            end = 0 if _reverse(k, form) else -1
            last.append(h[end, ...] if steps else states[k, ...])
        y = xp.concat(outputs, axis=-1) if form.bidirectional else outputs[0]
        if masks and layer + 1 < layers:
            y = _where(valid, y * cast(masks[layer], dtype, xp=xp), xp=xp)
    if len(last) == 1:
        h_n = xp.reshape(last[0], h_shape, copy=True)
    else:
        h_n = xp.reshape(xp.stack(last), h_shape)
    y = as_given(y, form, batched=batched, xp=xp)
    if not keep_tape:
        return y, h_n, None
    return y, h_n, GRUTape(x, h0, lengths, masks, tuple(inputs), tuple(tapes))


@runs_on_device_of_weights
def backward(
    params: Sequence[GRUParams],
    tape: GRUTape,
    dy: Array,
    dh_n: Array | None,
    /,
    *,
    form: Form,
    with_dx: bool = True,
    owner: str,
    xp: Namespace,
) -> tuple[list[GRUParams], Array, Array]:
    """`functional.gru_backward` for weights that are known to be sound; dx is None if unwanted."""
    weight, size = params[0].weight_ih, params[0].weight_hh.shape[1]
    steps, rows, _ = tape.inputs[0].shape
    batched = tape.x.ndim == 3
    h_shape = (len(params), rows, size) if batched else (len(params), size)
    y_shape = (*tape.x.shape[:-1], form.directions * size)
    validation.check_array(dy, weight, name="dy", owner=owner, xp=xp)
    validation.check_shape(dy, y_shape, name="dy", owner=owner)
    if dh_n is not None:
        validation.check_array(dh_n, weight, name="dh_n", owner=owner, xp=xp)
        validation.check_shape(dh_n, h_shape, name="dh_n", owner=owner)

    dtype = tape.inputs[0].dtype
    weights = [cast_params(each, dtype, xp=xp) for each in params]
    valid = None if tape.lengths is None else valid_steps(tape.lengths, steps, xp=xp)
    dlast = None
    if dh_n is not None:
        dlast = xp.reshape(cast(dh_n, dtype, xp=xp), (len(params), rows, size))

    dout = _where(valid, time_first(cast(dy, dtype, xp=xp), form, xp=xp), xp=xp)
    gradients: dict[int, GRUParams] = {}
    dh0: dict[int, Array] = {}
    for layer in reversed(range(len(tape.inputs))):
        if tape.masks and layer + 1 < len(tape.inputs):
            dout = _where(valid, dout * cast(tape.masks[layer], dtype, xp=xp), xp=xp)
        dinputs = []
        for direction, k in enumerate(_places(layer, form)):
            gradients[k], dinput, dh0[k] = sequence.backward(
                weights[k],
                tape.inputs[layer],
                tape.tapes[k],
                dout[..., direction * size : (direction + 1) * size],
                None if dlast is None else dlast[k, ...],
                lengths=tape.lengths,
                reverse=_reverse(k, form),
                reset_after=form.reset_after,
                with_dx=with_dx or layer > 0,
                xp=xp,
            )
            dinputs.append(dinput)
        if dinputs[0] is not None:
            dout = dinputs[0] + dinputs[1] if form.bidirectional else dinputs[0]
    dparams = [
        GRUParams(*(like(g, value, xp=xp) for g, value in zip(gradients[k], each, strict=True)))
        for k, each in enumerate(params)
    ]
    dh_all = xp.reshape(xp.stack([dh0[k] for k in range(len(params))]), h_shape)
    dx = None
    if with_dx:
        dx = like(as_given(dout, form, batched=batched, xp=xp), tape.x, xp=xp)
    return dparams, dx, like(dh_all, tape.h0, xp=xp)


@runs_on_device_of_weights
def gates(tape: GRUTape, /, *, form: Form, xp: Namespace) -> GateValues:
    """Gates of every step, layer and direction, from a forward's tape."""
    steps = tape.inputs[0].shape[0]
    valid = None if tape.lengths is None else valid_steps(tape.lengths, steps, xp=xp)

    def stacked(name: str) -> Array:
        arrays = [_where(valid, getattr(each, name), xp=xp) for each in tape.tapes]
        if tape.x.ndim == 2:
            arrays = [array[:, 0, ...] for array in arrays]
        elif form.batch_first:
            arrays = [xp.permute_dims(array, (1, 0, 2)) for array in arrays]
        return xp.stack(arrays)

    return GateValues(stacked("r"), stacked("z"), stacked("n"))


def time_first(array: Array, form: Form, /, *, xp: Namespace) -> Array:
    """(T, N, K) from what a user gives: that, (N, T, K) with batch_first, or (T, K)."""
    if array.ndim == 2:
        return array[:, None, :]
    return xp.permute_dims(array, (1, 0, 2)) if form.batch_first else array


def as_given(array: Array, form: Form, /, *, batched: bool, xp: Namespace) -> Array:
    """Undo `time_first`."""
    if not batched:
        return array[:, 0, :]
    return xp.permute_dims(array, (1, 0, 2)) if form.batch_first else array


def _where(valid: Array | None, array: Array, /, *, xp: Namespace) -> Array:
    """The array with zeros in padding, so that no product sees what it held: 0 * NaN is NaN."""
    return array if valid is None else where(valid, array, xp.zeros_like(array), xp=xp)


def _places(layer: int, form: Form) -> range:
    """Where a layer's directions stand among the weights and states."""
    return range(layer * form.directions, (layer + 1) * form.directions)


def _reverse(place: int, form: Form) -> bool:
    return form.bidirectional and place % 2 == 1


def check_params(params: Sequence[Any], form: Form, /, *, owner: str) -> None:
    """Check the weights of all layers and directions against each other."""
    if not params or len(params) % form.directions:
        raise ValueError(
            f"{owner}: expected weights for {form.directions} direction(s) of at least one layer, "
            f"got {len(params)} GRUParams"
        )
    hidden_size = input_size = None
    for k, each in enumerate(params):
        name = f"params[{k}]"
        in_size, size = validation.check_params(each, owner=f"{owner}: {name}")
        hidden_size = size if hidden_size is None else hidden_size
        if k >= form.directions:
            input_size = form.directions * hidden_size
        elif input_size is None:
            input_size = in_size
        if (in_size, size) != (input_size, hidden_size):
            raise ValueError(
                f"{owner}: expected {name} to take input size {input_size} to hidden size "
                f"{hidden_size}, got {in_size} and {size}"
            )
