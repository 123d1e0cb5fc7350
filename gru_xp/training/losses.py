"""Cross-entropy of a softmax, with its gradient."""

from __future__ import annotations

from gru_xp.arrays.devices import device
from gru_xp.arrays.dtypes import at_least_float32
from gru_xp.arrays.typing import Array, Namespace


def cross_entropy(logits: Array, targets: Array, /, *, xp: Namespace) -> tuple[Array, Array]:
    """Cross-entropy of each prediction in nats, and its gradient with respect to the logits.

    Parameters
    ----------
    logits : array, (..., V)
        Unnormalised log-probabilities of the V classes. Of any finite size: nothing overflows.
        Those of 16 bits are taken to float32 first, whose sums of exponentials keep their digits.
    targets : integer array, (...)
        The class that came. A negative one marks padding, whose loss and gradient are zero.

    Returns
    -------
    losses : array, (...)
        ``-log softmax(logits)[target]``. Of the logits' dtype, float32 if that has 16 bits.
    dlogits : array, (..., V)
        Gradient of each loss with respect to its own logits: ``softmax(logits) - one_hot(target)``.
        Of the losses' dtype: in 16 bits a small one is lost unless it is scaled first.
    """
    logits = at_least_float32(logits, xp=xp)
    classes = xp.arange(logits.shape[-1], dtype=targets.dtype, device=device(logits))
    is_target = targets[..., None] == classes
    is_padding = targets < 0

    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    exponentials = xp.exp(shifted)
    total = xp.sum(exponentials, axis=-1, keepdims=True)
    zero = xp.zeros_like(shifted)
    of_target = xp.sum(xp.where(is_target, shifted, zero), axis=-1)
    losses = xp.log(total[..., 0]) - of_target
    dlogits = exponentials / total - xp.astype(is_target, logits.dtype)
    return (
        xp.where(is_padding, xp.zeros_like(losses), losses),
        xp.where(is_padding[..., None], zero, dlogits),
    )
