"""Conversion from and to the parameters of Haiku's GRU. Haiku itself is not imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gru_xp.arrays.typing import Device, DType
from gru_xp.cell import GRUCell
from gru_xp.interop.conversion import from_params, to_params
from gru_xp.interop.layouts import HAIKU
from gru_xp.interop.models import jax_arrays, model_of, only_weights_of
from gru_xp.layer import GRU

__all__ = ["from_haiku", "to_haiku"]


def from_haiku(
    source: Mapping[str, Any],
    /,
    *,
    backend: str = "numpy",
    device: Device | str | int | None = None,
    dtype: DType | str | None = None,
) -> Any:
    """Create a GRUCell with a copy of the weights of a haiku.GRU.

    Parameters
    ----------
    source : mapping of str to array
        The parameters ``w_i``, ``w_h`` and ``b`` of one haiku.GRU, such as ``params["gru"]``.
    backend, device
        As in `gru_xp.GRUCell`.
    dtype : optional
        As in `gru_xp.GRUCell`. None selects the dtype of the weights.

    Returns
    -------
    gru_xp.GRUCell
        A cell with ``reset_after=False``.

    Raises
    ------
    TypeError
        If `source` is not a mapping.
    ValueError
        If the names or shapes are not those of a haiku.GRU.
    BackendError
        If the library, device or dtype is not available. NumPy has no bfloat16.

    Examples
    --------
    >>> import numpy as np
    >>> from gru_xp.interop.haiku import from_haiku
    >>> from_haiku({"w_i": np.ones((3, 12)), "w_h": np.ones((4, 12)), "b": np.zeros(12)})
    GRUCell(3, 4, reset_after=False, backend='numpy', device='cpu', dtype='float64')
    """
    if not isinstance(source, Mapping):
        raise TypeError(
            f"from_haiku: expected the parameters of a haiku.GRU, got {type(source).__name__}"
        )
    modules = [name for name, value in source.items() if isinstance(value, Mapping)]
    if modules:
        raise ValueError(
            f"from_haiku: expected the parameters of one haiku.GRU, got those of the modules "
            f"{modules}. Pass those of one module, such as params[{modules[0]!r}]"
        )
    return model_of(
        "from_haiku",
        to_params(HAIKU, source),
        reset_after=False,
        backend=backend,
        device=device,
        dtype=dtype,
    )


def to_haiku(model: GRU[Any] | GRUCell[Any], /) -> dict[str, Any]:
    """Create the parameters of a haiku.GRU from a model's weights.

    Parameters
    ----------
    model : gru_xp.GRUCell or gru_xp.GRU
        Model on any backend. A GRU must have one layer and one direction; unroll the haiku.GRU to
        get the same outputs.

    Returns
    -------
    dict of str to array
        The JAX arrays ``w_i``, ``w_h`` and ``b``. In the parameters of a transformed function that
        uses only a haiku.GRU, they are ``params["gru"]``.

    Raises
    ------
    TypeError
        If `model` is neither a GRU nor a GRUCell.
    ValueError
        If the model has several layers or directions, or ``reset_after=True`` or ``reverse=True``,
        which Haiku does not support.
    BackendError
        If JAX does not support the dtype of the model, such as float64 without ``jax_enable_x64``.
    """
    params = only_weights_of("to_haiku", model)
    return jax_arrays(from_params(HAIKU, params, reset_after=model.reset_after), model)
