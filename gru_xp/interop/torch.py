"""``torch.nn.GRU`` and ``torch.nn.GRUCell``: in their place, and models from and to them.

`GRU` and `GRUCell` here are torch modules, for torch scripts; `from_torch` and `to_torch` convert
between torch's modules and `gru_xp.GRU` and `gru_xp.GRUCell`.
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
    """Make a model with a copy of the weights of torch's.

    Parameters
    ----------
    source : torch.nn.Module or mapping
        A ``torch.nn.GRU`` or ``torch.nn.GRUCell``, whose options are taken too; a module that has
        one, with `prefix`; or a state dict, which has no options: then `batch_first` is False and
        `dropout` 0. Weights that torch computes, as under ``torch.nn.utils.parametrize``, are taken
        from a module as they are at this moment.
    prefix : str
        What the names begin with, such as "rnn." for the attribute ``rnn``.
    backend, device
        As in `gru_xp.GRUCell`.
    dtype : optional
        As in `gru_xp.GRUCell`; None for that of the weights.

    Returns
    -------
    gru_xp.GRU or gru_xp.GRUCell
        In training or evaluation mode as the module is.

    Raises
    ------
    TypeError
        If `source`, or what it has at `prefix`, is of another class.
    ValueError
        If the weights are not those of a GRU.
    BackendError
        If the library, device or dtype cannot be had here; NumPy has no bfloat16.

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
            if name.startswith(prefix)
        }
        for name, value in weights.items():
            if not isinstance(value, torch.Tensor):
                raise TypeError(
                    f"from_torch: expected a mapping of names to tensors, got {prefix + name!r}: "
                    f"{type(value).__name__}"
                    + (": pass that" if isinstance(value, Mapping) else "")
                )
    else:
        raise TypeError(
            "from_torch: expected a torch.nn.GRU, a torch.nn.GRUCell, a module that has one, or a "
            f"state dict, got {type(source).__name__}"
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
    """Make a ``torch.nn.GRU`` or ``torch.nn.GRUCell`` with a copy of a model's weights.

    Parameters
    ----------
    model : gru_xp.GRU or gru_xp.GRUCell
        On any backend.

    Returns
    -------
    torch.nn.GRU or torch.nn.GRUCell
        On the CPU, of the model's dtype, in its training or evaluation mode.

    Raises
    ------
    TypeError
        If `model` is neither.
    ValueError
        If its reset gate acts before the product, or it runs in reverse alone, which torch's GRUs
        do not have.
    """
    if not isinstance(model, (layer.GRU, cell.GRUCell)):
        raise TypeError(f"to_torch: expected a GRU or a GRUCell, got {type(model).__name__}")
    if not model.reset_after:
        raise ValueError(
            "to_torch: torch's GRUs have the reset gate after the product, this model has it "
            "before (reset_after=False): there are no weights with which they would compute the "
            "same"
        )
    if isinstance(model, layer.GRU) and model.reverse:
        raise ValueError(
            "to_torch: torch has no GRU that runs in reverse alone (reverse=True): load this "
            "model's state_dict() into a GRU without reverse=True, convert that, and flip each "
            "row's steps before the call, and those of its output after it"
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
        theirs.dropout = model.dropout  # as an argument it is warned of where there is one layer
    else:
        theirs = torch.nn.GRUCell(model.input_size, model.hidden_size, model.bias, **where)
    theirs.load_state_dict(weights)
    return theirs.train(model.training)


def _submodule(module: torch.nn.Module, prefix: str) -> Any:
    path = prefix.removesuffix(".")
    try:
        found = module.get_submodule(path)
    except AttributeError as error:
        raise ValueError(f"from_torch: the module has nothing at {path!r}: {error}") from error
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
        + (f": pass prefix={inside[0] + '.'!r}" if inside else ", which has none")
    )
