"""Models from equinox's GRU cells, and to them.

equinox is imported by `to_equinox` alone.
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
    """Make a GRUCell with a copy of the weights of equinox's.

    Parameters
    ----------
    source : equinox.nn.GRUCell
    backend, device
        As in `gru_xp.GRUCell`.
    dtype : optional
        As in `gru_xp.GRUCell`; None for that of the weights.

    Returns
    -------
    gru_xp.GRUCell

    Raises
    ------
    TypeError
        If `source` is of another class.
    BackendError
        If the library, device or dtype cannot be had here; NumPy has no bfloat16.

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
    """Make an equinox.nn.GRUCell with a copy of a model's weights.

    Parameters
    ----------
    model : gru_xp.GRUCell or gru_xp.GRU
        On any backend; a GRU of one layer and one direction, which is the cell in a scan.

    Returns
    -------
    equinox.nn.GRUCell

    Raises
    ------
    TypeError
        If `model` is neither.
    ValueError
        If it has more layers or directions, or ``reset_after=False``, which equinox has not.
    BackendError
        If JAX does not have the model's dtype, as float64 without ``jax_enable_x64``.
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
