"""Functions shared by the converters: models from weights, and weights from models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from gru_xp.arrays import transfer
from gru_xp.arrays.dtypes import dtype_name
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array, Device, DType
from gru_xp.cell import GRUCell
from gru_xp.core.described import described
from gru_xp.core.parameters import GRUParams
from gru_xp.interop.conversion import Host, Layout, to_params
from gru_xp.layer import GRU

Stack = Sequence[Sequence[GRUParams]]
"""Weights of each layer and, within a layer, of each direction."""


def is_a(source: Any, name: str, packages: Sequence[str], /) -> bool:
    """Whether an object is an instance of a class with this name from one of these packages.

    Names are compared, so that no framework has to be imported.
    """
    return any(
        each.__name__ == name and each.__module__.partition(".")[0] in packages
        for each in type(source).__mro__
    )


def read(layout: Layout, source: Any, /, *, host: Callable[[Any], Any] = np.asarray) -> GRUParams:
    """Read the weights that an object has as attributes with the names of a layout.

    Parameters
    ----------
    layout : Layout
        Convention of the framework.
    source : object
        A framework's cell or layer.
    host : callable
        Converts a framework's array to a NumPy array.
    """
    found = {each.name: attrgetter(each.name)(source) for each in layout.arrays}
    arrays = {name: host(value) for name, value in found.items() if value is not None}
    return to_params(layout, arrays)


def model_of(
    owner: str,
    weights: GRUParams | Stack,
    /,
    *,
    backend: str,
    device: Device | str | int | None,
    dtype: DType | str | None,
    **options: Any,
) -> Any:
    """Create a GRUCell from the weights of one direction, or a GRU from those of its layers.

    Parameters
    ----------
    owner : str
        Name of the function that the user called, with which error messages begin.
    weights : GRUParams or sequence of sequences of GRUParams
        NumPy arrays.
    backend, device, dtype
        As in `gru_xp.GRUCell`. A dtype of None selects that of the weights.
    **options
        Other arguments of the class.

    Raises
    ------
    ValueError
        If the weights do not form one model.
    """
    if isinstance(weights, GRUParams):
        named = weights.named()
    else:
        named = {
            f"{name}_l{layer}{end}": array
            for layer, directions in enumerate(weights)
            for end, params in zip(["", "_reverse"], directions, strict=False)
            for name, array in params.named().items()
        }
    try:
        found = described({name: array.shape for name, array in named.items()})
    except ValueError as error:
        raise ValueError(f"{owner}: {error}") from error
    if dtype is None:
        dtype = next(iter(named.values())).dtype.name
    kind: Any = GRUCell if found.is_cell else GRU
    model = kind(**found.sizes, **options, backend=backend, device=device, dtype=dtype)
    # Most libraries do not accept NumPy arrays of ml_dtypes' bfloat16.
    small = {name: array for name, array in named.items() if array.dtype.name == "bfloat16"}
    model.load_state_dict(named | {name: array.astype("float32") for name, array in small.items()})
    return model


def weights_of(owner: str, model: Any, /) -> Stack:
    """Return a model's weights as NumPy arrays. A GRUCell is treated as one layer.

    Raises
    ------
    TypeError
        If `model` is neither a GRU nor a GRUCell.
    ValueError
        If the model is a GRU with ``reverse=True``.
    """
    if not isinstance(model, (GRU, GRUCell)):
        raise TypeError(f"{owner}: expected a GRU or a GRUCell, got {type(model).__name__}")
    if isinstance(model, GRU) and model.reverse:
        raise ValueError(
            f"{owner}: a GRU with reverse=True cannot be converted. Convert a GRU with the same "
            "weights and reverse=False, and reverse the steps of each row of its input and output"
        )
    each = model.params if isinstance(model, GRU) else [model.params]
    host = [
        GRUParams(*(None if array is None else transfer.to_numpy(array) for array in params))
        for params in each
    ]
    directions = 1 + (isinstance(model, GRU) and model.bidirectional)
    return [host[first : first + directions] for first in range(0, len(host), directions)]


def only_weights_of(owner: str, model: Any, /) -> GRUParams:
    """Return the weights of a model that has one layer and one direction.

    Raises
    ------
    TypeError
        If `model` is neither a GRU nor a GRUCell.
    ValueError
        If the model has more layers or directions.
    """
    weights = weights_of(owner, model)
    if len(weights) > 1 or len(weights[0]) > 1:
        raise ValueError(
            f"{owner}: expected a model with one layer and one direction, got {model!r}. Convert "
            "each layer and direction with gru_xp.interop.layouts"
        )
    return weights[0][0]


def jax_arrays(arrays: Mapping[str, Host], model: Any, /) -> dict[str, Array]:
    """Copy arrays to JAX's default device, in the dtype of a model.

    Raises
    ------
    BackendError
        If JAX does not support the dtype, or has it disabled.
    """
    place = Place.named("jax", dtype=dtype_name(model.dtype))
    return {name: transfer.from_numpy(array, place) for name, array in arrays.items()}


def check_function(owner: str, name: str, function: Any, expected: str, /) -> None:
    """Check by its name that a function of a layer is the one that a GRU uses."""
    found = getattr(function, "__name__", repr(function))
    if found != expected:
        raise ValueError(
            f"{owner}: expected {name} to be {expected}, the only function that gru_xp supports, "
            f"got {found}"
        )
