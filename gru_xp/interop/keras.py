"""Models from Keras's GRU layers and cells, and to them.

Keras 3, on any of its backends, and to read from, Keras 2 (tf_keras) too. Keras is imported by
`to_keras` alone.
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
    """Make a model with a copy of the weights of Keras's.

    Parameters
    ----------
    source : keras.layers.Layer or sequence of them
        A ``GRU``, a ``Bidirectional`` of one, an ``RNN`` of a ``GRUCell``; a list of these, or a
        ``Sequential`` of nothing else, for as many layers; or a ``GRUCell``. It has its weights
        once it was built or called. What Keras drops at random, in training alone, is left out.
    backend, device
        As in `gru_xp.GRUCell`.
    dtype : optional
        As in `gru_xp.GRUCell`; None for that of the weights.

    Returns
    -------
    gru_xp.GRU or gru_xp.GRUCell
        A GRU with ``batch_first=True``, whose ``y`` is what Keras returns with
        ``return_sequences=True``.

    Raises
    ------
    TypeError
        If `source` is of another class.
    ValueError
        If it has no weights yet, or what a GRU cannot express: other activations than tanh and
        sigmoid, ``go_backwards``, a `merge_mode` other than "concat", layers of different sizes or
        of both values of ``reset_after``.
    BackendError
        If the library, device or dtype cannot be had here; NumPy has no bfloat16.

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
    cells = [_cells(layer) for layer in layers]
    forms = {cell.reset_after for directions in cells for cell in directions}
    if len(forms) != 1:
        raise ValueError(
            f"from_keras: expected layers with one value of reset_after, got {len(forms)}: make a "
            "model of each"
        )
    return model_of(
        "from_keras",
        [[_params(cell) for cell in directions] for directions in cells],
        batch_first=True,
        reset_after=forms.pop(),
        **where,
    )


def to_keras(model: GRU[Any] | GRUCell[Any], /) -> Any:
    """Make Keras layers with a copy of a model's weights.

    Parameters
    ----------
    model : gru_xp.GRU or gru_xp.GRUCell
        On any backend. Dropout between layers, which acts in training alone, is left out.

    Returns
    -------
    keras.layers.Layer
        For a GRUCell a ``GRUCell``; for a GRU a ``GRU`` with ``return_sequences=True``, a
        ``Bidirectional`` of one, or a ``keras.Sequential`` of as many as it has layers. They are
        of the model's dtype, and take (N, T, I), whatever its `batch_first`.

    Raises
    ------
    TypeError
        If `model` is neither.
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
    """Return the cells of a layer's directions."""
    directions = [layer]
    if is_a(layer, "Bidirectional", _PACKAGES):
        if layer.merge_mode != "concat":
            raise ValueError(
                f"from_keras: merge_mode is {layer.merge_mode!r}: expected 'concat', as a GRU has "
                "its directions beside each other: set it, and merge the halves of y"
            )
        directions = [layer.forward_layer, layer.backward_layer]
    for each, backwards in zip(directions, [False, True], strict=False):
        if not (
            is_a(each, "RNN", _PACKAGES) and is_a(getattr(each, "cell", None), "GRUCell", _PACKAGES)
        ):
            raise TypeError(
                "from_keras: expected a keras.layers.GRU, a Bidirectional of one, layers of these, "
                f"or a GRUCell, got {type(each).__name__}"
            )
        if each.go_backwards != backwards:
            raise ValueError(
                f"from_keras: go_backwards of {each.name} is {each.go_backwards}: expected "
                f"{backwards}: set it, and reverse the steps of its input"
            )
    return [each.cell for each in directions]


def _params(cell: Any) -> GRUParams:
    if not cell.built:
        raise ValueError(f"from_keras: {cell.name} has no weights yet: build its layer, or call it")
    check_function("from_keras", "activation", cell.activation, "tanh")
    check_function("from_keras", "recurrent_activation", cell.recurrent_activation, "sigmoid")
    return read(_layout(cell.reset_after), cell)


def _layout(reset_after: bool) -> Layout:
    return KERAS if reset_after else KERAS_RESET_BEFORE
