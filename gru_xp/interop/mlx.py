"""Models from MLX's GRU layers, and to them."""

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
    """Make a GRU with a copy of the weights of MLX's.

    Parameters
    ----------
    source : mlx.nn.GRU
    backend, device
        As in `gru_xp.GRUCell`.
    dtype : optional
        As in `gru_xp.GRUCell`; None for that of the weights.

    Returns
    -------
    gru_xp.GRU
        With ``batch_first=True``, in training or evaluation mode as `source` is.

    Raises
    ------
    TypeError
        If `source` is of another class.
    BackendError
        If the library, device or dtype cannot be had here; NumPy has no bfloat16.

    Notes
    -----
    MLX up to 0.31.1 leaves ``b_hn`` out of the first step where no state is given. Here no state
    means zeros, exactly.

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
    """Make an mlx.nn.GRU with a copy of a model's weights.

    Parameters
    ----------
    model : gru_xp.GRU or gru_xp.GRUCell
        On any backend; a GRU of one layer and one direction.

    Returns
    -------
    mlx.nn.GRU
        Of the model's dtype, in its training or evaluation mode. It takes (N, T, I), whatever
        `batch_first` is.

    Raises
    ------
    TypeError
        If `model` is neither.
    ValueError
        If it has more layers or directions, or ``reset_after=False``, which MLX has not.
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
    if str(array.dtype) == "mlx.core.bfloat16":  # which NumPy has not
        import mlx.core as mx

        array = array.astype(mx.float32)
    return np.asarray(array)
