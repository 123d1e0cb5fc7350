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

_BLOCK = 256  # rows summed by one product, a small share of the time of all that is done to a row


class OneHot(NamedTuple):
    """Input of `gru` that is 1 at one index of every step and row and 0 elsewhere.

    ``gru(params, OneHot(indices))`` is ``gru(params, x)`` for the x of one axis more, of length I,
    with ``x[..., i] == (indices == i)``, but x is not made: the input's products become rows of
    ``weight_ih.T``, taken by index, as of an embedding. There is no gradient with respect to it.

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
    anything."""


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
    if place.library == "numpy" and indices.shape[0] < weight.shape[1]:
        # Its take copies the whole transposed weight first. The standard has no such index.
        rows = weight.T[indices, ...]
    else:
        rows = place.xp.take(weight.T, indices, axis=0)
    return rows if bias is None else rows + bias


def weight_gradient(indices: Array, drows: Array, classes: int, /, *, place: Place) -> Array:
    """Gradient of the weight of `product`, ``drows.T @ one_hot(indices)``, (K, I).

    Where there are few classes this is that product. Else rows are sorted by their index and
    summed a block at a time, by a product with one column a row; a sum that goes on in the next
    block is handed over. That is of fixed shapes, as ``jax.jit`` asks, in the same order on every
    run, and grows with the rows alone.

    Parameters
    ----------
    indices : integer array, (M,)
    drows : array, (M, K)
    classes : int
        Number of columns, I.
    place : Place
        Of the rows.
    """
    xp, count = place.xp, drows.shape[0]
    numbers = xp.arange(classes, dtype=indices.dtype, device=place.device)
    if classes <= _BLOCK or not count:
        return matmul(drows.T, _equal(indices, numbers, place), place=place)
    order = xp.argsort(indices)
    keys, drows = xp.take(indices, order, axis=0), xp.take(drows, order, axis=0)
    columns: list[Array] = []
    for start in range(0, count, _BLOCK):
        block = slice(start, min(start + _BLOCK, count))
        # A key's sum stands in each of its columns, of which any will do.
        sums = matmul(drows[block, :].T, _equal(keys[block], keys[block], place), place=place)
        sums = at_least_float32(sums, xp=xp)
        if columns:
            goes_on = keys[block] == keys[start - 1]
            last = columns[-1][:, -1:]
            sums = sums + xp.where(goes_on, last, xp.zeros_like(last))
        columns.append(sums)
    columns.append(xp.zeros_like(columns[0][:, :1]))  # of the classes that have no row
    last_of = xp.searchsorted(keys, numbers, side="right") - 1
    found = xp.take(keys, xp.clip(last_of, min=0), axis=0) == numbers
    which = xp.where(found, last_of, xp.full_like(last_of, count))
    return cast(xp.take(xp.concat(columns, axis=1), which, axis=1), drows.dtype, xp=xp)


def _equal(one: Array, other: Array, place: Place, /) -> Array:
    """Matrix with ones where an entry of `one`, (M,), is that of `other`, (U,), else zeros."""
    return place.xp.astype(one[:, None] == other, place.dtype)
