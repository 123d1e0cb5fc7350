"""Whole sequences through layers and directions, forward and backward.

`gru_xp.functional` contains the public functions and describes their arguments and results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from gru_xp.arrays.door import admit
from gru_xp.arrays.dtypes import cast, like
from gru_xp.arrays.place import Place, runs_there
from gru_xp.arrays.transfer import private
from gru_xp.arrays.typing import Array, Namespace
from gru_xp.core import checks, sequence
from gru_xp.core.loop import Loop
from gru_xp.core.one_hot import OneHot
from gru_xp.core.parameters import Form, GRUParams, cast_params, like_params
from gru_xp.core.tape import Tape, valid_steps, zero_in_padding

Marker = tuple[()] | tuple[tuple[()]]
"""A bool as a pytree without leaves: () for False and ((),) for True. jax.jit would trace a bool,
and torch.func.vmap refuses a None."""


class GRUTape(NamedTuple):
    """Values of a forward pass over whole sequences that its backward pass needs."""

    x: Array | OneHot
    """The input, as passed by the user."""
    h0: Array | None
    """The initial states, as passed by the user."""
    lengths: Array | None
    """Lengths of the rows, (N,)."""
    masks: tuple[Array, ...]
    """Dropout masks, as passed by the user."""
    inputs: tuple[Array | OneHot, ...]
    """Input of each layer, (T, N, K), zero in padding; for one-hot input the indices, (T, N, 1)."""
    tapes: tuple[Tape, ...]
    """One tape for each layer and direction, in the order of the weights."""
    batch_first: Marker = ()
    reverse: Marker = ()
    """Options of the forward."""

    @property
    def leading(self) -> tuple[int, ...]:
        """Shape of x, as passed by the user, without its last axis."""
        if isinstance(self.x, OneHot):
            return tuple(self.x.indices.shape)
        return tuple(self.x.shape[:-1])


class GateValues(NamedTuple):
    """Gates of every step, (num_layers * directions, T, N, H), zero in padding.

    The first axis has the order of ``h_n``. With ``batch_first``, T and N are swapped. Without a
    batch axis in the input, there is no axis N.
    """

    r: Array
    """Reset gate."""
    z: Array
    """Update gate."""
    n: Array
    """Candidate."""

    def __repr__(self) -> str:
        return f"GateValues(r, z, n: arrays of shape {tuple(self.r.shape)}, {self.r.dtype})"


@runs_there
def forward(
    params: Sequence[GRUParams],
    x: Array,
    h0: Array | None,
    loop: Loop,
    form: Form,
    /,
    *,
    masks: Sequence[Array] = (),
    one_hot: bool = False,
    keep_tape: bool,
    copies: bool = False,
    owner: str,
    place: Place,
) -> tuple[Array, Array, GRUTape | None]:
    """`functional.gru` for weights that have been checked.

    Parameters
    ----------
    params, x, h0, masks, keep_tape
        As in `functional.gru`.
    loop : Loop
        Loop of the first direction of each layer, with the lengths as passed by the user.
    form : Form
        Arrangement of axes and directions.
    one_hot : bool
        Whether x contains the indices of a `OneHot`.
    copies : bool
        Whether the tape holds copies of `x`, `h0` and the lengths instead of references.
    owner : str
        Name of the function or class, with which error messages begin.
    place : Place
        Place of the weights.
    """
    input_size, size = params[0].weight_ih.shape[1], params[0].weight_hh.shape[1]
    named = {f"masks[{index}]": mask for index, mask in enumerate(masks)}
    name = "the indices in OneHot" if one_hot else "input"
    call, (x, *masks, h0) = admit(owner, place, {name: x, **named}, {"h0": h0})
    if one_hot:
        x = checks.check_indices(x, call, batch_first=form.batch_first, owner=owner)
    width = 1 if one_hot else input_size
    steps, rows = checks.check_sequence(
        x, input_size=width, batch_first=form.batch_first, owner=owner
    )
    batched = x.ndim == 3
    h_shape = (len(params), rows, size) if batched else (len(params), size)
    if h0 is not None:
        checks.check_shape(h0, h_shape, name="h0", owner=owner)
    layers = len(params) // form.directions
    checks.check_masks(masks, (steps, rows, form.directions * size), layers=layers, owner=owner)
    if loop.lengths is not None:
        lengths = checks.check_lengths(
            loop.lengths,
            call,
            steps=steps,
            rows=rows,
            batched=batched,
            copies=copies,
            owner=owner,
        )
        loop = replace(loop, lengths=lengths)

    xp, dtype = call.xp, call.dtype
    if copies:
        x = private(x, place)
        h0 = None if h0 is None else private(h0, place)
    valid = valid_steps(loop.lengths, steps, xp=xp, device=call.device)
    if h0 is None:
        states = xp.zeros((len(params), rows, size), dtype=dtype, device=call.device)
    else:
        states = cast(h0, dtype, xp=xp)
        states = states if batched else states[:, None, :]

    if one_hot:
        y = zero_in_padding(time_first(x, form, xp=xp), valid, xp=xp)
        checks.check_range(y, input_size, call, owner=owner)
        x, y = OneHot(x[..., 0]), OneHot(y)
    else:
        y = zero_in_padding(time_first(cast(x, dtype, xp=xp), form, xp=xp), valid, xp=xp)
    loops = _loops(loop, form)
    inputs: list[Array | OneHot] = []
    tapes: list[Any] = []
    last: list[Array] = []
    for layer in range(layers):
        inputs.append(y)
        outputs = []
        for direction, each in enumerate(loops):
            k = layer * len(loops) + direction
            h, tape = sequence.forward(
                cast_params(params[k], dtype, xp=xp),
                y,
                states[k, ...],
                each,
                keep_tape=keep_tape,
                place=call,
            )
            outputs.append(zero_in_padding(h, valid, xp=xp))
            tapes.append(tape)
            end = 0 if each.reverse else -1
            last.append(h[end, ...] if steps else states[k, ...])
        y = xp.concat(outputs, axis=-1) if len(outputs) > 1 else outputs[0]
        if masks and layer + 1 < layers:
            y = zero_in_padding(y * cast(masks[layer], dtype, xp=xp), valid, xp=xp)
    if len(last) == 1:
        h_n = xp.reshape(last[0], h_shape, copy=True)
    else:
        h_n = xp.reshape(xp.stack(last), h_shape)
    y = as_given(y, form, batched=batched, xp=xp)
    if not keep_tape:
        return y, h_n, None
    return (
        y,
        h_n,
        GRUTape(
            x,
            h0,
            loop.lengths,
            tuple(masks),
            tuple(inputs),
            tuple(tapes),
            batch_first=((),) if form.batch_first and batched else (),
            reverse=((),) if loop.reverse else (),
        ),
    )


@runs_there
def backward(
    params: Sequence[GRUParams],
    tape: GRUTape,
    dy: Array | None,
    dh_n: Array | None,
    loop: Loop,
    form: Form,
    /,
    *,
    with_dx: bool = True,
    owner: str,
    place: Place,
) -> tuple[list[GRUParams], Array, Array]:
    """`functional.gru_backward` for weights that have been checked; dx is None if not requested.

    `loop` is the loop of the first direction of each layer, with the lengths of the tape.
    """
    if len(tape.tapes) != len(params):
        raise ValueError(
            f"{owner}: expected the tape of a forward with {len(params)} GRUParams, got one of a "
            f"forward with {len(tape.tapes)}"
        )
    leading = tape.leading
    batched = len(leading) == 2
    of_tape = {
        "bidirectional": len(tape.tapes) > len(tape.inputs),
        "batch_first": bool(tape.batch_first),
        "reverse": bool(tape.reverse),
        "reset_after": tape.tapes[0].gh_n is not None,
    }
    given = {
        "bidirectional": form.bidirectional,
        "batch_first": form.batch_first and batched,
        "reverse": loop.reverse,
        "reset_after": loop.reset_after,
    }
    checks.check_options(of_tape, given, owner=owner)
    x = params[0].weight_ih if isinstance(tape.x, OneHot) else tape.x
    checks.check_tape_sizes(params[0], x, tape.tapes[0].r, owner=owner)
    size = params[0].weight_hh.shape[1]
    steps, rows, _ = tape.tapes[0].r.shape
    h_shape = (len(params), rows, size) if batched else (len(params), size)
    y_shape = (*leading, form.directions * size)
    if dy is None and dh_n is None:
        raise TypeError(f"{owner}: expected dy, dh_n or both, got neither")
    gradients_given = {"dy": dy, "dh_n": dh_n}
    call, (_, dy, dh_n) = admit(owner, place, {"the tape": tape.tapes[0].r}, gradients_given)
    if dy is not None:
        remedy = "If the loss uses only the last states, pass dh_n and omit dy"
        checks.check_shape(dy, y_shape, name="dy", owner=owner, remedy=remedy)
    if dh_n is not None:
        checks.check_shape(dh_n, h_shape, name="dh_n", owner=owner)

    dtype = tape.tapes[0].r.dtype
    call = call if call.dtype == dtype else call._replace(dtype=dtype)
    xp = call.xp
    valid = valid_steps(loop.lengths, steps, xp=xp, device=call.device)
    dlast = None
    if dh_n is not None:
        dlast = cast(dh_n, dtype, xp=xp)
        dlast = dlast if batched else dlast[:, None, :]

    if dy is None:
        dout = xp.concat([xp.zeros_like(tape.tapes[0].r)] * form.directions, axis=2)
    else:
        dout = zero_in_padding(time_first(cast(dy, dtype, xp=xp), form, xp=xp), valid, xp=xp)
    loops = _loops(loop, form)
    gradients: dict[int, GRUParams] = {}
    dh0: dict[int, Array] = {}
    for layer in reversed(range(len(tape.inputs))):
        if tape.masks and layer + 1 < len(tape.inputs):
            dout = zero_in_padding(dout * cast(tape.masks[layer], dtype, xp=xp), valid, xp=xp)
        dinputs = []
        for direction, each in enumerate(loops):
            k = layer * len(loops) + direction
            gradients[k], dinput, dh0[k] = sequence.backward(
                cast_params(params[k], dtype, xp=xp),
                tape.inputs[layer],
                tape.tapes[k],
                dout[..., direction * size : (direction + 1) * size],
                None if dlast is None else dlast[k, ...],
                each,
                with_dx=with_dx or layer > 0,
                place=call,
            )
            dinputs.append(dinput)
        if dinputs[0] is not None:
            dout = dinputs[0] + dinputs[1] if len(dinputs) > 1 else dinputs[0]
            dout = zero_in_padding(dout, valid, xp=xp)  # a weight of NaN makes it NaN in padding
    dparams = [like_params(gradients[k], each, xp=xp) for k, each in enumerate(params)]
    dh_all = xp.reshape(xp.stack([dh0[k] for k in range(len(params))]), h_shape)
    dx = None
    if with_dx and not isinstance(tape.x, OneHot):
        dx = like(as_given(dout, form, batched=batched, xp=xp), tape.x, xp=xp)
    return dparams, dx, like(dh_all, tape.h0, xp=xp)


@runs_there
def gates(tape: GRUTape, form: Form, /, *, place: Place) -> GateValues:
    """Return the gates of every step, layer and direction from a forward's tape."""
    xp = place.xp
    steps = tape.tapes[0].r.shape[0]
    valid = valid_steps(tape.lengths, steps, xp=xp, device=place.device)

    def stacked(name: str) -> Array:
        arrays = [zero_in_padding(getattr(each, name), valid, xp=xp) for each in tape.tapes]
        if len(tape.leading) == 1:
            arrays = [array[:, 0, ...] for array in arrays]
        elif form.batch_first:
            arrays = [xp.permute_dims(array, (1, 0, 2)) for array in arrays]
        return xp.stack(arrays)

    return GateValues(stacked("r"), stacked("z"), stacked("n"))


def _loops(loop: Loop, form: Form, /) -> tuple[Loop, ...]:
    """Return the loop of each direction of a layer, in the order of the weights."""
    return (loop, replace(loop, reverse=True)) if form.bidirectional else (loop,)


def time_first(array: Array, form: Form, /, *, xp: Namespace) -> Array:
    """Return a user's array (T, N, K), (N, T, K) with batch_first, or (T, K) as (T, N, K)."""
    if array.ndim == 2:
        return array[:, None, :]
    return xp.permute_dims(array, (1, 0, 2)) if form.batch_first else array


def as_given(array: Array, form: Form, /, *, batched: bool, xp: Namespace) -> Array:
    """Undo `time_first`."""
    if not batched:
        return array[:, 0, :]
    return xp.permute_dims(array, (1, 0, 2)) if form.batch_first else array
