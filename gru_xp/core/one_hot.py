"""One-hot input by its indices: rows of a matrix where there would be a product.

A product with a one-hot row takes one row of the matrix, and the gradient of the matrix is, for
each index, the sum of the gradients of the rows that took it. So neither the one-hot rows are made
nor their product, whose time and memory grow with the number of classes.
"""

from __future__ import annotations

from typing import NamedTuple

from gru_xp.arrays.dtypes import at_least_float32, cast
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array
from gru_xp.core.products import matmul

_BLOCK = 256  # rows summed by one product: small beside all else that is done to a row


class OneHot(NamedTuple):
    """Input of `gru` that is 1 at one index of every step and row and 0 elsewhere.

    ``gru(params, OneHot(indices))`` is ``gru(params, x)`` for the x of one axis more, of length I,
    with ``x[..., i] == (indices == i)``, but x is not made: the input's products become rows of
    ``weight_ih.T``, taken by index, as of an embedding. There is no gradient with respect to it.
    The classes and `gru_cell` do not take it; a single step is one of `gru` with T = 1.

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
    """Integers from 0 to I - 1, (T, N), (N, T) with `batch_first`, or (T,). In padding they may be
    anything. NumPy's are checked; what others do with one that is out of range is not defined."""


def product(indices: Array, weight: Array, bias: Array | None, /, *, place: Place) -> Array:
    """Product ``one_hot(indices) @ weight.T + bias``, (M, K).

    Parameters
    ----------
    indices : integer array, (M,)
    weight : array, (K, I)
    bias : array, (K,), or None
    place : Place
        Of the weight.
    """
    if place.library == "numpy":
        # Rows that are contiguous, as a take along the last axis does not make them, and one along
        # the first only of a copy. The standard has no such index.
        rows = weight.T[indices, ...]
    else:
        rows = place.xp.take(weight, indices, axis=1).T
    return rows if bias is None else rows + bias


def weight_gradient(indices: Array, drows: Array, classes: int, /, *, place: Place) -> Array:
    """Gradient of the weight of `product`, ``drows.T @ one_hot(indices)``, (K, I).

    Where there are few classes this is that product. Else rows are sorted by their index and
    summed in blocks, by a product with one column a row; a sum that began in blocks before is
    added. That is of fixed shapes, as ``jax.jit`` asks, in the same order on every run, and its
    products grow with the rows alone.

    Parameters
    ----------
    indices : integer array, (M,)
        Those below 0 count from the end, as the forward takes them where it is not checked.
    drows : array, (M, K)
    classes : int
        Number of columns, I.
    place : Place
        Of the rows.
    """
    xp, (count, width) = place.xp, drows.shape
    numbers = xp.arange(classes, dtype=indices.dtype, device=place.device)
    indices = xp.where(indices < 0, indices + classes, indices)
    if classes <= _BLOCK or not count:
        return matmul(drows.T, xp.astype(indices[:, None] == numbers, place.dtype), place=place)
    order = xp.argsort(indices)
    blocks = -(-count // _BLOCK)
    spare = blocks * _BLOCK - count
    # What fills the last block up has an index beyond all classes.
    beyond = xp.full((spare,), classes, dtype=indices.dtype, device=place.device)
    nothing = xp.zeros((spare, width), dtype=drows.dtype, device=place.device)
    keys = xp.concat([xp.take(indices, order, axis=0), beyond])
    drows = xp.concat([xp.take(drows, order, axis=0), nothing])
    of_block = xp.reshape(keys, (blocks, _BLOCK))
    equal = xp.astype(of_block[:, :, None] == of_block[:, None, :], place.dtype)
    rows = xp.permute_dims(xp.reshape(drows, (blocks, _BLOCK, width)), (0, 2, 1))
    # (blocks, K, _BLOCK): each key's sum in all of its columns, of which any will do.
    sums = at_least_float32(xp.matmul(rows, equal), xp=xp)
    # What earlier blocks have of a block's first key, which is then their last.
    first, last = of_block[:, 0], of_block[:, -1]
    place_of = xp.arange(blocks, device=place.device)
    earlier = (first[:, None] == last[None, :]) & (place_of[:, None] > place_of[None, :])
    before = xp.matmul(xp.astype(earlier, sums.dtype), sums[:, :, -1])
    goes_on = (of_block == first[:, None])[:, None, :]
    sums = sums + xp.where(goes_on, before[:, :, None], xp.zeros_like(before)[:, :, None])
    columns = xp.reshape(xp.permute_dims(sums, (1, 0, 2)), (width, blocks * _BLOCK))
    # A class's total stands in the last of its columns; one that has no row gets a column of zeros.
    last_of = xp.searchsorted(keys, numbers, side="right") - 1
    last_of = xp.where(last_of < 0, xp.zeros_like(last_of), last_of)
    found = xp.take(keys, last_of, axis=0) == numbers
    which = xp.where(found, last_of, xp.full_like(last_of, blocks * _BLOCK))
    columns = xp.concat([columns, xp.zeros_like(columns[:, :1])], axis=1)
    return cast(xp.take(columns, which, axis=1), drows.dtype, xp=xp)
