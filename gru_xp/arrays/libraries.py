"""Array libraries by name: which are usable here, and which one an array is of.

A *backend* is an array library that gru_xp knows by name. No backend but NumPy is imported before
it is asked for, and array_api_compat's namespaces are imported as late: they are slow to load.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import lru_cache

import numpy as np

from gru_xp.arrays.typing import Array, Namespace

NAMESPACES = {
    "numpy": "array_api_compat.numpy",
    "cupy": "array_api_compat.cupy",
    "torch": "array_api_compat.torch",
    "jax": "jax.numpy",
    "array_api_strict": "array_api_strict",
}
"""The known backends and where each one's Array API namespace is imported from."""

_INSTALL = {
    "numpy": "pip install numpy",
    "cupy": "pip install 'gru-xp[cuda13]' (or [cuda12], for the CUDA version of your driver)",
    "torch": "pip install torch",
    "jax": "pip install jax",
    "array_api_strict": "pip install array-api-strict",
}


class BackendError(RuntimeError):
    """An array library, or a device or dtype of it, was asked for and cannot be had."""


@lru_cache
def unusable(name: str, /) -> str:
    """Why the backend cannot be used on this machine; an empty string where it can."""
    if name not in NAMESPACES:
        return f"unknown backend {name!r}: gru_xp knows {', '.join(NAMESPACES)}"
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        return f"{name} is not installed: {_INSTALL[name]}"
    try:
        importlib.import_module(NAMESPACES[name])
        if name == "cupy":
            return _unusable_cuda()
        if name == "jax":
            importlib.import_module("jax").devices()  # fails where it can start no backend
    except Exception as error:  # an installed library can fail in any way, and is then reported
        return f"{name} is installed but fails to start: {type(error).__name__}: {error}"
    return ""


def _unusable_cuda() -> str:
    import cupy

    try:
        if cupy.cuda.runtime.getDeviceCount() == 0:
            return "cupy is installed but finds no CUDA device"
    except Exception as error:
        return f"cupy is installed but finds no usable CUDA device, or no driver for it: {error}"
    try:  # a device alone is not enough: kernels need NVRTC, products cuBLAS
        ones = cupy.ones((2, 2), dtype="float32")
        cupy.matmul(cupy.tanh(ones), ones)
    except Exception as error:
        return f"cupy finds a CUDA device but cannot compute on it: {error}"
    return ""


def namespace(name: str, /) -> Namespace:
    """Return the Array API namespace of the backend `name`.

    Raises
    ------
    BackendError
        If the library is unknown, not installed, or finds no device.
    """
    if name not in _namespaces:
        reason = unusable(name)
        if reason:
            raise BackendError(reason)
        _namespaces[name] = importlib.import_module(NAMESPACES[name])
    return _namespaces[name]


# Plain dicts, which torch.compile can trace, unlike a cache.
_namespaces: dict[str, Namespace] = {}
_of_type: dict[type, str] = {np.ndarray: "numpy"}


def resolve(name: str, /) -> tuple[str, str]:
    """Turn a backend's name or "auto" into a name, and say why that one.

    "auto" is CuPy where a CUDA device is usable, NumPy otherwise.
    """
    if name != "auto":
        namespace(name)
        return name, "asked for by name"
    reason = unusable("cupy")
    if reason:
        return "numpy", f"no GPU: {reason}"
    return "cupy", "a CUDA device is usable"


def library_of(value: object, /) -> str | None:
    """Return the name of the library that a value is an array of; None where it is no array.

    The name is a backend's; of another library that array-api-compat knows, its package's.
    """
    kind = type(value)
    return _of_type[kind] if kind in _of_type else _library_of_new_type(value)


def _library_of_new_type(value: object) -> str | None:
    import array_api_compat

    # Scalars and matrices are arrays to some versions of it.
    none = isinstance(value, np.generic | np.matrix)
    if none or not array_api_compat.is_array_api_obj(value):
        return None
    xp = array_api_compat.array_namespace(value)
    known = (name for name, path in NAMESPACES.items() if xp.__name__ in (name, path))
    name = next(known, type(value).__module__.partition(".")[0])
    _namespaces.setdefault(name, xp)
    _of_type[type(value)] = name
    return name


def is_untraced(name: str, /) -> bool:
    """Whether no transformation follows the library's arrays, so that they can be written over."""
    return name in ("numpy", "cupy")


def is_writeable(array: Array, /) -> bool:
    """Whether assignment into the array is possible: False on JAX, whose arrays do not change."""
    import array_api_compat

    return bool(array_api_compat.is_writeable_array(array))
