"""Conversion from and to Keras's GRU layers and cells.

`from_keras` supports Keras 3 with any of its backends, and Keras 2 (tf_keras). `to_keras` creates
layers of Keras 3. Only `to_keras` imports Keras.
"""

from __future__ import annotations

from typing import Any

from gru_xp.arrays.dtypes import dtype_name
from gru_xp.arrays.typing import Device, DType
from gru_xp.cell import GRUCell
from gru_xp.core.parameters import GRUParams
from gru_xp.interop.conversion import Layout, from_params
from gru_xp.interop.layouts import KERAS, KERAS_RESET_BEFORE
from gru_xp.interop.models import check_function, is_a, model_of, read, weights_of
from gru_xp.layer import GRU

__all__ = ["from_keras", "to_keras"]

_PACKAGES = ("keras", "tf_keras")


def from_keras(
    source: Any,
    /,
    *,
    backend: str = "numpy",
    device: Device | str | int | None = None,
    dtype: DType | str | None = None,
) -> Any:
    """Create a model with a copy of the weights of a Keras layer.

    Parameters
    ----------
    source : keras.layers.Layer or sequence of them
        A ``GRUCell``, a ``GRU``, a ``Bidirectional`` of a ``GRU``, or an ``RNN`` of a ``GRUCell``;
        or for several layers, a list or a ``Sequential`` that contains only such layers. The layer
        must have been built or called, so that it has weights. Dropout and
        ``stateful`` are ignored; `GRU.stream` keeps the state between calls.
    backend, device
        As in `gru_xp.GRUCell`.
    dtype : optional
        As in `gru_xp.GRUCell`. None selects the dtype of the weights.

    Returns
    -------
    gru_xp.GRU or gru_xp.GRUCell
        For a cell a GRUCell, else a GRU with ``batch_first=True``, whose ``y`` is what Keras
        returns with ``return_sequences=True``.

    Raises
    ------
    TypeError
        If `source` is an instance of another class.
    ValueError
        If `source` has no weights yet, or has features that a GRU does not support: activations
        other than tanh and sigmoid, ``go_backwards``, a ``merge_mode`` other than "concat", or
        layers with different sizes or values of ``reset_after``.
    BackendError
        If the library, device or dtype is not available. NumPy has no bfloat16.

    Examples
    --------
    >>> import keras
    >>> from gru_xp.interop.keras import from_keras
    >>> layer = keras.layers.GRU(4)
    >>> layer.build((None, None, 3))
    >>> from_keras(layer)
    GRU(3, 4, batch_first=True, backend='numpy', device='cpu', dtype='float32')
    """
    where: dict[str, Any] = {"backend": backend, "device": device, "dtype": dtype}
    if is_a(source, "GRUCell", _PACKAGES):
        return model_of("from_keras", _params(source), reset_after=source.reset_after, **where)
    layers = source.layers if is_a(source, "Sequential", _PACKAGES) else source
    if not isinstance(layers, (list, tuple)):
        layers = [layers]
    if not layers:
        raise ValueError("from_keras: expected at least one layer, got none")
    cells = [_cells(layer) for layer in layers]
    forms = {cell.reset_after for directions in cells for cell in directions}
    if len(forms) != 1:
        raise ValueError(
            "from_keras: expected the same reset_after in all layers, got True and False. Convert "
            "the layers separately"
        )
    return model_of(
        "from_keras",
        [[_params(cell) for cell in directions] for directions in cells],
        batch_first=True,
        reset_after=forms.pop(),
        **where,
    )


def to_keras(model: GRU[Any] | GRUCell[Any], /) -> Any:
    """Create Keras layers with a copy of a model's weights.

    Parameters
    ----------
    model : gru_xp.GRU or gru_xp.GRUCell
        Model on any backend. Dropout between layers is not converted.

    Returns
    -------
    keras.layers.Layer
        For a GRUCell, a ``GRUCell``. For a GRU, a ``GRU`` with ``return_sequences=True`` or a
        ``Bidirectional`` of one, and for several layers a ``keras.Sequential`` of these. The layers
        have the dtype of the model. They take input (N, T, I), regardless of `batch_first`.

    Raises
    ------
    TypeError
        If `model` is neither a GRU nor a GRUCell.
    ValueError
        If `model` is a GRU with ``reverse=True``.
    """
    weights = weights_of("to_keras", model)
    import keras

    layout = _layout(model.reset_after)
    kind = {"dtype": dtype_name(model.dtype)}
    options = {"use_bias": model.bias, "reset_after": model.reset_after, **kind}
    layers = []
    for directions in weights:
        if isinstance(model, GRUCell):
            layer = keras.layers.GRUCell(model.hidden_size, **options)
        else:
            layer = keras.layers.GRU(model.hidden_size, return_sequences=True, **options)
            if model.bidirectional:
                layer = keras.layers.Bidirectional(layer, **kind)
        width = directions[0].weight_ih.shape[1]
        layer.build((None, width) if isinstance(model, GRUCell) else (None, None, width))
        written = [from_params(layout, each, reset_after=model.reset_after) for each in directions]
        layer.set_weights([array for arrays in written for array in arrays.values()])
        layers.append(layer)
    return layers[0] if len(layers) == 1 else keras.Sequential(layers)


def _cells(layer: Any) -> list[Any]:
    """Return the cell of each direction of a layer."""
    directions = [layer]
    if is_a(layer, "Bidirectional", _PACKAGES):
        if layer.merge_mode != "concat":
            raise ValueError(
                f"from_keras: expected merge_mode='concat', got {layer.merge_mode!r}. Set it to "
                "'concat', and merge the two halves of y after the call"
            )
        directions = [layer.forward_layer, layer.backward_layer]
    for each, backwards in zip(directions, [False, True], strict=False):
        if not (
            is_a(each, "RNN", _PACKAGES) and is_a(getattr(each, "cell", None), "GRUCell", _PACKAGES)
        ):
            raise TypeError(
                "from_keras: expected a keras.layers.GRU, a Bidirectional of one, a GRUCell, or "
                f"several of these layers, got {type(each).__name__}"
            )
        if each.go_backwards != backwards:
            raise ValueError(
                f"from_keras: expected go_backwards={backwards} in {each.name}, got "
                f"{each.go_backwards}. Set it to {backwards}, and reverse the steps of the input"
            )
    return [each.cell for each in directions]


def _params(cell: Any) -> GRUParams:
    if not cell.built:
        raise ValueError(
            f"from_keras: {cell.name} has no weights yet. Build or call its layer first"
        )
    check_function("from_keras", "activation", cell.activation, "tanh")
    check_function("from_keras", "recurrent_activation", cell.recurrent_activation, "sigmoid")
    return read(_layout(cell.reset_after), cell)


def _layout(reset_after: bool) -> Layout:
    return KERAS if reset_after else KERAS_RESET_BEFORE
