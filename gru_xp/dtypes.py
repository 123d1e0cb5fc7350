"""Which dtype a call computes in, and how its arguments and results come into theirs."""

from __future__ import annotations

from gru_xp.parameters import GRUParams
from gru_xp.typing import Array, DType, Namespace


def computing_dtype(weight: Array, *others: Array | None, xp: Namespace) -> DType:
    """Promote the floating dtypes; an integer or boolean array takes on the others'."""
    dtype = weight.dtype
    for other in others:
        if other is None or other.dtype == dtype:
            continue
        if xp.isdtype(other.dtype, "real floating"):
            dtype = xp.result_type(dtype, other.dtype)
    return dtype


def cast(array: Array, dtype: DType, /, *, xp: Namespace) -> Array:
    """Return the array itself where it has the dtype already, else a copy that has."""
    return array if array.dtype == dtype else xp.astype(array, dtype)


def cast_params(params: GRUParams, dtype: DType, /, *, xp: Namespace) -> GRUParams:
    """`cast` for each of the packed arrays."""
    return GRUParams(*(None if array is None else cast(array, dtype, xp=xp) for array in params))


def like(gradient: Array | None, value: Array | None, /, *, xp: Namespace) -> Array | None:
    """Cast a gradient to the dtype of what it belongs to, unless that is an integer's."""
    if gradient is None or value is None or not xp.isdtype(value.dtype, "real floating"):
        return gradient
    return cast(gradient, value.dtype, xp=xp)
