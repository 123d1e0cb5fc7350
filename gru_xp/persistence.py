"""Models in files: weights by torch's names, and what else it takes to make the model again.

A ``.safetensors`` file, which torch and others read too, or a ``.npz`` of NumPy. No code runs when
one is read, and nothing that a file says of itself is believed before it is held against the file's
own size.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gru_xp.arrays import transfer
from gru_xp.arrays.dtypes import dtype_name
from gru_xp.arrays.libraries import BackendError
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Device, DType
from gru_xp.cell import GRUCell
from gru_xp.core import parameters
from gru_xp.files import check_regular, check_safetensors_header, write_whole
from gru_xp.layer import GRU

_KEY = "gru_xp"
"""Of the description: in a safetensors file's metadata, or the name of a npz file's entry."""
_VERSION = 1
_LONGEST_DESCRIPTION = 1 << 12
_OPTIONS: dict[str, type] = {"batch_first": bool, "dropout": float, "reset_after": bool}
"""Of a GRU, what its weights do not tell; of a cell the last one."""
_CHECKPOINT, _PREFIX_THERE = "checkpoint.safetensors", "model.gru."
"""What a folder of ``gru-xp train`` holds, and how the GRU's names begin there."""
_OF_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_DTYPES = {"F16": "float16", "F32": "float32", "F64": "float64"}

Arrays = dict[str, np.ndarray[Any, Any]]
Shapes = Mapping[str, tuple[int, ...]]


class _Described(NamedTuple):
    """What weights tell of their model by their names and shapes."""

    kind: Any
    """GRU or GRUCell."""
    sizes: dict[str, int | bool]


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
    to_bytes = _format(path, "save").to_bytes
    arrays = {
        name: np.ascontiguousarray(_held(transfer.to_numpy(array)))
        for name, array in model.parameters().items()
    }
    kind = GRU if isinstance(model, GRU) else GRUCell
    names = _OPTIONS if kind is GRU else ["reset_after"]
    description = {
        "version": _VERSION,
        "class": kind.__name__,
        "dtype": dtype_name(model.dtype),
        **_described({name: array.shape for name, array in arrays.items()}, "save").sizes,
        **{name: getattr(model, name) for name in names},
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
        is False, `dropout` 0 and `reset_after` True, as in torch.
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
        path /= _CHECKPOINT
        prefix = _PREFIX_THERE if prefix is None else prefix
    reader = _format(path, "load").reader
    check_regular(path)
    with _explained(path), reader(path) as file:
        text = file.description()
        shapes = file.shapes(prefix or "")
        described = _described(shapes, prefix or "")
        options: dict[str, Any] = {}
        if text is not None and prefix is None:
            options = _options(text, described)
        arrays = {name: file.read((prefix or "") + name) for name in shapes}
    saved = options.pop("dtype", dtype_name(next(iter(arrays.values())).dtype))
    if dtype is None:
        dtype = _usable(saved, backend, device)
    model = described.kind(
        **described.sizes, **options, backend=backend, device=device, dtype=dtype
    )
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
    return array if array.dtype.name in _DTYPES.values() else array.astype(np.float32)


# What weights and descriptions tell


def _described(shapes: Shapes, prefix: str) -> _Described:
    """Find the model whose weights have these names and shapes; ValueError if there is none."""
    is_cell = "weight_ih" in shapes
    layers = sum(re.fullmatch(r"weight_ih_l\d+", name) is not None for name in shapes)
    if not is_cell and not layers:
        raise ValueError(_no_weights(list(shapes), prefix))
    both = not is_cell and "weight_ih_l0_reverse" in shapes
    suffixes = [
        f"_l{layer}{direction}"
        for layer in range(layers)
        for direction in (["", "_reverse"] if both else [""])
    ]
    first = suffixes[0] if suffixes else ""
    bias = f"bias_ih{first}" in shapes
    rows, width = _matrix(shapes, f"weight_hh{first}")
    inputs = _matrix(shapes, f"weight_ih{first}")[1]
    if inputs < 1 or width < 1 or rows != 3 * width:
        raise ValueError(
            f"weight_hh{first} has shape {(rows, width)}, weight_ih{first} {inputs} columns, and "
            "not (3H, H) and I of a GRU"
        )
    expected: dict[str, tuple[int, ...]] = {}
    for number, suffix in enumerate(suffixes or [""]):
        above = number >= (2 if both else 1)
        sizes = parameters.shapes(width * (2 if both else 1) if above else inputs, width, bias=bias)
        expected |= {f"{name}{suffix}": shape for name, shape in sizes.items()}
    for name in [*expected, *shapes]:
        if shapes.get(name) != expected.get(name):
            raise ValueError(
                f"{name} is {_told(shapes.get(name))}, and would be {_told(expected.get(name))} in "
                "a GRU of the other weights"
            )
    sizes_of_model: dict[str, int | bool] = {
        "input_size": inputs,
        "hidden_size": width,
        "bias": bias,
    }
    if is_cell:
        return _Described(GRUCell, sizes_of_model)
    return _Described(GRU, {**sizes_of_model, "num_layers": layers, "bidirectional": both})


def _matrix(shapes: Shapes, name: str) -> tuple[int, int]:
    shape = shapes.get(name)
    if shape is None or len(shape) != 2:
        raise ValueError(f"{name} is {_told(shape)}, and not a matrix")
    return shape[0], shape[1]


def _told(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else f"of shape {shape}"


def _no_weights(names: list[str], prefix: str) -> str:
    found = sorted({name.rpartition("weight_ih")[0] for name in names if "weight_ih" in name})
    return (
        f"it has no weights by the names of torch.nn.GRU or torch.nn.GRUCell"
        f"{f' after {prefix!r}' if prefix else ''}, such as weight_ih_l0"
        + (f": pass prefix={found[0]!r}" if found else "")
    )


def _options(text: str, described: _Described) -> dict[str, Any]:
    """Return what a description says that the weights do not, after holding it against these."""
    if len(text) > _LONGEST_DESCRIPTION:
        raise ValueError("its description is longer than one can be")
    fields = json.loads(text)
    if not isinstance(fields, dict) or fields.pop("version", None) != _VERSION:
        raise ValueError("it was not saved by this version of gru_xp")
    kind = described.kind
    wanted: dict[str, type] = {"reset_after": bool, "dtype": str}
    if kind is GRU:
        wanted |= _OPTIONS
    options = {name: fields.pop(name, None) for name in wanted}
    if fields != {"class": kind.__name__, **described.sizes}:
        raise ValueError("its description is not that of its weights")
    for name, value in options.items():
        if type(value) is not wanted[name]:
            raise ValueError(f"its description has {name} = {value!r}")
    return options


# The formats


class _Format(NamedTuple):
    to_bytes: Callable[[Arrays, str], bytes]
    reader: Callable[[Path], Any]
    """A context with description(), shapes(prefix) and read(name)."""


class _Safetensors:
    def __init__(self, file: Any) -> None:
        self.file = file

    @staticmethod
    def to_bytes(arrays: Arrays, description: str) -> bytes:
        from safetensors.numpy import save as serialised

        data: bytes = serialised(arrays, {_KEY: description})
        return data

    @classmethod
    @contextmanager
    def reader(cls, path: Path) -> Iterator[_Safetensors]:
        from safetensors import safe_open

        check_safetensors_header(path)
        with safe_open(path, framework="numpy") as file:
            yield cls(file)

    def description(self) -> str | None:
        text: str | None = (self.file.metadata() or {}).get(_KEY)
        return text

    def shapes(self, prefix: str) -> dict[str, tuple[int, ...]]:
        names = [name for name in self.file.keys() if name.startswith(prefix)]  # noqa: SIM118
        views = {name.removeprefix(prefix): self.file.get_slice(name) for name in names}
        for name, view in views.items():
            if _is_weight(name) and view.get_dtype() not in _DTYPES:
                raise ValueError(
                    f"{prefix}{name} is of dtype {view.get_dtype()}: {', '.join(_DTYPES)} can be "
                    "read"
                )
        return {name: tuple(view.get_shape()) for name, view in views.items()}

    def read(self, name: str) -> np.ndarray[Any, Any]:
        array: np.ndarray[Any, Any] = self.file.get_tensor(name)
        return array


class _Npz:
    """Entries that are stored as they are: one that is compressed can be of any size."""

    def __init__(self, file: zipfile.ZipFile, size: int) -> None:
        self.file = file
        entries = file.infolist()
        self.entries = {each.filename.removesuffix(".npy"): each for each in entries}
        if len(self.entries) < len(entries):
            raise ValueError("it has several entries of one name")
        if any(each.compress_type != zipfile.ZIP_STORED for each in entries):
            raise ValueError("its arrays are compressed: write them with numpy.savez")
        if sum(each.file_size for each in entries) > size:
            raise ValueError("its entries are larger than the file")

    @staticmethod
    def to_bytes(arrays: Arrays, description: str) -> bytes:
        buffer = io.BytesIO()
        text = np.frombuffer(description.encode(), dtype=np.uint8)
        np.savez(buffer, allow_pickle=False, **{_KEY: text}, **arrays)
        return buffer.getvalue()

    @classmethod
    @contextmanager
    def reader(cls, path: Path) -> Iterator[_Npz]:
        data = path.read_bytes()  # so that no error of the archive's places is one of the disk
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            yield cls(file, len(data))

    def description(self) -> str | None:
        return self.read(_KEY).tobytes().decode() if _KEY in self.entries else None

    def shapes(self, prefix: str) -> dict[str, tuple[int, ...]]:
        found = {}
        for name in self.entries:
            if name == _KEY or not name.startswith(prefix):
                continue
            shape, dtype = self._header(name)
            if _is_weight(name.removeprefix(prefix)) and dtype.name not in _DTYPES.values():
                raise ValueError(
                    f"{name} is of dtype {dtype}: {', '.join(_DTYPES.values())} can be read"
                )
            found[name.removeprefix(prefix)] = shape
        return found

    def read(self, name: str) -> np.ndarray[Any, Any]:
        self._header(name)
        with self.file.open(self.entries[name]) as file:
            array: np.ndarray[Any, Any] = np.lib.format.read_array(file, allow_pickle=False)
        return array

    def _header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and dtype, after a look at whether the entry is as large as they say."""
        entry = self.entries[name]
        with self.file.open(entry) as file:
            version = np.lib.format.read_magic(file)
            if version == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            elif version == (2, 0):
                shape, _, dtype = np.lib.format.read_array_header_2_0(file)
            else:
                raise ValueError(f"{name} is of the npy format's version {version}")
            count = 1
            for length in shape:
                count *= length
            if dtype.hasobject or file.tell() + count * dtype.itemsize != entry.file_size:
                raise ValueError(f"{name} is not the array that its header says")
        return shape, dtype


_FORMATS = {
    ".safetensors": _Format(_Safetensors.to_bytes, _Safetensors.reader),
    ".npz": _Format(_Npz.to_bytes, _Npz.reader),
}


def _is_weight(name: str) -> bool:
    return name.startswith(("weight_", "bias_"))


def _format(path: Path, owner: str) -> _Format:
    found = _FORMATS.get(path.suffix)
    if found is None:
        message = f"{owner}: {path} ends in neither {' nor '.join(_FORMATS)}"
        if path.suffix in _OF_TORCH:
            message = (
                f"{owner}: {path} is torch's own format, which can hold code. In torch, convert it "
                f'with\n    state = torch.load("{path.name}", weights_only=True)\n    '
                f'safetensors.torch.save_file(state, "{path.stem}.safetensors")'
            )
        raise ValueError(message)
    if path.suffix == ".safetensors":
        try:
            import safetensors  # noqa: F401
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{owner}: {path.name} needs the package safetensors: pip install safetensors, or "
                "use a .npz file",
                name=error.name,
            ) from error
    return found


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say which file it is that cannot be read, whatever a library has found there."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        # Of libraries that read hostile bytes no list of errors is complete.
        why = str(error) if 0 < len(str(error)) <= 300 else type(error).__name__
        raise ValueError(f"load: {path} is no readable model: {why}") from error
