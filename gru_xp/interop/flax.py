"""Models from flax's GRU cells and layers, and to them, of nnx and of linen.

flax is imported by `to_flax` alone, JAX by that and `to_linen`.
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
"""How linen.Sequential names its layers' variables, before a number."""


def from_flax(
    source: Any,
    /,
    *,
    backend: str = "numpy",
    device: Device | str | int | None = None,
    dtype: DType | str | None = None,
) -> Any:
    """Make a model with a copy of the weights of flax's.

    Parameters
    ----------
    source : flax.nnx.Module, sequence of them, or mapping
        Of nnx a ``GRUCell``, an ``RNN`` of one, a ``Bidirectional`` of two of these, or a list or
        ``Sequential`` of these and nothing else. Of linen the variables of such a module, with or
        without "params" around them, of a larger one its part of them: in them no options are, so
        that they are taken to be a module's with flax's defaults.
    backend, device
        As in `gru_xp.GRUCell`.
    dtype : optional
        As in `gru_xp.GRUCell`; None for that of the weights.

    Returns
    -------
    gru_xp.GRU or gru_xp.GRUCell
        Of a cell a GRUCell, else a GRU, whose `batch_first` is the opposite of ``time_major``.

    Raises
    ------
    TypeError
        If `source` is of another class.
    ValueError
        If it is what a GRU cannot express: other functions than sigmoid and tanh, a `carry_init`
        other than zeros, ``reverse``, a `merge_fn` that does not concatenate, layers of different
        sizes or ``time_major``; or if a mapping has other names than linen's.
    BackendError
        If the library, device or dtype cannot be had here; NumPy has no bfloat16.

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
    time_first = {layer.time_major for layer in layers}
    if len(time_first) != 1:
        raise ValueError(
            f"from_flax: expected layers with one value of time_major, got {len(time_first)}: make "
            "a model of each"
        )
    return model_of("from_flax", weights, batch_first=not time_first.pop(), **where)


def to_flax(model: GRU[Any] | GRUCell[Any], /) -> Any:
    """Make a flax.nnx module with a copy of a model's weights; for flax.linen see `to_linen`.

    Parameters
    ----------
    model : gru_xp.GRU or gru_xp.GRUCell
        On any backend. Dropout between layers, which acts in training alone, is left out.

    Returns
    -------
    flax.nnx.Module
        For a GRUCell a ``GRUCell``; for a GRU an ``RNN``, a ``Bidirectional`` of two, or a
        ``Sequential`` of as many of these as it has layers; ``time_major`` is the opposite of
        `batch_first`.

    Raises
    ------
    TypeError
        If `model` is neither.
    ValueError
        If flax's equations cannot express the model: with ``reset_after=False``, or with a ``b_hn``
        that is not zero where flax has no ``hn_bias``.
    BackendError
        If JAX does not have the model's dtype, as float64 without ``jax_enable_x64``.
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
    """Make the variables of a flax.linen module of a model's weights.

    Parameters
    ----------
    model : gru_xp.GRU or gru_xp.GRUCell
        On any backend.

    Returns
    -------
    dict
        ``{"params": ...}`` of JAX arrays: for a GRUCell those of a ``linen.GRUCell``; for a GRU
        those of a ``linen.RNN``, a ``linen.Bidirectional`` of two, or a ``linen.Sequential`` of as
        many of these as it has layers. Options such as ``time_major`` are the module's.

    Raises
    ------
    TypeError
        If `model` is neither.
    ValueError
        If it has ``reset_after=False``, which flax has not.
    BackendError
        If JAX does not have the model's dtype, as float64 without ``jax_enable_x64``.
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
    """Return the cells of an nnx layer's directions."""
    rnns = [layer]
    if is_a(layer, "Bidirectional", _PACKAGES):
        rnns = [layer.forward_rnn, layer.backward_rnn]
        if getattr(layer.merge_fn, "__name__", "") != "_concatenate":
            raise ValueError(
                f"from_flax: merge_fn is {layer.merge_fn!r}: expected flax's own, which "
                "concatenates, as a GRU has its directions beside each other: leave it out, and "
                "merge the halves of y"
            )
    for each in rnns:
        if not (
            is_a(each, "RNN", _PACKAGES) and is_a(getattr(each, "cell", None), "GRUCell", _PACKAGES)
        ):
            raise TypeError(
                "from_flax: expected an nnx.GRUCell, an nnx.RNN or nnx.Bidirectional of it, layers "
                f"of these, or a linen module's variables, got {type(each).__name__}"
            )
    if len(rnns) == 1 and layer.reverse:  # of two, the second is reversed whatever it says
        raise ValueError(
            "from_flax: reverse is True: expected False: set it, and reverse the steps of its input"
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


def _linen_weights(variables: Mapping[str, Any]) -> GRUParams | Stack:
    """Read the variables of a linen module: of a cell alone, or of layers."""
    if "hn" in variables:
        return _linen_cell(variables)
    numbered = [f"{_LAYER}{number}" for number in range(len(variables))]
    several = set(numbered) == set(variables)
    layers = [variables[name] for name in numbered] if several else [variables]
    weights = []
    for layer in layers:
        rnns = [layer[name] for name in ("forward_rnn", "backward_rnn") if name in layer] or [layer]
        if not all("cell" in rnn for rnn in rnns):
            raise ValueError(
                "from_flax: expected the variables of a linen.GRUCell, or of an RNN, Bidirectional "
                f"or Sequential of it, got the names {list(layer)}: pass the part that belongs to "
                "one"
            )
        weights.append([_linen_cell(rnn["cell"]) for rnn in rnns])
    return weights


def _linen_cell(variables: Mapping[str, Any]) -> GRUParams:
    arrays = {
        f"{layer}.{name}": array
        for layer, arrays in variables.items()
        for name, array in arrays.items()
    }
    return to_params(FLAX_LINEN, arrays)


def _nested(arrays: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Turn "ir.kernel" into two levels of names."""
    levels: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        layer, _, last = name.partition(".")
        levels.setdefault(layer, {})[last] = array
    return levels
