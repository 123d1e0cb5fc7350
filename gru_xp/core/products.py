"""The large matrix products, one over all steps and rows each, and sums over these."""

from __future__ import annotations

from gru_xp.arrays.dtypes import cast
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array
from gru_xp.core.accelerators import accelerated


def matmul(a: Array, b: Array, /, bias: Array | None = None, *, place: Place) -> Array:
    """Product of two matrices, by the accelerator where it has a `matmul`.

    Parameters
    ----------
    a : array, (M, K)
    b : array, (K, N)
    bias : array, (N,), optional
        Added to every row of the product.
    place : Place
        Of the arrays.

    Returns
    -------
    array, (M, N)
    """
    own = accelerated("matmul", place)
    if own is not None:
        result = own(a, b, bias)
        if result is not NotImplemented:
            return result
    product = place.xp.matmul(a, b)
    return product if bias is None else product + bias


def sum_of_rows(rows: Array, /, *, place: Place) -> Array:
    """Sum (K,) of rows (M, K), of 16-bit ones in float32, as the products do it.

    NumPy adds up float16 in float16, and thousands of rows then lose a digit. The sum of one row
    is that row, which it may share memory with.
    """
    if rows.shape[0] == 1:
        return rows[0, ...]
    xp = place.xp
    total = xp.sum(rows, axis=0, dtype=xp.result_type(rows.dtype, xp.float32))
    return cast(total, rows.dtype, xp=xp)
