"""Checks of what users pass in, each with one error that says what to do.

Of arrays only shapes, dtypes, libraries and devices are looked at, never values, so that
``jax.jit`` and ``torch.compile`` can trace through. Lengths on the host are read.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gru_xp import backend, dtypes
from gru_xp.dtypes import is_real_floating
from gru_xp.parameters import GRUParams, shapes
from gru_xp.typing import Array, Namespace


def check_params(params: GRUParams, /, *, owner: str) -> tuple[int, int]:
    """Check the packed arrays against each other and return (input_size, hidden_size)."""
    if not isinstance(params, GRUParams):
        raise TypeError(f"{owner}: expected a GRUParams, got {type(params).__name__}")
    weight_ih, weight_hh, bias_ih, bias_hh = params
    for name, array in params._asdict().items():
        if array is None and name.startswith("bias"):
            continue
        if not backend.is_array(array):
            raise TypeError(f"{owner}: {name} must be an array, got {type(array).__name__}")
        if "float" not in dtypes.dtype_name(array.dtype):
            raise TypeError(f"{owner}: {name} must be of a floating dtype, got {array.dtype}")
        if not backend.same_device(weight_ih, array):
            raise ValueError(
                f"{owner}: {name} is on device {backend.device(array)}, weight_ih on "
                f"{backend.device(weight_ih)}: move one"
            )
    for name, weight in (("weight_ih", weight_ih), ("weight_hh", weight_hh)):
        if weight.ndim != 2 or weight.shape[1] == 0:
            raise ValueError(
                f"{owner}: {name} must be 2-D and not empty, got shape {tuple(weight.shape)}"
            )
    if (bias_ih is None) != (bias_hh is None):
        raise ValueError(f"{owner}: expected both of bias_ih and bias_hh, or neither")
    input_size, hidden_size = weight_ih.shape[1], weight_hh.shape[1]
    expected = shapes(input_size, hidden_size, bias=bias_ih is not None)
    for name, array in params.named().items():
        if tuple(array.shape) != expected[name]:
            raise ValueError(
                f"{owner}: {name} must have shape {expected[name]} for input size {input_size} "
                f"and hidden size {hidden_size}, got {tuple(array.shape)}"
            )
    return input_size, hidden_size


def check_array(value: Any, like: Array, /, *, name: str, owner: str, xp: Namespace) -> None:
    """Check that a value is an array of the weights' library, on their device, of numbers."""
    if type(value) is type(like) is np.ndarray and value.dtype == like.dtype:
        return  # at once: what follows takes longer than a small step's arithmetic
    ours = backend.name_of(xp)
    if not backend.is_array(value):
        raise TypeError(
            f"{owner}: expected {name} to be an array of {ours}, as the weights are, got "
            f"{type(value).__name__}: pass {_example(ours)}"
        )
    theirs = backend.name_of(backend.array_namespace(value))
    if theirs != ours:
        raise TypeError(
            f"{owner}: {name} is an array of {theirs}, the weights are of {ours}: convert {name} "
            f"({_example(ours)}) or move the weights with .to(backend={theirs!r})"
        )
    if not backend.same_device(like, value):
        raise ValueError(
            f"{owner}: {name} is on device {backend.device(value)}, the weights are on "
            f"{backend.device(like)}: move {name}, or the weights with .to(device=...)"
        )
    if value.dtype != like.dtype and not (
        is_real_floating(value.dtype, xp=xp) or xp.isdtype(value.dtype, ("integral", "bool"))
    ):
        raise TypeError(
            f"{owner}: expected {name} of a real floating or integer dtype, got {value.dtype}: "
            "cast it first"
        )


def _example(name: str) -> str:
    calls = {
        "torch": "torch.as_tensor(...)",
        "jax": "jax.numpy.asarray(...)",
        "numpy": "numpy.asarray(...), from another library gru_xp.to_numpy(...)",
    }
    return calls.get(name, f"{name}.asarray(...)")


def check_step(
    x: Array, h: Array | None, /, *, input_size: int, hidden_size: int, owner: str
) -> None:
    """Check the shapes of one step's input (I,) or (N, I) and state (H,) or (N, H)."""
    if x.ndim not in (1, 2):
        raise ValueError(
            f"{owner}: expected input to be 1-D ({input_size},) or 2-D (batch, {input_size}), got "
            f"{x.ndim}-D of shape {tuple(x.shape)}: a cell takes one step a call"
        )
    if x.shape[-1] != input_size:
        raise ValueError(
            f"{owner}: input has inconsistent input_size: expected {input_size}, got "
            f"{x.shape[-1]} (shape {tuple(x.shape)}): its last axis must have the size that the "
            "cell was made with"
        )
    if h is None:
        return
    if h.ndim != x.ndim:
        raise ValueError(
            f"{owner}: expected hidden to be {x.ndim}-D as the input is (shape "
            f"{tuple(x.shape)}), got {h.ndim}-D of shape {tuple(h.shape)}: give both a batch axis "
            "or neither"
        )
    if h.shape[-1] != hidden_size:
        raise ValueError(
            f"{owner}: hidden has inconsistent hidden_size: expected {hidden_size}, got "
            f"{h.shape[-1]} (shape {tuple(h.shape)}): its last axis must have the size that the "
            "cell was made with"
        )
    if x.ndim == 2 and x.shape[0] != h.shape[0]:
        raise ValueError(
            f"{owner}: input batch size {x.shape[0]} doesn't match hidden batch size "
            f"{h.shape[0]}: pass one state for each row of the input"
        )


def check_delta(delta: Array, shape: tuple[int, ...], /, *, owner: str) -> None:
    """Check a gradient's shape against that of the output: a batch axis of 1 may come or go."""
    rows = (1, *shape) if len(shape) == 1 else shape
    allowed = [shape] + ([(1, *shape)] if len(shape) == 1 else [])
    if len(shape) == 2 and rows[0] == 1:
        allowed.append(shape[1:])
    if tuple(delta.shape) not in allowed:
        raise ValueError(
            f"{owner}: expected delta of the output's shape {shape}, got {tuple(delta.shape)}: "
            "pass the gradient with respect to what the forward returned"
        )


def check_shape(array: Array, shape: tuple[int, ...], /, *, name: str, owner: str) -> None:
    """Check that an array has just this shape."""
    if tuple(array.shape) != shape:
        raise ValueError(
            f"{owner}: expected {name} of shape {shape}, got {tuple(array.shape)}: see its "
            "docstring for the order of axes, layers and directions"
        )


def check_sequence(
    x: Array, /, *, input_size: int, batch_first: bool, owner: str
) -> tuple[int, int]:
    """Check the shape of a whole input and return (T, N), N = 1 where it has no batch axis."""
    axes = "batch, time" if batch_first else "time, batch"
    if x.ndim not in (2, 3):
        raise ValueError(
            f"{owner}: expected input to be 2-D (time, {input_size}) or 3-D ({axes}, "
            f"{input_size}), got {x.ndim}-D of shape {tuple(x.shape)}: for a single step use a "
            "GRUCell or GRU.stream"
        )
    if x.shape[-1] != input_size:
        raise ValueError(
            f"{owner}: input has inconsistent input_size: expected {input_size}, got "
            f"{x.shape[-1]} (shape {tuple(x.shape)}): its last axis must have the size that the "
            "layer was made with"
        )
    if x.ndim == 2:
        return x.shape[0], 1
    return (x.shape[1], x.shape[0]) if batch_first else (x.shape[0], x.shape[1])


def check_lengths(
    lengths: Any,
    /,
    *,
    steps: int,
    rows: int,
    batched: bool,
    like: Array,
    owner: str,
    xp: Namespace,
) -> Array:
    """Check the lengths of a ragged batch and return them as an integer array beside `like`.

    Integers on the host are checked against T. Arrays of other libraries than NumPy are not read,
    which would stop a trace and wait for a GPU: a length beyond T means T there, below 0 means 0.
    """
    if not batched:
        raise ValueError(
            f"{owner}: lengths need a batch axis, got an input without one: leave lengths away, "
            "or give input of 3 dimensions"
        )
    on_host = not backend.is_array(lengths) or isinstance(lengths, np.ndarray)
    if on_host:
        try:
            lengths = np.asarray(lengths)
        except ValueError:
            raise TypeError(
                f"{owner}: expected lengths to be integers, one a row, got {lengths}"
            ) from None
        if lengths.size == 0:
            lengths = lengths.astype(np.int32)
    else:
        check_array(lengths, like, name="lengths", owner=owner, xp=xp)
    dtype = dtypes.dtype_name(lengths.dtype)
    if not dtype.startswith(("int", "uint")):
        raise TypeError(f"{owner}: expected lengths to be integers, got {dtype}")
    if tuple(lengths.shape) != (rows,):
        raise ValueError(
            f"{owner}: expected lengths of shape ({rows},), one for each row of the batch, got "
            f"{tuple(lengths.shape)}"
        )
    if not on_host:  # a small dtype would not count all T steps
        return xp.astype(lengths, xp.int32) if dtype.endswith(("t8", "16")) else lengths
    wrong = np.flatnonzero((lengths < 0) | (lengths > steps))
    if wrong.size:
        raise ValueError(
            f"{owner}: expected lengths between 0 and the {steps} steps of the input, got "
            f"{lengths[wrong[0]]} for row {wrong[0]}"
        )
    return backend.from_numpy(lengths, xp=xp, dtype=xp.int32, device=backend.device(like))


def check_masks(
    masks: tuple[Array, ...],
    shape: tuple[int, ...],
    /,
    *,
    layers: int,
    owner: str,
    like: Array,
    xp: Namespace,
) -> None:
    """Check dropout masks: none, or one for each layer but the last."""
    if masks and len(masks) != layers - 1:
        raise ValueError(
            f"{owner}: expected {layers - 1} dropout masks, one for each layer but the last, or "
            f"none, got {len(masks)}"
        )
    for index, mask in enumerate(masks):
        check_array(mask, like, name=f"masks[{index}]", owner=owner, xp=xp)
        check_shape(mask, shape, name=f"masks[{index}]", owner=owner)
