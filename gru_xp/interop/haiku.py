"""Models from the parameters of Haiku's GRU, and to them. Haiku itself is not imported."""

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
    """Make a GRUCell with a copy of the weights of a haiku.GRU.

    Parameters
    ----------
    source : mapping of str to array
        The parameters ``w_i``, ``w_h`` and ``b`` of one haiku.GRU, such as ``params["gru"]``.
    backend, device
        As in `gru_xp.GRUCell`.
    dtype : optional
        As in `gru_xp.GRUCell`; None for that of the weights.

    Returns
    -------
    gru_xp.GRUCell
        With ``reset_after=False``.

    Raises
    ------
    TypeError
        If `source` is no mapping.
    ValueError
        If it has other names, or shapes that are not a GRU's.
    BackendError
        If the library, device or dtype cannot be had here; NumPy has no bfloat16.

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
            f"{modules}: pass one of them, such as params[{modules[0]!r}]"
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
    """Make the parameters of a haiku.GRU of a model's weights.

    Parameters
    ----------
    model : gru_xp.GRUCell or gru_xp.GRU
        On any backend; a GRU of one layer and one direction, which is haiku.GRU unrolled.

    Returns
    -------
    dict of str to array
        ``w_i``, ``w_h`` and ``b``, JAX arrays: what is ``params["gru"]`` of a haiku.GRU that is
        transformed alone.

    Raises
    ------
    TypeError
        If `model` is neither.
    ValueError
        If it has more layers or directions, or ``reset_after=True``, which Haiku has not.
    BackendError
        If JAX does not have the model's dtype, as float64 without ``jax_enable_x64``.
    """
    params = only_weights_of("to_haiku", model)
    return jax_arrays(from_params(HAIKU, params, reset_after=model.reset_after), model)
