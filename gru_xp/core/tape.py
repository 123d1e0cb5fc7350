"""What the recurrence's forward pass leaves for its backward pass, and which steps are padding."""

from __future__ import annotations

from typing import NamedTuple

from gru_xp.arrays.dtypes import where
from gru_xp.arrays.typing import Array, Device, Namespace


class Tape(NamedTuple):
    """What the backward pass needs of the forward pass, each (T, N, H), at index t for time t.

    In padding, r, z, n and gh_n are finite but mean nothing.
    """

    h_prev: Array
    """The state that the step started from: ``h_{t-1}``, or ``h_{t+1}`` in reverse."""
    r: Array
    z: Array
    n: Array
    gh_n: Array | None
    """``W_nh h_prev + b_nh``; None where the reset gate acts before the product."""


def valid_steps(
    lengths: Array, steps: int, /, *, xp: Namespace, device: Device | None = None
) -> Array:
    """Boolean mask (T, N, 1) of the steps that are no padding; `device` is that of `lengths`."""
    times = xp.arange(steps, dtype=lengths.dtype, device=device)
    return (times[:, None] < lengths[None, :])[:, :, None]


def zero_in_padding(array: Array, valid: Array | None, /, *, xp: Namespace) -> Array:
    """Return the array (T, N, K) with zeros in padding; `valid` is that of `valid_steps`, or None.

    No product may see what padding holds: 0 * NaN is NaN.
    """
    return array if valid is None else where(valid, array, xp.zeros_like(array), xp=xp)
