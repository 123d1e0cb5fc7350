"""The values that the recurrence's forward pass stores for the backward pass; padding masks."""

from __future__ import annotations

from typing import NamedTuple

from gru_xp.arrays.dtypes import where
from gru_xp.arrays.typing import Array, Device, Namespace


class Tape(NamedTuple):
    """Values of the forward pass for the backward pass, each (T, N, H), where index t is time t.

    In padding, r, z, n and gh_n are meaningless.
    """

    h_prev: Array
    """The state before the step: ``h_{t-1}``, or ``h_{t+1}`` in reverse."""
    r: Array
    z: Array
    n: Array
    gh_n: Array | None
    """``W_nh h_prev + b_nh``; None with reset_after=False."""


def valid_steps(
    lengths: Array | None, steps: int, /, *, xp: Namespace, device: Device | None = None
) -> Array | None:
    """Return a boolean mask (T, N, 1) of the steps that are not padding; None without lengths.

    `device` is the device of `lengths`.
    """
    if lengths is None:
        return None
    times = xp.arange(steps, dtype=lengths.dtype, device=device)
    return (times[:, None] < lengths[None, :])[:, :, None]


def zero_in_padding(array: Array, valid: Array | None, /, *, xp: Namespace) -> Array:
    """Return the array (T, N, K) with zeros in padding; `valid` is from `valid_steps`, or None.

    Padding must be set to zero before a product, because it may contain NaN, and 0 * NaN is NaN.
    """
    return array if valid is None else where(valid, array, xp.zeros_like(array), xp=xp)
