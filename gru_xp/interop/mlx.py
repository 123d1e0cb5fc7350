"""Conversion from and to MLX's GRU layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from gru_xp.arrays.dtypes import dtype_name
from gru_xp.arrays.typing import Device, DType
from gru_xp.cell import GRUCell
from gru_xp.interop.conversion import Host, from_params
from gru_xp.interop.layouts import MLX
from gru_xp.interop.models import is_a, model_of, only_weights_of, read
from gru_xp.layer import GRU

__all__ = ["from_mlx", "to_mlx"]


def from_mlx(
    source: Any,
    /,
    *,
    backend: str = "numpy",
    device: Device | str | int | None = None,
    dtype: DType | str | None = None,
) -> Any:
    """Create a GRU with a copy of the weights of an mlx.nn.GRU.

    Parameters
    ----------
    source : mlx.nn.GRU
        The layer to copy.
    backend, device
        As in `gru_xp.GRUCell`.
    dtype : optional
        As in `gru_xp.GRUCell`. None selects the dtype of the weights.

    Returns
    -------
    gru_xp.GRU
        A GRU with ``batch_first=True``, in training or evaluation mode like `source`.

    Raises
    ------
    TypeError
        If `source` is an instance of another class.
    BackendError
        If the library, device or dtype is not available. NumPy has no bfloat16.

    Notes
    -----
    If no state is given, MLX up to 0.31.1 omits ``b_hn`` in the first step. gru_xp then computes
    the first step exactly as with a state of zeros.

    Examples
    --------
    >>> import mlx.nn
    >>> from gru_xp.interop.mlx import from_mlx
    >>> from_mlx(mlx.nn.GRU(3, 4))
    GRU(3, 4, batch_first=True, backend='numpy', device='cpu', dtype='float32')
    """
    if not is_a(source, "GRU", ["mlx"]):
        raise TypeError(f"from_mlx: expected an mlx.nn.GRU, got {type(source).__name__}")
    model = model_of(
        "from_mlx",
        [[read(MLX, source, host=_host)]],
        batch_first=True,
        backend=backend,
        device=device,
        dtype=str(source.Wx.dtype).rpartition(".")[2] if dtype is None else dtype,
    )
    return model.train(source.training)


def to_mlx(model: GRU[Any] | GRUCell[Any], /) -> Any:
    """Create an mlx.nn.GRU with a copy of a model's weights.

    Parameters
    ----------
    model : gru_xp.GRU or gru_xp.GRUCell
        Model on any backend. A GRU must have one layer and one direction.

    Returns
    -------
    mlx.nn.GRU
        A layer with the dtype of the model, in its training or evaluation mode. It takes input
        (N, T, I), regardless of `batch_first`.

    Raises
    ------
    TypeError
        If `model` is neither a GRU nor a GRUCell.
    ValueError
        If the model has several layers or directions, or ``reset_after=False`` or ``reverse=True``,
        which MLX does not support.
    """
    params = only_weights_of("to_mlx", model)
    arrays = from_params(MLX, params, reset_after=model.reset_after)
    import mlx.core as mx
    import mlx.nn

    layer = mlx.nn.GRU(model.input_size, model.hidden_size, bias=model.bias)
    kind = getattr(mx, dtype_name(model.dtype))
    layer.update({name: mx.array(array, dtype=kind) for name, array in arrays.items()})
    return layer.train(model.training)


def _host(array: Any) -> Host:
    if str(array.dtype) == "mlx.core.bfloat16":  # not supported by NumPy
        import mlx.core as mx

        array = array.astype(mx.float32)
    return np.asarray(array)
