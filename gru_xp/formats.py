"""Arrays and a description in one file: safetensors, and NumPy's npz.

Nothing that a file says of itself is believed before it is held against the file's own size.
"""

from __future__ import annotations

import errno
import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gru_xp.files import check_safetensors_header

_KEY = "gru_xp"
"""Of the description: in a safetensors file's metadata, or the name of a npz file's entry."""
_LONGEST_HEADER = 1000
"""Characters of a header of the npy format."""
_OF_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_DTYPES = {"F16": "float16", "F32": "float32", "F64": "float64"}
DTYPES = frozenset(_DTYPES.values())
"""Names of the dtypes that weights can have in a file."""

Arrays = dict[str, np.ndarray[Any, Any]]


class Format(NamedTuple):
    """How a file is written and read."""

    to_bytes: Callable[[Arrays, str], bytes]
    """Of arrays and a description."""
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
        # Without allow_pickle, which NumPy 2.0 takes for the name of an array: these hold numbers.
        np.savez(buffer, **{_KEY: text}, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    @classmethod
    @contextmanager
    def reader(cls, path: Path) -> Iterator[_Npz]:
        with zipfile.ZipFile(path) as file:
            yield cls(file, path.stat().st_size)

    def description(self) -> str | None:
        return self.read(_KEY).tobytes().decode() if _KEY in self.entries else None

    def shapes(self, prefix: str) -> dict[str, tuple[int, ...]]:
        found = {}
        for name in self.entries:
            if name == _KEY or not name.startswith(prefix):
                continue
            shape, dtype = self._header(name)
            if _is_weight(name.removeprefix(prefix)) and dtype.name not in DTYPES:
                raise ValueError(
                    f"{name} is of dtype {dtype}: {', '.join(sorted(DTYPES))} can be read"
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
            # Ours are shorter than a hundred characters; NumPy's parser may run out of memory at
            # several thousand.
            if version == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(file, _LONGEST_HEADER)
            elif version == (2, 0):
                shape, _, dtype = np.lib.format.read_array_header_2_0(file, _LONGEST_HEADER)
            else:
                raise ValueError(f"{name} is of the npy format's version {version}")
            count = 1
            for length in shape:
                count *= length
            if dtype.hasobject or file.tell() + count * dtype.itemsize != entry.file_size:
                raise ValueError(f"{name} is not the array that its header says")
        return shape, dtype


FORMATS = {
    ".safetensors": Format(_Safetensors.to_bytes, _Safetensors.reader),
    ".npz": Format(_Npz.to_bytes, _Npz.reader),
}


def _is_weight(name: str) -> bool:
    return name.startswith(("weight_", "bias_"))


def format_of(path: Path, owner: str, /) -> Format:
    """Return the format that a name ends in.

    Raises
    ------
    ValueError
        If it is none of ours.
    ModuleNotFoundError
        If a package is missing.
    """
    found = FORMATS.get(path.suffix)
    if found is None:
        message = f"{owner}: {path} ends in neither {' nor '.join(FORMATS)}"
        if path.suffix in _OF_TORCH and owner == "load":
            message = (
                f"{owner}: {path} is torch's own format, which can hold code. Convert it with\n"
                "    import torch, safetensors.torch\n"
                f"    state = torch.load({str(path)!r}, weights_only=True)\n"
                f"    safetensors.torch.save_file(state, {str(path.with_suffix('.safetensors'))!r})"
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
def explained(path: Path, /) -> Iterator[None]:
    """Say which file it is that cannot be read, whatever a library has found there."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        # A damaged archive names a place before the file's beginning: an invalid argument.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        # Of libraries that read hostile bytes no list of errors is complete.
        why = str(error) if 0 < len(str(error)) <= 300 else type(error).__name__
        raise ValueError(f"load: {path} is no readable model: {why}") from error
