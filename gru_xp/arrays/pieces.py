"""Elementwise arithmetic on large arrays, one piece at a time.

Each operation of a formula reads and writes whole arrays. If the arrays do not fit into a CPU's
cache, memory bandwidth determines the time. Here the formula is evaluated piece by piece, so that
each piece stays in the cache from the first operation to the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from gru_xp.arrays.devices import device
from gru_xp.arrays.libraries import is_writeable
from gru_xp.arrays.typing import Array, Namespace

PIECE = 1 << 16
"""Elements per piece; about six such arrays fit into a second-level cache."""


def in_pieces(
    function: Callable[..., tuple[Array, ...]], /, *arrays: Array, xp: Namespace
) -> tuple[Array, ...]:
    """Apply an elementwise function to arrays of one shape, in pieces if that is faster.

    Parameters
    ----------
    function : callable
        Takes arrays of one shape and returns arrays of that shape. The dtypes of the results are
        those of the first arguments.
    *arrays : array
        Arguments of the function.

    Returns
    -------
    tuple of array
        Bitwise equal to ``function(*arrays)``.
    """
    first = arrays[0]
    size = math.prod(first.shape)
    on_cpu = "cpu" in str(device(first)).lower()
    if size <= PIECE or not on_cpu or not is_writeable(first):
        return function(*arrays)
    flat = [xp.reshape(array, (-1,)) for array in arrays]
    results: list[Array] = []
    for start in range(0, size, PIECE):
        piece = slice(start, min(start + PIECE, size))
        parts = function(*(array[piece] for array in flat))
        if not results:
            results = [xp.empty_like(array) for array, _ in zip(flat, parts, strict=False)]
        for result, part in zip(results, parts, strict=True):
            result[piece] = part
    return tuple(xp.reshape(result, first.shape) for result in results)
