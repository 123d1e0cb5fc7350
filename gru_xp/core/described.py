"""Derives the model from the names (as in torch) and shapes of its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from gru_xp.core import parameters

Shapes = Mapping[str, tuple[int, ...]]


class Described(NamedTuple):
    """The model to which weights belong."""

    is_cell: bool
    sizes: dict[str, int | bool]
    """Arguments of `gru_xp.GRUCell` if `is_cell`, else of `gru_xp.GRU`."""


def described(shapes: Shapes, /, *, prefix: str = "") -> Described:
    """Find the model whose weights have these names and shapes.

    Parameters
    ----------
    shapes : mapping
        Shapes of all arrays by name, without the prefix.
    prefix : str
        Prefix that was removed from the names, for the error message.

    Raises
    ------
    ValueError
        If the arrays are not exactly the weights of one GRU or GRUCell.
    """
    is_cell = "weight_ih" in shapes
    layers = sum(re.fullmatch(r"weight_ih_l\d+", name) is not None for name in shapes)
    if not is_cell and not layers:
        raise ValueError(_no_weights(shapes, prefix))
    both = not is_cell and "weight_ih_l0_reverse" in shapes
    directions = ["", "_reverse"] if both else [""]
    suffixes = [f"_l{layer}{each}" for layer in range(layers) for each in directions]
    first = "" if is_cell else "_l0"
    bias = f"bias_ih{first}" in shapes
    rows, width = _matrix(shapes, f"weight_hh{first}")
    inputs = _matrix(shapes, f"weight_ih{first}")[1]
    if inputs < 1 or width < 1 or rows != 3 * width:
        raise ValueError(
            f"expected weight_hh{first} of shape (3H, H) and weight_ih{first} of shape (3H, I), "
            f"got weight_hh{first} of shape {(rows, width)} and weight_ih{first} with {inputs} "
            "columns"
        )
    expected: dict[str, tuple[int, ...]] = {}
    for number, suffix in enumerate([""] if is_cell else suffixes):
        is_first = number < len(directions)
        wide = inputs if is_first else len(directions) * width
        of_layer = parameters.shapes(wide, width, bias=bias)
        expected |= {f"{name}{suffix}": shape for name, shape in of_layer.items()}
    for name in [*expected, *shapes]:
        if shapes.get(name) != expected.get(name):
            raise ValueError(
                f"{name} is {_told(shapes.get(name))}, but should be {_told(expected.get(name))} "
                "in a GRU with the other weights"
            )
    sizes: dict[str, int | bool] = {"input_size": inputs, "hidden_size": width, "bias": bias}
    return Described(
        is_cell, sizes if is_cell else {**sizes, "num_layers": layers, "bidirectional": both}
    )


def _matrix(shapes: Shapes, name: str) -> tuple[int, int]:
    shape = shapes.get(name)
    if shape is None or len(shape) != 2:
        raise ValueError(f"{name} is {_told(shape)}, but should be 2-D")
    return shape[0], shape[1]


def _told(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else f"of shape {shape}"


def _no_weights(names: Shapes, prefix: str) -> str:
    found = sorted({name.rpartition("weight_ih")[0] for name in names if "weight_ih" in name})
    return (
        "expected weights with the names of torch.nn.GRU or torch.nn.GRUCell, such as weight_ih_l0"
        + (f", and the prefix {prefix!r}" if prefix else "")
        + ", found none"
        + (f". Pass prefix={prefix + found[0]!r}" if found else "")
    )
