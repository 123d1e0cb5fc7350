"""Cross-entropy of a softmax, with its gradient."""

from __future__ import annotations

from typing import NamedTuple

from gru_xp.arrays.devices import device
from gru_xp.arrays.dtypes import at_least_float32
from gru_xp.arrays.typing import Array, Namespace


def cross_entropy(logits: Array, targets: Array, /, *, xp: Namespace) -> Array:
    """Cross-entropy of each prediction in nats.

    Parameters
    ----------
    logits : array, (..., V)
        Unnormalised log-probabilities of the V classes. Of any finite size: nothing overflows.
        Those of 16 bits are taken to float32 first, whose sums of exponentials keep their digits.
    targets : integer array, (...)
        The class that came. A negative one marks padding, whose loss is zero.

    Returns
    -------
    losses : array, (...)
        ``-log softmax(logits)[target]``. Of the logits' dtype, float32 if that has 16 bits.
    """
    is_padding = targets < 0
    some = xp.where(is_padding, xp.zeros_like(targets), targets)
    losses = _softmax(at_least_float32(logits, xp=xp), some, xp=xp).losses
    return xp.where(is_padding, xp.zeros_like(losses), losses)


def cross_entropy_and_gradient(
    logits: Array, targets: Array, /, *, scale: float = 1.0, xp: Namespace
) -> tuple[Array, Array]:
    """`cross_entropy`, and its gradient with respect to the logits.

    Not to be differentiated itself by torch's autograd: it works in place.

    Parameters
    ----------
    logits : array, (..., V)
    targets : integer array, (...)
        As in `cross_entropy`, but none is padding.
    scale : float
        What the gradient is multiplied by. In 16 bits a small one is lost unless it is large.

    Returns
    -------
    losses : array, (...)
    dlogits : array, (..., V)
        Gradient of each loss with respect to its own logits, ``softmax(logits) -
        one_hot(target)``, times `scale`. Of the losses' dtype.
    """
    logits = at_least_float32(logits, xp=xp)
    dlogits, total, losses = _softmax(logits, targets, xp=xp)
    classes = xp.arange(logits.shape[-1], dtype=targets.dtype, device=device(logits))
    # In place, as there may be many classes. The array is this function's own.
    dlogits /= total
    dlogits -= xp.astype(targets[..., None] == classes, dlogits.dtype)
    dlogits *= scale
    return losses, dlogits


class _Softmax(NamedTuple):
    exponentials: Array
    """(..., V), of the logits less their largest."""
    total: Array
    """Their sums, (..., 1)."""
    losses: Array


def _softmax(logits: Array, targets: Array, /, *, xp: Namespace) -> _Softmax:
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    # The target's logit is taken from all in one row: by row and class at once the standard has
    # no way that every library knows.
    classes, rows = logits.shape[-1], xp.reshape(targets, (-1,))
    first = xp.arange(rows.shape[0], device=device(logits)) * classes
    place = first + xp.astype(rows, first.dtype)
    of_target = xp.reshape(xp.take(xp.reshape(shifted, (-1,)), place, axis=0), targets.shape)
    exponentials = xp.exp(shifted)
    total = xp.sum(exponentials, axis=-1, keepdims=True)
    losses = xp.log(total[..., 0]) - of_target
    return _Softmax(exponentials, total, losses)
