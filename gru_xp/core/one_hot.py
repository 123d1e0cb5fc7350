"""One-hot input given by its indices: selecting rows of a matrix instead of a product.

The product of a one-hot row and a matrix is one row of the matrix. The gradient of the matrix is,
for each index, the sum of the gradients of the rows with this index. The functions here use this
and avoid one-hot rows and their products, whose time and memory grow with the number of classes.
"""

from __future__ import annotations

from typing import NamedTuple

from gru_xp.arrays.dtypes import at_least_float32, cast
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array
from gru_xp.core.products import matmul

_BLOCK = 256  # rows summed by one product; its cost per row is small compared with the rest


class OneHot(NamedTuple):
    """One-hot input of `gru`, given by its indices.

    ``gru(params, OneHot(indices))`` equals ``gru(params, x)``, where x has an additional last axis
    of length I and ``x[..., i] == (indices == i)``. x is not created: the input projections are
    rows of ``weight_ih.T`` selected by index, as in an embedding. There is no gradient with respect
    to the input. The classes and `gru_cell` do not accept a OneHot; for a single step, use `gru`
    with T = 1.

    Examples
    --------
    >>> import numpy as np
    >>> from gru_xp.functional import GRUParams, OneHot, gru
    >>> params = GRUParams(np.ones((6, 1000)), np.ones((6, 2)), np.zeros(6), np.zeros(6))
    >>> y, h_n, tape = gru([params], OneHot(np.asarray([[3], [999], [3]])))
    >>> y.shape
    (3, 1, 2)
    """

    indices: Array
    """Integers from 0 to I - 1, (T, N), (N, T) with `batch_first`, or (T,). In padding, any value
    is allowed. NumPy indices are checked; for other libraries, the result for an index out of range
    is undefined."""


def product(indices: Array, weight: Array, bias: Array | None, /, *, place: Place) -> Array:
    """Return ``one_hot(indices) @ weight.T + bias``, (M, K).

    Parameters
    ----------
    indices : integer array, (M,)
        Indices of the one-hot rows.
    weight : array, (K, I)
        Input weights.
    bias : array, (K,), or None
        Bias added to every row.
    place : Place
        Place of the weight.
    """
    if place.library == "numpy":
        # NumPy's indexing gives contiguous rows. A take along the last axis would not, and one
        # along the first axis would need a copy of weight.T. The standard lacks such indexing.
        rows = weight.T[indices, ...]
    else:
        rows = place.xp.take(weight, indices, axis=1).T
    return rows if bias is None else rows + bias


def weight_gradient(indices: Array, drows: Array, classes: int, /, *, place: Place) -> Array:
    """Return the gradient of the weight of `product`, ``drows.T @ one_hot(indices)``, (K, I).

    For few classes, this product is computed directly. Otherwise the rows are sorted by index and
    summed in blocks, by a product that has one column per row. If the rows of an index extend over
    several blocks, the sums of the earlier blocks are added. All shapes are fixed, as ``jax.jit``
    requires, the order of summation is the same in every run, and the cost of the products depends
    only on the number of rows.

    Parameters
    ----------
    indices : integer array, (M,)
        Indices of the one-hot rows. Negative ones count from the end, as in unchecked forwards.
    drows : array, (M, K)
        Gradient with respect to the rows of the product.
    classes : int
        Number of columns, I.
    place : Place
        Place of the rows.
    """
    xp, (count, width) = place.xp, drows.shape
    numbers = xp.arange(classes, dtype=indices.dtype, device=place.device)
    indices = xp.where(indices < 0, indices + classes, indices)
    if classes <= _BLOCK or not count:
        return matmul(drows.T, xp.astype(indices[:, None] == numbers, place.dtype), place=place)
    order = xp.argsort(indices)
    blocks = -(-count // _BLOCK)
    spare = blocks * _BLOCK - count
    # The last block is padded with rows whose index is greater than that of all classes.
    beyond = xp.full((spare,), classes, dtype=indices.dtype, device=place.device)
    nothing = xp.zeros((spare, width), dtype=drows.dtype, device=place.device)
    keys = xp.concat([xp.take(indices, order, axis=0), beyond])
    drows = xp.concat([xp.take(drows, order, axis=0), nothing])
    of_block = xp.reshape(keys, (blocks, _BLOCK))
    equal = xp.astype(of_block[:, :, None] == of_block[:, None, :], place.dtype)
    rows = xp.permute_dims(xp.reshape(drows, (blocks, _BLOCK, width)), (0, 2, 1))
    # (blocks, K, _BLOCK): every column holds the sum over all rows in its block with its key.
    sums = at_least_float32(xp.matmul(rows, equal), xp=xp)
    # Add the sums of earlier blocks for the first key of a block, which is the last key there.
    first, last = of_block[:, 0], of_block[:, -1]
    place_of = xp.arange(blocks, device=place.device)
    earlier = (first[:, None] == last[None, :]) & (place_of[:, None] > place_of[None, :])
    before = xp.matmul(xp.astype(earlier, sums.dtype), sums[:, :, -1])
    goes_on = (of_block == first[:, None])[:, None, :]
    sums = sums + xp.where(goes_on, before[:, :, None], xp.zeros_like(before)[:, :, None])
    columns = xp.reshape(xp.permute_dims(sums, (1, 0, 2)), (width, blocks * _BLOCK))
    # The last column of a class holds its total. A class without rows gets a column of zeros.
    last_of = xp.searchsorted(keys, numbers, side="right") - 1
    last_of = xp.where(last_of < 0, xp.zeros_like(last_of), last_of)
    found = xp.take(keys, last_of, axis=0) == numbers
    which = xp.where(found, last_of, xp.full_like(last_of, blocks * _BLOCK))
    columns = xp.concat([columns, xp.zeros_like(columns[:, :1])], axis=1)
    return cast(xp.take(columns, which, axis=1), drows.dtype, xp=xp)
