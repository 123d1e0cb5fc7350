"""Conversion from and to equinox's GRU cells.

Only `to_equinox` imports equinox.
"""

from __future__ import annotations

from typing import Any

from gru_xp.arrays.typing import Device, DType
from gru_xp.cell import GRUCell
from gru_xp.interop.conversion import from_params
from gru_xp.interop.layouts import EQUINOX
from gru_xp.interop.models import is_a, jax_arrays, model_of, only_weights_of, read
from gru_xp.layer import GRU

__all__ = ["from_equinox", "to_equinox"]


def from_equinox(
    source: Any,
    /,
    *,
    backend: str = "numpy",
    device: Device | str | int | None = None,
    dtype: DType | str | None = None,
) -> Any:
    """Create a GRUCell with a copy of the weights of an equinox.nn.GRUCell.

    Parameters
    ----------
    source : equinox.nn.GRUCell
        The cell to copy.
    backend, device
        As in `gru_xp.GRUCell`.
    dtype : optional
        As in `gru_xp.GRUCell`. None selects the dtype of the weights.

    Returns
    -------
    gru_xp.GRUCell

    Raises
    ------
    TypeError
        If `source` is an instance of another class.
    BackendError
        If the library, device or dtype is not available. NumPy has no bfloat16.

    Examples
    --------
    >>> import equinox, jax
    >>> from gru_xp.interop.equinox import from_equinox
    >>> cell = equinox.nn.GRUCell(3, 4, dtype="float32", key=jax.random.key(0))
    >>> from_equinox(cell)
    GRUCell(3, 4, backend='numpy', device='cpu', dtype='float32')
    """
    if not is_a(source, "GRUCell", ["equinox"]):
        raise TypeError(
            f"from_equinox: expected an equinox.nn.GRUCell, got {type(source).__name__}"
        )
    params = read(EQUINOX, source)
    return model_of("from_equinox", params, backend=backend, device=device, dtype=dtype)


def to_equinox(model: GRU[Any] | GRUCell[Any], /) -> Any:
    """Create an equinox.nn.GRUCell with a copy of a model's weights.

    Parameters
    ----------
    model : gru_xp.GRUCell or gru_xp.GRU
        Model on any backend. A GRU must have one layer and one direction; scan over the cell to get
        the same outputs.

    Returns
    -------
    equinox.nn.GRUCell

    Raises
    ------
    TypeError
        If `model` is neither a GRU nor a GRUCell.
    ValueError
        If the model has several layers or directions, or ``reset_after=False`` or ``reverse=True``,
        which equinox does not support.
    BackendError
        If JAX does not support the dtype of the model, such as float64 without ``jax_enable_x64``.
    """
    params = only_weights_of("to_equinox", model)
    arrays = jax_arrays(from_params(EQUINOX, params, reset_after=model.reset_after), model)
    import equinox
    import jax

    cell = equinox.nn.GRUCell(
        model.input_size,
        model.hidden_size,
        use_bias=model.bias,
        dtype=arrays["weight_ih"].dtype,
        key=jax.random.key(0),
    )
    return equinox.tree_at(
        lambda cell: [getattr(cell, name) for name in arrays], cell, list(arrays.values())
    )
