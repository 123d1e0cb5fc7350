"""The recurrence: the loop over time, forward and backward.

This is the narrow waist of the package. Everything else of a GRU is a few large matrix products
that any array library does well; what an accelerator may replace is `forward` and `backward` here,
and it replaces nothing else. Each asks the accelerator of the arrays' library first, and runs the
portable loop where there is none or where it declines by returning NotImplemented.

Both work on one direction of one layer, time first. With ``reverse`` the loop runs from the last
step to the first; index t of every array still means time t.

With ``lengths`` (N,), step t of row i is *padding* where ``t >= lengths[i]``: there the state
passes through unchanged, in both directions, so that after the loop every row holds its own last
state. What gx holds in padding is never used, be it NaN.
"""

from __future__ import annotations

from gru_xp import portable
from gru_xp.accelerators import accelerator
from gru_xp.tape import Tape
from gru_xp.typing import Array, Namespace


def forward(
    gx: Array,
    h0: Array,
    weight_hh: Array,
    b_hn: Array | None,
    /,
    *,
    lengths: Array | None = None,
    reverse: bool = False,
    keep_tape: bool = True,
    reset_after: bool = True,
    xp: Namespace,
) -> tuple[Array, Tape | None]:
    """Run the recurrence over time.

    Parameters
    ----------
    gx : array, (T, N, 3H)
        Input projections of every step, all biases but ``b_hn`` added, gates in the order r, z, n.
    h0 : array, (N, H)
        Initial state.
    weight_hh : array, (3H, H)
        Recurrent weights.
    b_hn : array, (H,), or None
        Recurrent bias of the candidate; None where it has been added to gx, as it can be with
        ``reset_after=False``.
    lengths : integer array, (N,), optional
        Number of steps of each row that are no padding; None means T for all.
    reverse : bool
        Run from the last step to the first.
    keep_tape : bool
        Whether a backward will follow; without it no tape is made.
    reset_after : bool
        Whether the reset gate scales the recurrent product, as in torch and cuDNN, or, if False,
        the state before the product, as in Cho et al. (2014).

    Returns
    -------
    h : array, (T, N, H)
        State after each step; in padding, the state that passes through.
    tape : Tape or None
        May share memory with h.
    """
    fast = accelerator(xp)
    if fast is not None:
        result = fast.forward(
            gx,
            h0,
            weight_hh,
            b_hn,
            lengths=lengths,
            reverse=reverse,
            keep_tape=keep_tape,
            reset_after=reset_after,
        )
        if result is not NotImplemented:
            return result  # type: ignore[no-any-return]
    return portable.forward(
        gx,
        h0,
        weight_hh,
        b_hn,
        lengths=lengths,
        reverse=reverse,
        keep_tape=keep_tape,
        reset_after=reset_after,
        xp=xp,
    )


def backward(
    dh: Array,
    dh_last: Array | None,
    tape: Tape,
    weight_hh: Array,
    /,
    *,
    lengths: Array | None = None,
    reverse: bool = False,
    reset_after: bool = True,
    xp: Namespace,
) -> tuple[Array, Array, Array]:
    """Propagate gradients back through `forward`, of which it is the exact adjoint.

    Parameters
    ----------
    dh : array, (T, N, H)
        Gradient with respect to h, the output of every step.
    dh_last : array, (N, H), or None
        Gradient with respect to the state at the end of the loop, besides what dh has of it.
    tape : Tape
        What `forward` returned.
    weight_hh : array, (3H, H)
    lengths, reverse, reset_after
        As given to `forward`.

    Returns
    -------
    dgx : array, (T, N, 3H)
        Gradient with respect to gx. Its r and z parts are also those with respect to the
        recurrent products. Zero in padding.
    dgh_n : array, (T, N, H)
        Gradient with respect to the candidate's recurrent product, which differs from the n part
        of dgx by the factor r, or not at all with ``reset_after=False``. Zero in padding.
    dh0 : array, (N, H)
        Gradient with respect to h0.
    """
    fast = accelerator(xp)
    if fast is not None:
        result = fast.backward(
            dh,
            dh_last,
            tape,
            weight_hh,
            lengths=lengths,
            reverse=reverse,
            reset_after=reset_after,
        )
        if result is not NotImplemented:
            return result  # type: ignore[no-any-return]
    return portable.backward(
        dh,
        dh_last,
        tape,
        weight_hh,
        lengths=lengths,
        reverse=reverse,
        reset_after=reset_after,
        xp=xp,
    )
