"""Replacements for ``torch.nn.GRU`` and ``torch.nn.GRUCell``, and conversion from and to them.

The classes `GRU` and `GRUCell` in this module are torch modules that replace those of torch.
`from_torch` and `to_torch` convert between torch's modules and `gru_xp.GRU` or `gru_xp.GRUCell`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gru_xp import cell, layer
from gru_xp.arrays import transfer
from gru_xp.arrays.dtypes import dtype_name
from gru_xp.arrays.typing import Device, DType
from gru_xp.core.described import described
from gru_xp.interop.torch_modules import GRU, GRUCell

__all__ = ["GRU", "GRUCell", "from_torch", "to_torch"]


def from_torch(
    source: torch.nn.Module | Mapping[str, Any],
    /,
    *,
    prefix: str = "",
    backend: str = "numpy",
    device: Device | str | int | None = None,
    dtype: DType | str | None = None,
) -> Any:
    """Create a model with a copy of the weights of a torch module or state dict.

    Parameters
    ----------
    source : torch.nn.Module or mapping
        A ``torch.nn.GRU`` or ``torch.nn.GRUCell``, a module that contains one (see `prefix`), or a
        state dict. The options of a module are copied as well. A state dict has no options; the
        model then has `batch_first` False and `dropout` 0. Weights that a module computes, as with
        ``torch.nn.utils.parametrize``, are copied with their current values.
    prefix : str
        Prefix of the names, such as "rnn." for the attribute ``rnn`` of a module.
    backend, device
        As in `gru_xp.GRUCell`.
    dtype : optional
        As in `gru_xp.GRUCell`. None selects the dtype of the weights.

    Returns
    -------
    gru_xp.GRU or gru_xp.GRUCell
        The model, in training or evaluation mode like the module.

    Raises
    ------
    TypeError
        If `source`, or its submodule at `prefix`, is an instance of another class.
    ValueError
        If the weights are not those of a GRU.
    BackendError
        If the library, device or dtype is not available. NumPy has no bfloat16.

    Examples
    --------
    >>> import torch
    >>> from gru_xp.interop.torch import from_torch
    >>> from_torch(torch.nn.GRU(3, 4, batch_first=True))
    GRU(3, 4, batch_first=True, backend='numpy', device='cpu', dtype='float32')
    """
    options: dict[str, Any] = {}
    training = True
    if isinstance(source, torch.nn.Module):
        module = _submodule(source, prefix)
        training = module.training
        if isinstance(module, torch.nn.GRU):
            options = {"batch_first": module.batch_first, "dropout": float(module.dropout)}
            names = [name for names in module._all_weights for name in names]
        else:
            names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if module.bias else [])]
        weights = {name: getattr(module, name) for name in names}
    elif isinstance(source, Mapping):
        weights = {
            name.removeprefix(prefix): value
            for name, value in source.items()
            if isinstance(name, str) and name.startswith(prefix)
        }
        for name, value in weights.items():
            if not isinstance(value, torch.Tensor):
                raise TypeError(
                    "from_torch: expected a mapping of names to tensors, got "
                    f"{type(value).__name__} for the name {prefix + name!r}"
                    + (". Pass that mapping instead" if isinstance(value, Mapping) else "")
                )
    else:
        raise TypeError(
            "from_torch: expected a torch.nn.GRU, a torch.nn.GRUCell, a module that contains one, "
            f"or a state dict, got {type(source).__name__}"
        )
    try:
        found = described(
            {name: tuple(value.shape) for name, value in weights.items()}, prefix=prefix
        )
    except ValueError as error:
        raise ValueError(f"from_torch: {error}") from error
    if dtype is None:
        dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    kind: Any = cell.GRUCell if found.is_cell else layer.GRU
    model = kind(**found.sizes, **options, backend=backend, device=device, dtype=dtype)
    model.load_state_dict({name: value.detach() for name, value in weights.items()})
    return model.train(training)


def to_torch(model: layer.GRU[Any] | cell.GRUCell[Any], /) -> Any:
    """Create a ``torch.nn.GRU`` or ``torch.nn.GRUCell`` with a copy of a model's weights.

    Parameters
    ----------
    model : gru_xp.GRU or gru_xp.GRUCell
        Model on any backend.

    Returns
    -------
    torch.nn.GRU or torch.nn.GRUCell
        A module on the CPU with the dtype of the model, in its training or evaluation mode.

    Raises
    ------
    TypeError
        If `model` is neither a GRU nor a GRUCell.
    ValueError
        If the model has ``reset_after=False`` or ``reverse=True``, which torch's GRUs do not
        support.
    """
    if not isinstance(model, (layer.GRU, cell.GRUCell)):
        raise TypeError(f"to_torch: expected a GRU or a GRUCell, got {type(model).__name__}")
    if not model.reset_after:
        raise ValueError(
            "to_torch: expected a model with reset_after=True, the only form that torch supports, "
            "got reset_after=False. No conversion between the two forms exists"
        )
    if isinstance(model, layer.GRU) and model.reverse:
        raise ValueError(
            "to_torch: a GRU with reverse=True cannot be converted, because torch does not support "
            "it. Load this model's state_dict() into a GRU with reverse=False, convert that, and "
            "reverse the steps of each row of its input and output"
        )
    weights = {
        name: torch.from_numpy(transfer.to_numpy(array).astype("float64"))
        for name, array in model.parameters().items()
    }
    where = {"device": "cpu", "dtype": getattr(torch, dtype_name(model.dtype))}
    theirs: torch.nn.Module
    if isinstance(model, layer.GRU):
        theirs = torch.nn.GRU(
            model.input_size,
            model.hidden_size,
            model.num_layers,
            model.bias,
            model.batch_first,
            bidirectional=model.bidirectional,
            **where,
        )
        theirs.dropout = model.dropout  # as an argument, it causes a warning if there is one layer
    else:
        theirs = torch.nn.GRUCell(model.input_size, model.hidden_size, model.bias, **where)
    theirs.load_state_dict(weights)
    return theirs.train(model.training)


def _submodule(module: torch.nn.Module, prefix: str) -> Any:
    path = prefix.removesuffix(".")
    try:
        found = module.get_submodule(path)
    except AttributeError as error:
        raise ValueError(f"from_torch: the module has no submodule {path!r}: {error}") from error
    if isinstance(found, (torch.nn.GRU, torch.nn.GRUCell)):
        return found
    inside = [
        name
        for name, each in found.named_modules(prefix=path)
        if isinstance(each, (torch.nn.GRU, torch.nn.GRUCell))
    ]
    raise TypeError(
        "from_torch: expected a torch.nn.GRU or a torch.nn.GRUCell, got "
        f"{type(found).__name__}"
        + (f". Pass prefix={inside[0] + '.'!r}" if inside else ", which contains neither")
    )
