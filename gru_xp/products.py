"""The large matrix products, one over all steps and rows each."""

from __future__ import annotations

from gru_xp.accelerators import accelerator
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
