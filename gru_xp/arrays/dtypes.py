"""Dtypes by name, and casts of arrays."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from gru_xp.arrays.libraries import BackendError, namespace
from gru_xp.arrays.typing import Array, Device, DType, Namespace

NAMES = ("float32", "float64", "float16", "bfloat16")
"""Names of the dtypes that weights may have."""


def is_real_floating(dtype: DType, /) -> bool:
    """Whether a dtype is real floating, including bfloat16, for which NumPy's isdtype says no.

    The check uses the name, because torch.compile warns about the caches in the namespaces' own
    isdtype.
    """
    return dtype_name(dtype).startswith(("float", "bfloat"))


def is_real(dtype: DType, /) -> bool:
    """Whether a dtype is that of real numbers: floating, integer or boolean."""
    return is_real_floating(dtype) or is_integral(dtype) or dtype_name(dtype) == "bool"


def is_integral(dtype: DType, /) -> bool:
    """Whether a dtype is an integer dtype, signed or unsigned."""
    return dtype_name(dtype).startswith(("int", "uint"))


def cast(array: Array, dtype: DType, /, *, xp: Namespace) -> Array:
    """Return the array itself if it already has the dtype, else a copy with the dtype."""
    return array if array.dtype == dtype else xp.astype(array, dtype)


def where(mask: Array, one: Array, other: Array, /, *, xp: Namespace) -> Array:
    """``xp.where`` that keeps the common dtype of its arrays; CuPy's makes bfloat16 float32."""
    return cast(xp.where(mask, one, other), one.dtype, xp=xp)


def at_least_float32(array: Array, /, *, xp: Namespace) -> Array:
    """Return the array itself, or an exact float32 copy if its dtype has 16 bits."""
    return cast(array, xp.result_type(array.dtype, xp.float32), xp=xp)


def like(gradient: Array | None, value: Array | None, /, *, xp: Namespace) -> Array | None:
    """Cast a gradient to the dtype of the value it belongs to, unless that is an integer dtype."""
    if gradient is None or value is None or value.dtype == gradient.dtype:
        return gradient
    if not is_real_floating(value.dtype):
        return gradient
    return cast(gradient, value.dtype, xp=xp)


def as_dtype(library: str, dtype: DType | str | None, /, *, device: Device = None) -> DType:
    """Return a backend's dtype for a name or any library's floating dtype; None means float32.

    Raises
    ------
    TypeError
        If it is not a real floating dtype.
    BackendError
        If the library does not have the dtype, has it disabled (JAX's float64 by default), or needs
        another package for it (CuPy's bfloat16).
    """
    name = "float32" if dtype is None else dtype_name(dtype)
    if name not in NAMES:
        raise TypeError(
            f"expected a real floating dtype, got {dtype!r}. Use float16, bfloat16, float32 or "
            "float64"
        )
    xp = namespace(library)
    native = getattr(xp, name, None)
    if native is None and (name, library) == ("bfloat16", "cupy"):
        return _bfloat16_of_cupy()
    if native is None:
        others = [each for each in NAMES if hasattr(xp, each)]
        raise BackendError(
            f"{library} has no dtype {name}. Use {' or '.join(others)}, or the backend torch or "
            "jax, which have all dtypes"
        )
    if name == "float64" and name not in xp.__array_namespace_info__().dtypes(
        kind="real floating", device=device
    ):
        remedy = (
            "Call jax.config.update('jax_enable_x64', True) first, or use float32"
            if library == "jax"
            else "Use float32"
        )
        raise BackendError(f"float64 is not enabled in {library}. {remedy}")
    return native


def _bfloat16_of_cupy() -> Any:
    """Return ml_dtypes' bfloat16: CuPy's arrays support it, but CuPy does not define it."""
    try:
        ml_dtypes = importlib.import_module("ml_dtypes")
    except ImportError as error:
        raise BackendError(
            "bfloat16 in cupy requires the package ml_dtypes. Install it (pip install ml_dtypes), "
            "or use float16 or float32"
        ) from error
    return np.dtype(ml_dtypes.bfloat16)


def dtype_name(dtype: DType | str, /) -> str:
    """Return the name of a dtype of any library, such as "float32"."""
    if isinstance(dtype, str):
        return dtype
    for key in ("name", "__name__"):
        if isinstance(getattr(dtype, key, None), str):
            return str(getattr(dtype, key))
    return str(dtype).rpartition(".")[2]
