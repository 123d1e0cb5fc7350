"""Checks of the shapes of user input. Each error says what was expected, what came, what to do.

The values of arrays are not read, so that ``jax.jit`` and ``torch.compile`` can trace the checks.
The exceptions are lengths on the host and NumPy indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gru_xp.arrays import door, dtypes, transfer
from gru_xp.arrays.libraries import library_of
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array
from gru_xp.core.parameters import Form, GRUParams, shapes


def check_params(params: Any, /, *, owner: str) -> Place:
    """Check that the weights of a cell match each other, and return their place."""
    arrays = _arrays(params, owner)
    place = door.place_of(owner, **arrays)
    _check_packed(params, owner)
    return place


def check_tape(tape: Any, kind: type, /, *, owner: str) -> None:
    """Check the type of the tape that is passed to a backward."""
    if not isinstance(tape, kind):
        raise TypeError(
            f"{owner}: expected the {kind.__name__} returned by the forward, got "
            f"{type(tape).__name__}. Call the forward with keep_tape=True"
        )


def check_options(of_tape: dict[str, bool], given: dict[str, bool], /, *, owner: str) -> None:
    """Check that the options of a backward are those of the forward that made the tape."""
    for name, expected in of_tape.items():
        if given[name] != expected:
            raise ValueError(
                f"{owner}: expected {name}={expected}, as in the forward that made this tape, got "
                f"{given[name]}"
            )


def check_tape_sizes(params: GRUParams, x: Array, r: Array, /, *, owner: str) -> None:
    """Check that the weights of the first layer have the sizes of a tape's input x and gate r.

    The indices of one-hot input do not have an input size, and must not be passed.
    """
    expected = x.shape[-1], r.shape[-1]
    got = params.weight_ih.shape[1], params.weight_hh.shape[1]
    if got != expected:
        raise ValueError(
            f"{owner}: expected the weights of the forward that made this tape, with input size "
            f"{expected[0]} and hidden size {expected[1]}, got weights with {got[0]} and {got[1]}"
        )


def check_layers(params: Sequence[Any], form: Form, /, *, owner: str) -> Place:
    """Check that the weights of all layers and directions match, and return their place."""
    if not params or len(params) % form.directions:
        raise ValueError(
            f"{owner}: expected {'two' if form.bidirectional else 'one'} GRUParams per layer and "
            f"at least one layer, got {len(params)} GRUParams"
        )
    arrays: dict[str, Array | None] = {}
    for k, each in enumerate(params):
        of_layer = _arrays(each, f"{owner}: params[{k}]")
        arrays |= {f"params[{k}].{name}": array for name, array in of_layer.items()}
    place = door.place_of(owner, **arrays)
    hidden_size = input_size = None
    for k, each in enumerate(params):
        name = f"params[{k}]"
        in_size, size = _check_packed(each, f"{owner}: {name}")
        hidden_size = size if hidden_size is None else hidden_size
        if k >= form.directions:
            input_size = form.directions * hidden_size
        elif input_size is None:
            input_size = in_size
        if (in_size, size) != (input_size, hidden_size):
            raise ValueError(
                f"{owner}: expected {name} to have input size {input_size} and hidden size "
                f"{hidden_size}, got {in_size} and {size}"
            )
    return place


def _arrays(params: Any, owner: str) -> dict[str, Array | None]:
    """Return the arrays of a GRUParams by name; check that it has both biases or neither."""
    if not isinstance(params, GRUParams):
        raise TypeError(f"{owner}: expected a GRUParams, got {type(params).__name__}")
    for name in ("weight_ih", "weight_hh"):
        if getattr(params, name) is None:
            raise TypeError(f"{owner}: {name} must be an array, got NoneType")
    if (params.bias_ih is None) != (params.bias_hh is None):
        given = "bias_hh" if params.bias_ih is None else "bias_ih"
        raise ValueError(f"{owner}: expected both bias_ih and bias_hh or neither, got only {given}")
    return params._asdict()


def _check_packed(params: GRUParams, owner: str) -> tuple[int, int]:
    """Check that the shapes of packed weights match each other; return I and H."""
    weight_ih, weight_hh, bias_ih, _ = params
    for name, weight in (("weight_ih", weight_ih), ("weight_hh", weight_hh)):
        if weight.ndim != 2 or weight.shape[1] == 0:
            raise ValueError(
                f"{owner}: {name} must be 2-D and not empty, got shape {tuple(weight.shape)}"
            )
    input_size, hidden_size = weight_ih.shape[1], weight_hh.shape[1]
    expected = shapes(input_size, hidden_size, bias=bias_ih is not None)
    for name, array in params.named().items():
        if tuple(array.shape) != expected[name]:
            raise ValueError(
                f"{owner}: {name} must have shape {expected[name]} for input size {input_size} "
                f"and hidden size {hidden_size}, got {tuple(array.shape)}"
            )
    return input_size, hidden_size


def check_step(
    x: Array, h: Array | None, /, *, input_size: int, hidden_size: int, owner: str
) -> None:
    """Check the shapes of the input (I,) or (N, I) and the state (H,) or (N, H) of one step."""
    if x.ndim not in (1, 2):
        raise ValueError(
            f"{owner}: expected input to be 1-D ({input_size},) or 2-D (batch, {input_size}), got "
            f"{x.ndim}-D with shape {tuple(x.shape)}. A cell takes one time step per call"
        )
    _check_features(x, input_size, owner)
    if h is None:
        return
    if h.ndim != x.ndim:
        raise ValueError(
            f"{owner}: expected hidden to be {x.ndim}-D like the input (shape "
            f"{tuple(x.shape)}), got {h.ndim}-D with shape {tuple(h.shape)}. Give both a batch "
            "axis or neither"
        )
    if h.shape[-1] != hidden_size:
        raise ValueError(
            f"{owner}: hidden has inconsistent hidden_size: expected {hidden_size}, got "
            f"{h.shape[-1]} (shape {tuple(h.shape)}). The last axis of hidden must have the "
            "hidden_size of the weights"
        )
    if x.ndim == 2 and x.shape[0] != h.shape[0]:
        raise ValueError(
            f"{owner}: input batch size {x.shape[0]} doesn't match hidden batch size "
            f"{h.shape[0]}. Pass one state for each row of the input"
        )


def check_delta(delta: Array, shape: tuple[int, ...], /, *, owner: str) -> None:
    """Check that a gradient has the shape of the output, up to a batch axis of length 1."""
    allowed = [shape] + ([(1, *shape)] if len(shape) == 1 else [])
    if len(shape) == 2 and shape[0] == 1:
        allowed.append(shape[1:])
    if tuple(delta.shape) not in allowed:
        raise ValueError(
            f"{owner}: expected delta of shape {shape}, the shape of the output, got "
            f"{tuple(delta.shape)}. Pass the gradient with respect to the output of the forward"
        )


def check_shape(
    array: Array,
    shape: tuple[int, ...],
    /,
    *,
    name: str,
    owner: str,
    remedy: str = "The docstring gives the order of axes, layers and directions",
) -> None:
    """Check that an array has exactly this shape."""
    if tuple(array.shape) != shape:
        raise ValueError(
            f"{owner}: expected {name} of shape {shape}, got {tuple(array.shape)}. {remedy}"
        )


def check_sequence(
    x: Array, /, *, input_size: int, batch_first: bool, owner: str
) -> tuple[int, int]:
    """Check the shape of a sequence and return (T, N), with N = 1 if it has no batch axis."""
    axes = "batch, time" if batch_first else "time, batch"
    if x.ndim not in (2, 3):
        raise ValueError(
            f"{owner}: expected input to be 2-D (time, {input_size}) or 3-D ({axes}, "
            f"{input_size}), got {x.ndim}-D with shape {tuple(x.shape)}. For a single step use "
            "GRUCell or GRU.stream"
        )
    _check_features(x, input_size, owner)
    if x.ndim == 2:
        return x.shape[0], 1
    return (x.shape[1], x.shape[0]) if batch_first else (x.shape[0], x.shape[1])


def _check_features(x: Array, input_size: int, owner: str) -> None:
    if x.shape[-1] != input_size:
        raise ValueError(
            f"{owner}: input has inconsistent input_size: expected {input_size}, got "
            f"{x.shape[-1]} (shape {tuple(x.shape)}). The last axis of input must have the "
            "input_size of the weights"
        )


def check_indices(indices: Array, place: Place, /, *, batch_first: bool, owner: str) -> Array:
    """Check dtype and rank of one-hot indices; return them with a trailing axis of length 1.

    They are returned as int32 or int64, which every library accepts for taking rows.
    """
    xp = place.xp
    if not dtypes.is_integral(indices.dtype):
        raise TypeError(
            f"{owner}: expected indices in OneHot to have an integer dtype, got {indices.dtype}"
        )
    if indices.ndim not in (1, 2):
        axes = "batch, time" if batch_first else "time, batch"
        raise ValueError(
            f"{owner}: expected indices in OneHot to be 1-D (time,) or 2-D ({axes}), got "
            f"{indices.ndim}-D with shape {tuple(indices.shape)}"
        )
    if indices.dtype not in (xp.int32, xp.int64):
        # JAX may have int64 disabled. Its arrays then have no more elements than int32 can count.
        there = xp.__array_namespace_info__().dtypes(kind="signed integer", device=place.device)
        indices = xp.astype(indices, there.get("int64", xp.int32))
    return indices[..., None]


def check_range(indices: Array, classes: int, place: Place, /, *, owner: str) -> None:
    """Check the range of one-hot indices (T, N, 1), which are 0 in padding, if they are NumPy's."""
    if place.library != "numpy" or not indices.size:
        return
    least, most = int(indices.min()), int(indices.max())
    if least < 0 or most >= classes:
        raise ValueError(
            f"{owner}: expected indices in OneHot from 0 to {classes - 1}, because the weights "
            f"have input size {classes}, got {least if least < 0 else most}"
        )


def check_lengths(
    lengths: Any,
    place: Place,
    /,
    *,
    steps: int,
    rows: int,
    batched: bool,
    copies: bool = False,
    owner: str,
) -> Array:
    """Check the lengths of a ragged batch and return them as an integer array of the place.

    Python integers and NumPy arrays are checked against T. Arrays of other libraries are not read,
    because that would abort a trace or wait for a GPU; in them a length greater than T means T, and
    a negative one means 0. With `copies`, the result shares no memory with `lengths`.
    """
    if not batched:
        raise ValueError(
            f"{owner}: lengths require input with a batch axis, got input without one. Omit "
            "lengths, or pass 3-D input"
        )
    on_host = library_of(lengths) in (None, "numpy")
    if on_host:
        door.refuse_masked(f"{owner}: lengths", lengths)
        try:
            lengths = np.asarray(lengths)
        except ValueError:
            raise TypeError(
                f"{owner}: expected lengths to be integers, one per row, got nested sequences"
            ) from None
        if lengths.size == 0:
            lengths = lengths.astype(np.int32)
    else:
        door.admit(owner, place, {"lengths": lengths})
    dtype = dtypes.dtype_name(lengths.dtype)
    if not dtypes.is_integral(dtype):
        raise TypeError(f"{owner}: expected lengths to be integers, got {dtype}")
    if tuple(lengths.shape) != (rows,):
        raise ValueError(
            f"{owner}: expected lengths of shape ({rows},), one per row of the batch, got "
            f"{tuple(lengths.shape)}"
        )
    xp = place.xp
    if not on_host:
        if dtype.endswith(("t8", "16")):  # too small to count T steps
            return xp.astype(lengths, xp.int32)
        if place.library == "torch" and dtype.startswith("uint"):  # which torch cannot compare
            signed = xp.astype(lengths, xp.int64)
            return xp.where(signed < 0, steps, signed)  # from 2**63 on
        return transfer.private(lengths, place) if copies else lengths
    wrong = np.flatnonzero((lengths < 0) | (lengths > steps))
    if wrong.size:
        raise ValueError(
            f"{owner}: expected lengths between 0 and {steps}, the number of steps of the input, "
            f"got {lengths[wrong[0]]} for row {wrong[0]}"
        )
    return transfer.from_numpy(lengths, place._replace(dtype=xp.int32))


def check_masks(
    masks: Sequence[Array], shape: tuple[int, ...], /, *, layers: int, owner: str
) -> None:
    """Check dropout masks: either none, or one for each layer except the last."""
    if masks and len(masks) != layers - 1:
        raise ValueError(
            f"{owner}: expected {layers - 1} dropout masks, one for each layer except the last, or "
            f"none, got {len(masks)}"
        )
    remedy = "Time is the first axis, and input without a batch axis counts as one row"
    for index, mask in enumerate(masks):
        check_shape(mask, shape, name=f"masks[{index}]", owner=owner, remedy=remedy)
