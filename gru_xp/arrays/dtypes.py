"""dtypes by name, and arrays cast from one to another."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from gru_xp.arrays.libraries import BackendError, namespace
from gru_xp.arrays.typing import Array, Device, DType, Namespace

NAMES = ("float32", "float64", "float16", "bfloat16")
"""Of the dtypes that weights may have."""


def is_real_floating(dtype: DType, /) -> bool:
    """Whether it is a real floating dtype, bfloat16 included, which NumPy's question refuses.

    By its name: torch.compile warns of the caches behind the namespaces' own question.
    """
    return dtype_name(dtype).startswith(("float", "bfloat"))


def is_real(dtype: DType, /) -> bool:
    """Whether it is the dtype of real numbers: a floating or integer one, or that of booleans."""
    return is_real_floating(dtype) or is_integral(dtype) or dtype_name(dtype) == "bool"


def is_integral(dtype: DType, /) -> bool:
    """Whether it is an integer dtype, signed or not."""
    return dtype_name(dtype).startswith(("int", "uint"))


def cast(array: Array, dtype: DType, /, *, xp: Namespace) -> Array:
    """Return the array itself where it has the dtype already, else a copy that has."""
    return array if array.dtype == dtype else xp.astype(array, dtype)


def where(mask: Array, one: Array, other: Array, /, *, xp: Namespace) -> Array:
    """``xp.where`` for two arrays of one dtype, and in it: CuPy's turns bfloat16 into float32."""
    return cast(xp.where(mask, one, other), one.dtype, xp=xp)


def at_least_float32(array: Array, /, *, xp: Namespace) -> Array:
    """Return the array itself, or a float32 copy of one of 16 bits, which loses nothing."""
    return cast(array, xp.result_type(array.dtype, xp.float32), xp=xp)


def like(gradient: Array | None, value: Array | None, /, *, xp: Namespace) -> Array | None:
    """Cast a gradient to the dtype of what it belongs to, unless that is an integer's."""
    if gradient is None or value is None or value.dtype == gradient.dtype:
        return gradient
    if not is_real_floating(value.dtype):
        return gradient
    return cast(gradient, value.dtype, xp=xp)


def as_dtype(library: str, dtype: DType | str | None, /, *, device: Device = None) -> DType:
    """Turn a dtype's name or any library's floating dtype into that of a backend; None is float32.

    Raises
    ------
    TypeError
        If it is no real floating dtype.
    BackendError
        If the library has no such dtype, has it switched off, as JAX float64, or needs another
        package for it, as CuPy bfloat16.
    """
    name = "float32" if dtype is None else dtype_name(dtype)
    if name not in NAMES:
        raise TypeError(
            f"expected a real floating dtype, got {dtype!r}: use float16, bfloat16, float32 or "
            "float64"
        )
    xp = namespace(library)
    native = getattr(xp, name, None)
    if native is None and (name, library) == ("bfloat16", "cupy"):
        return _bfloat16_of_cupy()
    if native is None:
        others = [each for each in NAMES if hasattr(xp, each)]
        raise BackendError(
            f"{library} has no dtype {name}: use {' or '.join(others)}, or another backend: "
            "torch and jax have all of them"
        )
    if name == "float64" and name not in xp.__array_namespace_info__().dtypes(
        kind="real floating", device=device
    ):
        remedy = (
            "call jax.config.update('jax_enable_x64', True) first, or use float32"
            if library == "jax"
            else "use float32"
        )
        raise BackendError(f"{library} has float64 switched off here: {remedy}")
    return native


def _bfloat16_of_cupy() -> Any:
    """Return bfloat16 as CuPy takes it: its arrays hold it, though it has no name for it."""
    try:
        ml_dtypes = importlib.import_module("ml_dtypes")
    except ImportError as error:
        raise BackendError(
            "cupy has bfloat16 only with ml_dtypes: pip install ml_dtypes, or use float16 or "
            "float32"
        ) from error
    return np.dtype(ml_dtypes.bfloat16)


def dtype_name(dtype: DType | str, /) -> str:
    """Return the name of any library's dtype, such as "float32"."""
    if isinstance(dtype, str):
        return dtype
    for key in ("name", "__name__"):
        if isinstance(getattr(dtype, key, None), str):
            return str(getattr(dtype, key))
    return str(dtype).rpartition(".")[2]
