"""Array libraries by name: which ones are usable, and to which one an array belongs.

A *backend* is an array library that gru_xp supports by name. Every backend except NumPy is imported
only when it is used, and so are array_api_compat's namespaces, which are slow to load.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import lru_cache

import numpy as np

from gru_xp.arrays.typing import Array, Namespace
from gru_xp.messages import printable

NAMESPACES = {
    "numpy": "array_api_compat.numpy",
    "cupy": "array_api_compat.cupy",
    "torch": "array_api_compat.torch",
    "jax": "jax.numpy",
    "array_api_strict": "array_api_strict",
}
"""The supported backends, and the module of each one's Array API namespace."""

_INSTALL = {
    "numpy": "pip install numpy",
    "cupy": "pip install 'gru-xp[cuda13]' (or [cuda12], for the CUDA version of your driver)",
    "torch": "pip install torch",
    "jax": "pip install jax",
    "array_api_strict": "pip install array-api-strict",
}


class BackendError(RuntimeError):
    """A requested array library, device or dtype is not available."""


@lru_cache
def unusable(name: str, /) -> str:
    """Return why the backend cannot be used on this machine; an empty string if it can."""
    if name not in NAMESPACES:
        return _unknown(name)
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        return f"{name} is not installed: {_INSTALL[name]}"
    try:
        importlib.import_module(NAMESPACES[name])
        if name == "cupy":
            return _unusable_cuda()
        if name == "jax":
            importlib.import_module("jax").devices()  # raises if JAX cannot start any platform
    except (Exception, SystemExit) as error:  # a broken installation can raise any exception
        told = printable(str(error))
        return f"{name} is installed but fails to start: {type(error).__name__}: {told}"
    return ""


def _unknown(name: object) -> str:
    return f"unknown backend {name!r}: gru_xp supports {', '.join(NAMESPACES)}"


def _unusable_cuda() -> str:
    import cupy

    try:
        if cupy.cuda.runtime.getDeviceCount() == 0:
            return "cupy is installed but finds no CUDA device"
    except Exception as error:
        return f"cupy is installed but finds no usable CUDA device, or no driver for it: {error}"
    try:  # elementwise kernels need NVRTC, and matrix products need cuBLAS
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
        If the library is not supported, not installed, or finds no device.
    """
    if not isinstance(name, str):
        raise BackendError(_unknown(name))
    if name not in _namespaces:
        reason = unusable(name)
        if reason:
            raise BackendError(reason)
        _namespaces[name] = importlib.import_module(NAMESPACES[name])
    return _namespaces[name]


# Plain dicts instead of functools.cache, which torch.compile cannot trace.
_namespaces: dict[str, Namespace] = {}
_of_type: dict[type, str] = {np.ndarray: "numpy"}


def resolve(name: str, /) -> tuple[str, str]:
    """Return the backend for a name or "auto", and the reason for the choice.

    "auto" selects CuPy if a CUDA device is usable, and NumPy otherwise.
    """
    if name != "auto":
        namespace(name)
        return name, "asked for by name"
    reason = unusable("cupy")
    if reason:
        return "numpy", f"no GPU: {reason}"
    return "cupy", "a CUDA device is usable"


def library_of(value: object, /) -> str | None:
    """Return the name of the library to which an array belongs; None if it is not an array.

    The name is that of a backend or, for another library that array-api-compat supports, of its
    package.
    """
    kind = type(value)
    return _of_type[kind] if kind in _of_type else _library_of_new_type(value)


def _library_of_new_type(value: object) -> str | None:
    import array_api_compat

    # Some versions of array_api_compat count scalars and matrices as arrays.
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
    """Whether the library has no tracing or autograd, so that temporaries can be overwritten."""
    return name in ("numpy", "cupy")


def is_writeable(array: Array, /) -> bool:
    """Whether the array can be assigned to; always False for JAX, whose arrays are immutable."""
    import array_api_compat

    return bool(array_api_compat.is_writeable_array(array))
