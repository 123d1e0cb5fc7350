"""The recurrence: the loop over time, forward and backward.

This is the narrow waist of the package. Everything else of a GRU is a few large matrix products
that any array library does well; what an accelerator may replace is above all `forward` and
`backward` here. Each asks the accelerator of the arrays' library first, and runs the portable loop
where there is none, where it does not take an option of the loop, or where it declines the call.

Both work on one direction of one layer, time first. What is to be run is a `Loop`.
"""

from __future__ import annotations

from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array
from gru_xp.core import portable
from gru_xp.core.accelerators import accelerated
from gru_xp.core.loop import Loop
from gru_xp.core.tape import Tape


def forward(
    gx: Array,
    h0: Array,
    weight_hh: Array,
    b_hn: Array | None,
    loop: Loop,
    /,
    *,
    keep_tape: bool,
    place: Place,
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
    loop : Loop
        What is to be run.
    keep_tape : bool
        Whether a backward will follow; without it no tape is made.
    place : Place
        Of all arrays.

    Returns
    -------
    h : array, (T, N, H)
        State after each step; in padding, the state that passes through.
    tape : Tape or None
        May share memory with h.
    """
    fast = accelerated("forward", place, loop)
    if fast is not None:
        result = fast(gx, h0, weight_hh, b_hn, loop, keep_tape=keep_tape)
        if result is not NotImplemented:
            return result  # type: ignore[no-any-return]
    return portable.forward(gx, h0, weight_hh, b_hn, loop, keep_tape=keep_tape, place=place)


def backward(
    dh: Array,
    dh_last: Array | None,
    tape: Tape,
    weight_hh: Array,
    loop: Loop,
    /,
    *,
    place: Place,
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
    loop : Loop
        As given to `forward`.
    place : Place
        Of all arrays.

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
    fast = accelerated("backward", place, loop)
    if fast is not None:
        result = fast(dh, dh_last, tape, weight_hh, loop)
        if result is not NotImplemented:
            return result  # type: ignore[no-any-return]
    return portable.backward(dh, dh_last, tape, weight_hh, loop, place=place)
