"""Conversion from and to the GRU cells and layers of flax.nnx and flax.linen.

Only `to_flax` imports flax; `to_flax` and `to_linen` import JAX.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gru_xp.arrays.dtypes import dtype_name
from gru_xp.arrays.typing import Device, DType
from gru_xp.cell import GRUCell
from gru_xp.core.parameters import GRUParams
from gru_xp.interop.conversion import Layout, from_params, to_params
from gru_xp.interop.layouts import FLAX_LINEN, FLAX_NNX, FLAX_NNX_HN_BIAS
from gru_xp.interop.models import (
    Stack,
    check_function,
    is_a,
    jax_arrays,
    model_of,
    read,
    weights_of,
)
from gru_xp.layer import GRU

__all__ = ["from_flax", "to_flax", "to_linen"]

_PACKAGES = ("flax",)
_LAYER = "layers_"
"""Prefix, before a number, of the names that linen.Sequential gives its layers' variables."""


def from_flax(
    source: Any,
    /,
    *,
    backend: str = "numpy",
    device: Device | str | int | None = None,
    dtype: DType | str | None = None,
) -> Any:
    """Create a model with a copy of the weights of a flax module.

    Parameters
    ----------
    source : flax.nnx.Module, sequence of them, or mapping
        For nnx, a ``GRUCell``, an ``RNN`` of one, a ``Bidirectional`` of two such RNNs, or a list
        or ``Sequential`` that contains only these. For linen, the variables of such a module, with
        or without the key "params"; for a module inside a larger one, its part of the variables.
        Variables do not contain options; flax's defaults are assumed.
    backend, device
        As in `gru_xp.GRUCell`.
    dtype : optional
        As in `gru_xp.GRUCell`. None selects the dtype of the weights.

    Returns
    -------
    gru_xp.GRU or gru_xp.GRUCell
        For a cell a GRUCell, else a GRU, whose `batch_first` is the opposite of ``time_major``.

    Raises
    ------
    TypeError
        If `source` is an instance of another class.
    ValueError
        If `source` has features that a GRU does not support: functions other than sigmoid and tanh,
        a ``carry_init`` other than zeros, ``reverse``, a ``merge_fn`` that does not concatenate, or
        layers with different sizes or values of ``time_major``; or if the names in a mapping are
        not those of linen.
    BackendError
        If the library, device or dtype is not available. NumPy has no bfloat16.

    Examples
    --------
    >>> from flax import nnx
    >>> from gru_xp.interop.flax import from_flax
    >>> from_flax(nnx.RNN(nnx.GRUCell(3, 4, rngs=nnx.Rngs(0))))
    GRU(3, 4, batch_first=True, backend='numpy', device='cpu', dtype='float32')
    """
    where: dict[str, Any] = {"backend": backend, "device": device, "dtype": dtype}
    if isinstance(source, Mapping):
        of_linen = _linen_weights(source.get("params", source))
        if not isinstance(of_linen, GRUParams):
            where["batch_first"] = True
        return model_of("from_flax", of_linen, **where)
    if is_a(source, "GRUCell", _PACKAGES):
        return model_of("from_flax", _params(source), **where)
    layers = source.layers if is_a(source, "Sequential", _PACKAGES) else source
    if not isinstance(layers, (list, tuple)) and not is_a(layers, "List", _PACKAGES):
        layers = [layers]
    weights = [[_params(cell) for cell in _cells(layer)] for layer in layers]
    if not layers:
        raise ValueError("from_flax: expected at least one layer, got none")
    time_first = {layer.time_major for layer in layers}
    if len(time_first) != 1:
        raise ValueError(
            "from_flax: expected the same time_major in all layers, got True and False. Convert "
            "the layers separately"
        )
    return model_of("from_flax", weights, batch_first=not time_first.pop(), **where)


def to_flax(model: GRU[Any] | GRUCell[Any], /) -> Any:
    """Create a flax.nnx module with a copy of a model's weights. For flax.linen see `to_linen`.

    Parameters
    ----------
    model : gru_xp.GRU or gru_xp.GRUCell
        Model on any backend. Dropout between layers is not converted.

    Returns
    -------
    flax.nnx.Module
        For a GRUCell, a ``GRUCell``. For a GRU, an ``RNN`` or a ``Bidirectional`` of two, and for
        several layers a ``Sequential`` of these; ``time_major`` is the opposite of `batch_first`.

    Raises
    ------
    TypeError
        If `model` is neither a GRU nor a GRUCell.
    ValueError
        If flax cannot represent the model: if it has ``reset_after=False`` or ``reverse=True``, or
        a non-zero ``b_hn`` while the installed flax has no ``hn_bias``.
    BackendError
        If JAX does not support the dtype of the model, such as float64 without ``jax_enable_x64``.
    """
    weights = weights_of("to_flax", model)
    from flax import nnx

    def cell(params: GRUParams) -> Any:
        made = nnx.GRUCell(
            params.weight_ih.shape[1],
            model.hidden_size,
            param_dtype=dtype_name(model.dtype),
            kernel_init=nnx.initializers.zeros_init(),
            recurrent_kernel_init=nnx.initializers.zeros_init(),
            rngs=nnx.Rngs(0),
        )
        arrays = from_params(_layout(made), params, reset_after=model.reset_after)
        for name, array in jax_arrays(arrays, model).items():
            *path, last = name.split(".")
            holder = made
            for each in path:
                holder = getattr(holder, each)
            getattr(holder, last)[...] = array
        return made

    if isinstance(model, GRUCell):
        return cell(weights[0][0])
    order = {"time_major": not model.batch_first}
    layers = []
    for directions in weights:
        rnns = [nnx.RNN(cell(params), **order) for params in directions]
        layers.append(nnx.Bidirectional(*rnns, **order) if model.bidirectional else rnns[0])
    return layers[0] if len(layers) == 1 else nnx.Sequential(*layers)


def to_linen(model: GRU[Any] | GRUCell[Any], /) -> dict[str, Any]:
    """Create the variables of a flax.linen module from a model's weights.

    Parameters
    ----------
    model : gru_xp.GRU or gru_xp.GRUCell
        Model on any backend.

    Returns
    -------
    dict
        ``{"params": ...}`` with JAX arrays: for a GRUCell, the variables of a ``linen.GRUCell``;
        for a GRU, those of a ``linen.RNN`` or a ``linen.Bidirectional`` of two, and for several
        layers those of a ``linen.Sequential`` of these. Set options such as ``time_major`` in the
        linen module.

    Raises
    ------
    TypeError
        If `model` is neither a GRU nor a GRUCell.
    ValueError
        If the model has ``reset_after=False`` or ``reverse=True``, which flax does not support.
    BackendError
        If JAX does not support the dtype of the model, such as float64 without ``jax_enable_x64``.
    """

    def cell(params: GRUParams) -> dict[str, Any]:
        arrays = from_params(FLAX_LINEN, params, reset_after=model.reset_after)
        return _nested(jax_arrays(arrays, model))

    written = [[cell(params) for params in each] for each in weights_of("to_linen", model)]
    if isinstance(model, GRUCell):
        return {"params": written[0][0]}
    layers: list[dict[str, Any]] = []
    for directions in written:
        rnns = [{"cell": cell} for cell in directions]
        both = dict(zip(["forward_rnn", "backward_rnn"], rnns, strict=False))
        layers.append(both if model.bidirectional else rnns[0])
    several = {f"{_LAYER}{number}": layer for number, layer in enumerate(layers)}
    return {"params": layers[0] if len(layers) == 1 else several}


def _cells(layer: Any) -> list[Any]:
    """Return the cell of each direction of an nnx layer."""
    rnns = [layer]
    if is_a(layer, "Bidirectional", _PACKAGES):
        rnns = [layer.forward_rnn, layer.backward_rnn]
        if getattr(layer.merge_fn, "__name__", "") != "_concatenate":
            raise ValueError(
                "from_flax: expected the default merge_fn, which concatenates the directions, got "
                f"{layer.merge_fn!r}. Leave it out, and merge the two halves of y after the call"
            )
    for each in rnns:
        if not (
            is_a(each, "RNN", _PACKAGES) and is_a(getattr(each, "cell", None), "GRUCell", _PACKAGES)
        ):
            raise TypeError(
                "from_flax: expected an nnx.GRUCell, an nnx.RNN or nnx.Bidirectional of it, a list "
                "of several nnx.RNN or nnx.Bidirectional, or the variables of a linen module, got "
                f"{type(each).__name__}"
            )
    if len(rnns) == 1 and layer.reverse:  # Bidirectional ignores the attribute of its parts
        raise ValueError(
            "from_flax: expected reverse=False, got True. Set it to False, and reverse the steps "
            "of the input"
        )
    return [each.cell for each in rnns]


def _params(cell: Any) -> GRUParams:
    check_function("from_flax", "gate_fn", cell.gate_fn, "sigmoid")
    check_function("from_flax", "activation_fn", cell.activation_fn, "tanh")
    if getattr(cell, "carry_init", None) is not None:
        check_function("from_flax", "carry_init", cell.carry_init, "zeros")
    return read(_layout(cell), cell)


def _layout(cell: Any) -> Layout:
    return FLAX_NNX_HN_BIAS if hasattr(cell, "hn_bias") else FLAX_NNX


def _linen_weights(variables: Any) -> GRUParams | Stack:
    """Read the variables of a linen module: those of a cell or of layers."""
    _check_mapping(variables)
    if "hn" in variables:
        return _linen_cell(variables)
    numbered = [f"{_LAYER}{number}" for number in range(len(variables))]
    several = set(numbered) == set(variables)
    layers = [variables[name] for name in numbered] if several else [variables]
    weights = []
    for layer in layers:
        _check_mapping(layer)
        rnns = [layer[name] for name in ("forward_rnn", "backward_rnn") if name in layer] or [layer]
        for rnn in rnns:
            _check_mapping(rnn)
        if not all("cell" in rnn for rnn in rnns):
            raise ValueError(
                "from_flax: expected the variables of a linen.GRUCell, or of an RNN, Bidirectional "
                f"or Sequential of it, got the names {list(layer)}. Pass the part of the variables "
                "that belongs to such a module"
            )
        weights.append([_linen_cell(rnn["cell"]) for rnn in rnns])
    return weights


def _linen_cell(variables: Any) -> GRUParams:
    _check_mapping(variables)
    for layer in variables.values():
        _check_mapping(layer)
    arrays = {
        f"{layer}.{name}": array
        for layer, arrays in variables.items()
        for name, array in arrays.items()
    }
    return to_params(FLAX_LINEN, arrays)


def _check_mapping(variables: Any) -> None:
    if not isinstance(variables, Mapping):
        raise ValueError(
            "from_flax: expected the variables of a linen module, which are nested mappings of "
            f"names, got {type(variables).__name__} instead of a mapping"
        )


def _nested(arrays: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Turn names such as "ir.kernel" into two levels of dicts."""
    levels: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        layer, _, last = name.partition(".")
        levels.setdefault(layer, {})[last] = array
    return levels
