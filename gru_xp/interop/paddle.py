"""Conversion from and to Paddle's GRU layers and cells.

Only `to_paddle` imports Paddle.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np

from gru_xp.arrays.dtypes import dtype_name
from gru_xp.arrays.typing import Device, DType
from gru_xp.cell import GRUCell
from gru_xp.core.parameters import GRUParams
from gru_xp.interop.conversion import Host, from_params
from gru_xp.interop.layouts import PADDLE
from gru_xp.interop.models import is_a, model_of, read, weights_of
from gru_xp.layer import GRU

__all__ = ["from_paddle", "to_paddle"]

_PACKAGES = ("paddle",)


def from_paddle(
    source: Any,
    /,
    *,
    backend: str = "numpy",
    device: Device | str | int | None = None,
    dtype: DType | str | None = None,
) -> Any:
    """Create a model with a copy of the weights of a Paddle layer.

    Parameters
    ----------
    source : paddle.nn.Layer
        A ``GRU``, a ``GRUCell``, or an ``RNN`` or ``BiRNN`` of such cells.
    backend, device
        As in `gru_xp.GRUCell`.
    dtype : optional
        As in `gru_xp.GRUCell`. None selects the dtype of the weights.

    Returns
    -------
    gru_xp.GRU or gru_xp.GRUCell
        The model, in training or evaluation mode like `source`. A GRU has the ``dropout`` of
        `source`, and its `batch_first` is the opposite of ``time_major``.

    Raises
    ------
    TypeError
        If `source` is an instance of another class.
    ValueError
        If `source` is an ``RNN`` with ``is_reverse``, or the shapes of its cells do not match.
    BackendError
        If the library, device or dtype is not available. NumPy has no bfloat16.

    Examples
    --------
    >>> import paddle
    >>> from gru_xp.interop.paddle import from_paddle
    >>> from_paddle(paddle.nn.GRU(3, 4))
    GRU(3, 4, batch_first=True, backend='numpy', device='cpu', dtype='float32')
    """
    where: dict[str, Any] = {"backend": backend, "device": device}
    if is_a(source, "GRUCell", _PACKAGES):
        weights: Any = _params(source)
        first = source.weight_ih
    else:
        cells = _cells(source)
        weights = [[_params(cell) for cell in directions] for directions in cells]
        first = cells[0][0].weight_ih
        where["batch_first"] = not source.time_major
        where["dropout"] = float(getattr(source, "dropout", 0))
    if dtype is None:
        dtype = str(first.dtype).removeprefix("paddle.")
    return model_of("from_paddle", weights, dtype=dtype, **where).train(source.training)


def to_paddle(model: GRU[Any] | GRUCell[Any], /) -> Any:
    """Create a paddle.nn.GRU or paddle.nn.GRUCell with a copy of a model's weights.

    Parameters
    ----------
    model : gru_xp.GRU or gru_xp.GRUCell
        Model on any backend.

    Returns
    -------
    paddle.nn.GRU or paddle.nn.GRUCell
        A layer with the dtype of the model, in its training or evaluation mode. Paddle's layers
        always have biases; for a model without biases they are zero and not trained.

    Raises
    ------
    TypeError
        If `model` is neither a GRU nor a GRUCell.
    ValueError
        If the model has ``reset_after=False`` or ``reverse=True``, which Paddle's layers do not
        support.
    """
    written = [
        from_params(PADDLE, params, reset_after=model.reset_after)
        for directions in weights_of("to_paddle", model)
        for params in directions
    ]
    import paddle

    kind, before = dtype_name(model.dtype), paddle.get_default_dtype()
    paddle.set_default_dtype(kind)  # the layers have no dtype argument
    try:
        if isinstance(model, GRUCell):
            layer = paddle.nn.GRUCell(model.input_size, model.hidden_size)
        else:
            layer = paddle.nn.GRU(
                model.input_size,
                model.hidden_size,
                model.num_layers,
                "bidirect" if model.bidirectional else "forward",
                time_major=not model.batch_first,
                dropout=model.dropout,
            )
    finally:
        paddle.set_default_dtype(before)
    cells = [[layer]] if isinstance(model, GRUCell) else _cells(layer)
    for arrays, cell in zip(written, chain.from_iterable(cells), strict=True):
        for name, parameter in cell.named_parameters():
            array = arrays.get(name, np.zeros(parameter.shape))
            parameter.set_value(paddle.to_tensor(array.astype("float64")).astype(kind))
            parameter.stop_gradient = name not in arrays
    layer.train() if model.training else layer.eval()
    return layer


def _cells(layer: Any) -> list[list[Any]]:
    """Return the cells of each layer and, within a layer, of each direction."""
    layers = list(layer) if is_a(layer, "GRU", _PACKAGES) else [layer]
    cells = []
    for each in layers:
        if is_a(each, "BiRNN", _PACKAGES):
            directions = [each.cell_fw, each.cell_bw]
        elif is_a(each, "RNN", _PACKAGES):
            directions = [each.cell]
            if each.is_reverse:
                raise ValueError(
                    "from_paddle: expected is_reverse=False, got True. Set it to False, and "
                    "reverse the steps of the input"
                )
        else:
            directions = [each]
        if not all(is_a(cell, "GRUCell", _PACKAGES) for cell in directions):
            raise TypeError(
                "from_paddle: expected a paddle.nn.GRU, a GRUCell, or an RNN or BiRNN of it, got "
                f"{type(directions[0]).__name__}"
            )
        cells.append(directions)
    return cells


def _params(cell: Any) -> GRUParams:
    return read(PADDLE, cell, host=_host)


def _host(tensor: Any) -> Host:
    if str(tensor.dtype) == "paddle.bfloat16":  # not supported by NumPy
        tensor = tensor.astype("float32")
    return np.asarray(tensor.numpy())
