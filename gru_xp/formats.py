"""Arrays and a description in one file, in the formats safetensors and npz.

All sizes stated in a file are checked against the size of the file before they are used.
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
from gru_xp.messages import reason_of

_KEY = "gru_xp"
"""Key of the description in a safetensors file's metadata, or name of its entry in an npz file."""
_LONGEST_HEADER = 1000
"""Maximum number of characters of a header in the npy format."""
_OF_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_DTYPES = {"F16": "float16", "F32": "float32", "F64": "float64"}
DTYPES = frozenset(_DTYPES.values())
"""Names of the dtypes that weights can have in a file."""

Arrays = dict[str, np.ndarray[Any, Any]]


class Format(NamedTuple):
    """Functions that write and read a file format."""

    to_bytes: Callable[[Arrays, str], bytes]
    """Serialises arrays and a description."""
    reader: Callable[[Path], Any]
    """Context manager of a reader with description(), shapes(prefix) and read(name)."""


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
                    f"expected {prefix}{name} to have dtype {', '.join(_DTYPES)}, got "
                    f"{view.get_dtype()}"
                )
        return {name: tuple(view.get_shape()) for name, view in views.items()}

    def read(self, name: str) -> np.ndarray[Any, Any]:
        array: np.ndarray[Any, Any] = self.file.get_tensor(name)
        return array


class _Npz:
    """Reads uncompressed entries only, because a compressed one can expand to any size."""

    def __init__(self, file: zipfile.ZipFile, size: int) -> None:
        self.file = file
        entries = file.infolist()
        self.entries = {each.filename.removesuffix(".npy"): each for each in entries}
        if len(self.entries) < len(entries):
            raise ValueError("it has several entries with the same name")
        if any(each.compress_type != zipfile.ZIP_STORED for each in entries):
            raise ValueError(
                "expected uncompressed arrays, got compressed ones. Write the file with numpy.savez"
            )
        if sum(each.file_size for each in entries) > size:
            raise ValueError("its entries are larger than the file itself")

    @staticmethod
    def to_bytes(arrays: Arrays, description: str) -> bytes:
        buffer = io.BytesIO()
        text = np.frombuffer(description.encode(), dtype=np.uint8)
        # No allow_pickle=False: NumPy 2.0 takes it as the name of an array. It is not needed here,
        # as the arrays hold numbers.
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
                    f"expected {name} to have dtype {', '.join(sorted(DTYPES))}, got {dtype}"
                )
            found[name.removeprefix(prefix)] = shape
        return found

    def read(self, name: str) -> np.ndarray[Any, Any]:
        self._header(name)
        with self.file.open(self.entries[name]) as file:
            array: np.ndarray[Any, Any] = np.lib.format.read_array(file, allow_pickle=False)
        return array

    def _header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and dtype, after checking that they match the size of the entry."""
        entry = self.entries[name]
        with self.file.open(entry) as file:
            version = np.lib.format.read_magic(file)
            # Headers written by save have fewer than a hundred characters. NumPy's parser may run
            # out of memory on a header of several thousand.
            if version == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(file, _LONGEST_HEADER)
            elif version == (2, 0):
                shape, _, dtype = np.lib.format.read_array_header_2_0(file, _LONGEST_HEADER)
            else:
                raise ValueError(
                    f"expected {name} to have npy format version (1, 0) or (2, 0), got {version}"
                )
            count = 1
            for length in shape:
                count *= length
            if dtype.hasobject or file.tell() + count * dtype.itemsize != entry.file_size:
                raise ValueError(f"the data of {name} do not match its header")
        return shape, dtype


FORMATS = {
    ".safetensors": Format(_Safetensors.to_bytes, _Safetensors.reader),
    ".npz": Format(_Npz.to_bytes, _Npz.reader),
}


def _is_weight(name: str) -> bool:
    return name.startswith(("weight_", "bias_"))


def format_of(path: Path, owner: str, /) -> Format:
    """Return the format for the extension of a file name.

    Raises
    ------
    ValueError
        If the extension is not supported.
    ModuleNotFoundError
        If the package that the format needs is missing.
    """
    found = FORMATS.get(path.suffix)
    if found is None:
        message = f"{owner}: expected a file name ending in {' or '.join(FORMATS)}, got {path}"
        if path.suffix in _OF_TORCH and owner == "load":
            message = (
                f"{owner}: {path} is in torch's own format, which can contain code. Convert it "
                "with\n"
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
                f"{owner}: {path.name} requires the package safetensors. Install it (pip install "
                "safetensors), or use a .npz file",
                name=error.name,
            ) from error
    return found


@contextmanager
def explained(path: Path, /) -> Iterator[None]:
    """Turn the errors of reading a file into a ValueError that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        # A damaged archive may contain a negative file offset, for which seek() raises EINVAL.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        # All other exceptions are converted, since a parser may raise anything for hostile input.
        raise ValueError(f"load: cannot read a model from {path}: {reason_of(error)}") from error
