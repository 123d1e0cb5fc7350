"""The recurrence: the loop over time, forward and backward.

The rest of a GRU consists of a few large matrix products, which every array library computes
efficiently. Accelerators therefore mainly replace `forward` and `backward`. Each of these first
calls the accelerator of the arrays' library. The portable loop runs if there is no accelerator, if
it does not support an option of the loop, or if it declines the call.

Both functions handle one direction of one layer, with time as the first axis. A `Loop` holds the
options.
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
        Input projections of all steps, including all biases except ``b_hn``, with the gates in the
        order r, z, n.
    h0 : array, (N, H)
        Initial state.
    weight_hh : array, (3H, H)
        Recurrent weights.
    b_hn : array, (H,), or None
        Recurrent bias of the candidate. None if there are no biases, or if it is included in gx,
        which is possible with ``reset_after=False``.
    loop : Loop
        Options of the loop.
    keep_tape : bool
        Whether to return a tape, which `backward` needs.
    place : Place
        Place of all arrays.

    Returns
    -------
    h : array, (T, N, H)
        State after each step; in padding, the state that passes through unchanged.
    tape : Tape or None
        Values for `backward`; they may share memory with h.
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
    """Propagate gradients back through `forward`; this is its exact adjoint.

    Parameters
    ----------
    dh : array, (T, N, H)
        Gradient with respect to h, the output of every step.
    dh_last : array, (N, H), or None
        Gradient with respect to the state at the end of the loop, in addition to that in dh.
    tape : Tape
        The tape returned by `forward`.
    weight_hh : array, (3H, H)
        Recurrent weights.
    loop : Loop
        The loop passed to `forward`.
    place : Place
        Place of all arrays.

    Returns
    -------
    dgx : array, (T, N, 3H)
        Gradient with respect to gx, zero in padding. Its r and z parts are also the gradients with
        respect to the recurrent products of r and z.
    dgh_n : array, (T, N, H)
        Gradient with respect to the candidate's recurrent product, zero in padding. It is r times
        the n part of dgx, or equal to that part with ``reset_after=False``.
    dh0 : array, (N, H)
        Gradient with respect to h0.
    """
    fast = accelerated("backward", place, loop)
    if fast is not None:
        result = fast(dh, dh_last, tape, weight_hh, loop)
        if result is not NotImplemented:
            return result  # type: ignore[no-any-return]
    return portable.backward(dh, dh_last, tape, weight_hh, loop, place=place)
