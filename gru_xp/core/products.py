"""The large matrix products over all steps and rows, and sums over rows."""

from __future__ import annotations

from gru_xp.arrays.dtypes import cast
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array
from gru_xp.core.accelerators import accelerated


def matmul(a: Array, b: Array, /, bias: Array | None = None, *, place: Place) -> Array:
    """Return the product of two matrices, computed by the accelerator if it has a `matmul`.

    Parameters
    ----------
    a : array, (M, K)
        First factor.
    b : array, (K, N)
        Second factor.
    bias : array, (N,), optional
        Added to every row of the product.
    place : Place
        Place of the arrays.

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
    """Return the sum (K,) of rows (M, K), computed in float32 for 16-bit rows, like the products.

    NumPy sums float16 in float16, which loses a digit over thousands of rows. The sum of a single
    row may share memory with it.
    """
    if rows.shape[0] == 1:
        return rows[0, ...]
    xp = place.xp
    total = xp.sum(rows, axis=0, dtype=xp.result_type(rows.dtype, xp.float32))
    return cast(total, rows.dtype, xp=xp)
