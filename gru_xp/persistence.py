"""Models in files: weights by torch's names, and the configuration of the model.

A file is either a ``.safetensors`` file, which torch and other libraries can read, or a NumPy
``.npz`` file. Reading a file never runs code from it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from gru_xp.arrays import transfer
from gru_xp.arrays.dtypes import dtype_name
from gru_xp.arrays.libraries import BackendError
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Device, DType
from gru_xp.cell import GRUCell
from gru_xp.core.described import Described, described
from gru_xp.files import check_regular, write_whole
from gru_xp.formats import DTYPES, explained, format_of
from gru_xp.layer import GRU

_VERSION = 1
_LONGEST_DESCRIPTION = 1 << 12
_OPTIONS: dict[str, type] = {
    "batch_first": bool,
    "dropout": float,
    "reverse": bool,
    "reset_after": bool,
}
"""Options of a GRU that its weights do not determine; a cell has only reset_after."""
_CHECKPOINT, _PREFIX_THERE = "checkpoint.safetensors", "model.gru."
"""File name in a folder of ``gru-xp train``, and the prefix of the GRU's names in that file."""


def save(model: GRU[Any] | GRUCell[Any], path: str | os.PathLike[str], /) -> None:
    """Save a model to a file.

    The file contains the weights by torch's names and the configuration of the model; `load`
    restores the model from it. The file is replaced atomically: if writing fails, the old file is
    kept.

    Parameters
    ----------
    model : GRU or GRUCell
        Model on any backend and device. Its gradients, the values stored by its last forward and
        the state of its random generator are not saved.
    path : path-like
        Name of the file. It ends in ``.safetensors`` (which requires the package safetensors) or
        ``.npz``.

    Raises
    ------
    TypeError
        If `model` is neither a GRU nor a GRUCell.
    ValueError
        If `path` has another extension.
    ModuleNotFoundError
        If safetensors is not installed.
    OSError
        If the file cannot be written.
    """
    if not isinstance(model, (GRU, GRUCell)):
        raise TypeError(f"save: expected a GRU or a GRUCell, got {type(model).__name__}")
    path = Path(path)
    to_bytes = format_of(path, "save").to_bytes
    arrays = {
        name: np.ascontiguousarray(_held(transfer.to_numpy(array)))
        for name, array in model.parameters().items()
    }
    found = described({name: array.shape for name, array in arrays.items()})
    description = {
        "version": _VERSION,
        "class": _class_name(found),
        "dtype": dtype_name(model.dtype),
        **found.sizes,
        **{name: getattr(model, name) for name in _options_of(found)},
    }
    write_whole(path, to_bytes(arrays, json.dumps(description)))


def load(
    path: str | os.PathLike[str],
    /,
    *,
    backend: str = "numpy",
    device: Device | str | int | None = None,
    dtype: DType | str | None = None,
    prefix: str | None = None,
) -> Any:
    """Load a model from a file that `save` wrote, or from weights by torch's names.

    Parameters
    ----------
    path : path-like
        A ``.safetensors`` or ``.npz`` file, or a folder written by ``gru-xp train``. From such a
        folder only the GRU is loaded, without the output layer. A file not written by `save` must
        use the names of ``torch.nn.GRU`` or ``torch.nn.GRUCell``. The model then has the options of
        torch: `batch_first` and `reverse` are False, `dropout` is 0 and `reset_after` is True.
    backend, device
        As in `GRUCell`.
    dtype : optional
        As in `GRUCell`. None selects the dtype of the saved model, or float32 if the backend does
        not support it.
    prefix : str, optional
        Prefix of the weights' names, such as "rnn." if the GRU is the attribute ``rnn`` of a torch
        module. Names without the prefix are ignored.

    Returns
    -------
    GRU or GRUCell
        A new model in training mode.

    Raises
    ------
    ValueError
        If the file is truncated or has another format or extension, or if its arrays are not the
        weights of a GRU.
    BackendError
        If the library, device or dtype is not available.
    ModuleNotFoundError
        If safetensors is not installed.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> import gru_xp
    >>> folder = tempfile.TemporaryDirectory()
    >>> gru_xp.save(gru_xp.GRU(3, 4, num_layers=2, rng=0), f"{folder.name}/gru.npz")
    >>> gru_xp.load(f"{folder.name}/gru.npz", dtype="float64")
    GRU(3, 4, num_layers=2, backend='numpy', device='cpu', dtype='float64')
    """
    path = Path(path)
    if path.is_dir():
        if not (path / _CHECKPOINT).exists():
            raise FileNotFoundError(
                f"load: expected a file written by gru_xp.save or a folder written by gru-xp "
                f"train, got the folder {path}, which has no {_CHECKPOINT}"
            )
        path /= _CHECKPOINT
        prefix = _PREFIX_THERE if prefix is None else prefix
    reader = format_of(path, "load").reader
    check_regular(path)
    with explained(path), reader(path) as file:
        text = file.description()
        shapes = file.shapes(prefix or "")
        found = described(shapes, prefix=prefix or "")
        options: dict[str, Any] = {}
        if text is not None and not prefix:
            options = _options(text, found)
        arrays = {name: file.read((prefix or "") + name) for name in shapes}
    saved = options.pop("dtype", dtype_name(next(iter(arrays.values())).dtype))
    if dtype is None:
        dtype = _usable(saved, backend, device)
    kind: Any = GRUCell if found.is_cell else GRU
    model = kind(**found.sizes, **options, backend=backend, device=device, dtype=dtype)
    model.load_state_dict(arrays)
    return model


def _usable(dtype: str, backend: str, device: Device | str | int | None) -> str:
    try:
        Place.named(backend, device, dtype)
    except BackendError:
        return "float32"
    return dtype


def _held(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Cast an array to float32 if the formats lack its dtype (bfloat16, for which it is exact)."""
    return array if array.dtype.name in DTYPES else array.astype(np.float32)


def _class_name(found: Described) -> str:
    return GRUCell.__name__ if found.is_cell else GRU.__name__


def _options_of(found: Described) -> dict[str, type]:
    """Return the options of the described class that its weights do not determine."""
    return {"reset_after": bool} if found.is_cell else _OPTIONS


def _options(text: str, found: Described) -> dict[str, Any]:
    """Return the options in a description, after checking it against the weights."""
    if len(text) > _LONGEST_DESCRIPTION:
        raise ValueError(
            f"expected a description of at most {_LONGEST_DESCRIPTION} characters, got {len(text)}"
        )
    fields = json.loads(text)
    if not isinstance(fields, dict) or fields.pop("version", None) != _VERSION:
        raise ValueError("it was not saved by this version of gru_xp")
    wanted = {**_options_of(found), "dtype": str}
    options = {name: fields.pop(name, None) for name in wanted}
    if fields != {"class": _class_name(found), **found.sizes}:
        raise ValueError("its description does not match its weights")
    for name, value in options.items():
        if type(value) is not wanted[name]:
            raise ValueError(f"its description has an invalid {name}: {value!r}")
    if options.get("reverse") and found.sizes["bidirectional"]:
        raise ValueError("its description has reverse=True, but its weights are bidirectional")
    if options["dtype"] not in (*DTYPES, "bfloat16") or not 0 <= options.get("dropout", 0) < 1:
        raise ValueError(f"its description has invalid options: {options}")
    return options
