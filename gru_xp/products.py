"""The large matrix products, one over all steps and rows each, and sums over these."""

from __future__ import annotations

from gru_xp.accelerators import accelerator
from gru_xp.dtypes import cast
from gru_xp.typing import Array, Namespace


def matmul(a: Array, b: Array, /, bias: Array | None = None, *, xp: Namespace) -> Array:
    """Product of two matrices, by the accelerator where it has a `matmul`.

    Parameters
    ----------
    a : array, (M, K)
    b : array, (K, N)
    bias : array, (N,), optional
        Added to every row of the product.

    Returns
    -------
    array, (M, N)
    """
    own = getattr(accelerator(xp), "matmul", None)
    if own is not None:
        result = own(a, b, bias)
        if result is not NotImplemented:
            return result
    product = xp.matmul(a, b)
    return product if bias is None else product + bias


def sum_of_rows(rows: Array, /, *, xp: Namespace) -> Array:
    """Sum (K,) of rows (M, K), of 16-bit ones in float32, as the products do it.

    NumPy adds up float16 in float16, and thousands of rows then lose a digit.
    """
    total = xp.sum(rows, axis=0, dtype=xp.result_type(rows.dtype, xp.float32))
    return cast(total, rows.dtype, xp=xp)
