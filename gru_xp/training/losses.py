"""Cross-entropy of a softmax, and its gradient.

`xp` is the Array API namespace of the arrays, such as ``numpy``.
"""

from __future__ import annotations

from typing import NamedTuple

from gru_xp.arrays.devices import device
from gru_xp.arrays.dtypes import at_least_float32
from gru_xp.arrays.typing import Array, Namespace


def cross_entropy(logits: Array, targets: Array, /, *, xp: Namespace) -> Array:
    """Return the cross-entropy of each prediction in nats.

    Parameters
    ----------
    logits : array, (..., V)
        Unnormalised log-probabilities of the V classes. Large finite values do not overflow. 16-bit
        logits are first converted to float32, so that sums of exponentials keep their precision.
    targets : integer array, (...)
        Index of the correct class. A negative index marks padding, whose loss is zero.

    Returns
    -------
    losses : array, (...)
        ``-log softmax(logits)[target]``, in the dtype of the logits, or float32 for 16-bit logits.
    """
    is_padding = targets < 0
    some = xp.where(is_padding, xp.zeros_like(targets), targets)
    losses = _softmax(at_least_float32(logits, xp=xp), some, xp=xp).losses
    return xp.where(is_padding, xp.zeros_like(losses), losses)


def cross_entropy_and_gradient(
    logits: Array, targets: Array, /, *, scale: float = 1.0, xp: Namespace
) -> tuple[Array, Array]:
    """Return the `cross_entropy` and its gradient with respect to the logits.

    The function works in place, so torch's autograd cannot differentiate it.

    Parameters
    ----------
    logits : array, (..., V)
        As in `cross_entropy`.
    targets : integer array, (...)
        As in `cross_entropy`, but without padding.
    scale : float
        Factor of the gradient. In 16 bits, a small gradient underflows unless the factor is large.

    Returns
    -------
    losses : array, (...)
        As in `cross_entropy`.
    dlogits : array, (..., V)
        Gradient of each loss with respect to its own logits, ``softmax(logits) -
        one_hot(target)``, times `scale`, in the dtype of the losses.
    """
    logits = at_least_float32(logits, xp=xp)
    dlogits, total, losses = _softmax(logits, targets, xp=xp)
    classes = xp.arange(logits.shape[-1], dtype=targets.dtype, device=device(logits))
    # In place, because there may be many classes. The array belongs to this function.
    dlogits /= total
    dlogits -= xp.astype(targets[..., None] == classes, dlogits.dtype)
    dlogits *= scale
    return losses, dlogits


class _Softmax(NamedTuple):
    exponentials: Array
    """Exponentials (..., V) of the logits minus the largest logit."""
    total: Array
    """Sums of the exponentials, (..., 1)."""
    losses: Array


def _softmax(logits: Array, targets: Array, /, *, xp: Namespace) -> _Softmax:
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    # Take the targets' logits from the flattened array, since not every library supports the
    # standard's ways to index by row and class at once.
    classes, rows = logits.shape[-1], xp.reshape(targets, (-1,))
    first = xp.arange(rows.shape[0], device=device(logits)) * classes
    place = first + xp.astype(rows, first.dtype)
    of_target = xp.reshape(xp.take(xp.reshape(shifted, (-1,)), place, axis=0), targets.shape)
    exponentials = xp.exp(shifted)
    total = xp.sum(exponentials, axis=-1, keepdims=True)
    losses = xp.log(total[..., 0]) - of_target
    return _Softmax(exponentials, total, losses)
