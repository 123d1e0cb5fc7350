"""Arrays in the form that the kernels take, and results in the form that callers take."""

from __future__ import annotations

from typing import Any

import cupy

from gru_xp.accelerator_api import Tape

NULL = 0
"""Null pointer in a kernel's arguments."""


def address(array: Any, /) -> int:
    """Return the address of an array's memory; `NULL` is returned unchanged."""
    return NULL if array is NULL else int(array.data.ptr)


def contiguous(array: Any, dtype: Any = None, /) -> Any:
    """Return the array, or a C-contiguous copy of `dtype` if needed; for None, the null pointer."""
    return NULL if array is None else cupy.ascontiguousarray(array, dtype)


def aligned(array: Any, /) -> Any:
    """Return the array, or a copy if needed, C-contiguous and aligned to 16 bytes.

    A view of a larger array may start at any address. A kernel that loads 16 bytes from an
    unaligned address faults.
    """
    array = contiguous(array)
    return array.copy() if address(array) % 16 else array


def in_panels(matrix: Any, gates: int, units: int, terms: int, /) -> Any:
    """Return weights in the order in which blocks of threads read them.

    Parameters
    ----------
    matrix : array, shape (gates * H, K)
        Weights, with H rows for each gate.
    gates : int
        Number of gates.
    units : int
        Number of units of a block of threads, each with a row of every gate.
    terms : int
        Number of terms that are read at once.

    Returns
    -------
    array, shape (H / units, K / terms, gates, units, terms)
        Both quotients are rounded up; what is added is 0.
    """
    size, columns = matrix.shape[0] // gates, matrix.shape[1]
    blocks, parts = -(-size // units), -(-columns // terms)
    rows = matrix.reshape(gates, size, columns)
    if size % units or columns % terms:
        padded = cupy.zeros((gates, blocks * units, parts * terms), matrix.dtype)
        padded[:, :size, :columns] = rows
        rows = padded
    return aligned(rows.reshape(gates, blocks, units, parts, terms).transpose(1, 3, 0, 2, 4))


def initial_states(h0: Any, steps: int, /, *, reverse: bool) -> Any:
    """Allocate all states (T + 1, N, H), and set the initial state at the start of the loop."""
    states = cupy.empty((steps + 1, *h0.shape), h0.dtype)
    states[steps if reverse else 0] = h0
    return states


def tape_arrays(gx: Any, size: int, /) -> list[Any]:
    """Allocate r, z, n and gh_n."""
    steps, rows, _ = gx.shape
    return [cupy.empty((steps, rows, size), gx.dtype) for _ in range(4)]


def states_of(states: Any, gates: list[Any] | None, /, *, reverse: bool) -> tuple[Any, Tape | None]:
    """Return the states after each step, and the tape if there are gates."""
    before, after = (states[1:], states[:-1]) if reverse else (states[:-1], states[1:])
    return after, None if gates is None else Tape(before, *gates)
