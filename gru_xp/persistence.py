"""Models in files: weights by torch's names, and what else it takes to make the model again.

A ``.safetensors`` file, which torch and others read too, or a ``.npz`` of NumPy. No code runs when
one is read.
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
"""Of a GRU, what its weights do not tell; of a cell the last one."""
_CHECKPOINT, _PREFIX_THERE = "checkpoint.safetensors", "model.gru."
"""What a folder of ``gru-xp train`` holds, and how the GRU's names begin there."""


def save(model: GRU[Any] | GRUCell[Any], path: str | os.PathLike[str], /) -> None:
    """Write a model to a file, from which `load` makes it again.

    The file has the weights by torch's names, and the model's configuration. It is written whole:
    whatever happens, there is the old file or the new one.

    Parameters
    ----------
    model : GRU or GRUCell
        On any backend and device. Its gradients, what its last forward has stored, and the state of
        its random generator are not kept.
    path : path
        Ends in ``.safetensors`` (needs the package of this name) or ``.npz``.

    Raises
    ------
    TypeError
        If `model` is neither.
    ValueError
        If `path` has another ending.
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
        **{name: getattr(model, name) for name in _OPTIONS if hasattr(model, name)},
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
    """Make a model from a file that `save` wrote, or from weights by torch's names.

    Parameters
    ----------
    path : path
        A ``.safetensors`` or ``.npz`` file; or the folder of a model that ``gru-xp train`` made,
        whose GRU is returned, without the layer that follows it. In a file that `save` did not
        write, the names are those of ``torch.nn.GRU`` or ``torch.nn.GRUCell``: then `batch_first`
        and `reverse` are False, `dropout` 0 and `reset_after` True, as in torch.
    backend, device
        As in `GRUCell`.
    dtype : optional
        As in `GRUCell`; None for that of the saved model, or float32 where the backend does not
        have it.
    prefix : str, optional
        What the weights' names begin with, such as "rnn." for those of a torch module's attribute
        ``rnn``. Names without it are passed over.

    Returns
    -------
    GRU or GRUCell
        In training mode, as a new one.

    Raises
    ------
    ValueError
        If the file is cut off, of another format or ending, or its arrays are not those of a GRU.
    BackendError
        If the library, device or dtype cannot be had here.
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
                f"load: the folder {path} has no {_CHECKPOINT}: expected a file that gru_xp.save "
                "has written, or a folder of gru-xp train"
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
    """Return numbers that the formats have: those of bfloat16 are all in float32 too."""
    return array if array.dtype.name in DTYPES else array.astype(np.float32)


def _class_name(found: Described) -> str:
    return GRUCell.__name__ if found.is_cell else GRU.__name__


def _options(text: str, found: Described) -> dict[str, Any]:
    """Return what a description says that the weights do not, after holding it against these."""
    if len(text) > _LONGEST_DESCRIPTION:
        raise ValueError("its description is longer than one can be")
    fields = json.loads(text)
    if not isinstance(fields, dict) or fields.pop("version", None) != _VERSION:
        raise ValueError("it was not saved by this version of gru_xp")
    wanted: dict[str, type] = {"reset_after": bool, "dtype": str}
    if not found.is_cell:
        wanted |= _OPTIONS
    options = {name: fields.pop(name, None) for name in wanted}
    if fields != {"class": _class_name(found), **found.sizes}:
        raise ValueError("its description is not that of its weights")
    for name, value in options.items():
        if type(value) is not wanted[name]:
            raise ValueError(f"its description has {name} = {value!r}")
    if options.get("reverse") and found.sizes["bidirectional"]:
        raise ValueError("its description has reverse = True, its weights have both directions")
    if options["dtype"] not in (*DTYPES, "bfloat16") or not 0 <= options.get("dropout", 0) < 1:
        raise ValueError(f"its description has {options}")
    return options
