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

from typing import NamedTuple

from gru_xp import equations
from gru_xp.accelerators import accelerator
from gru_xp.backend import device
from gru_xp.typing import Array, Namespace


class Tape(NamedTuple):
    """What the backward pass needs of the forward pass, each (T, N, H), at index t for time t.

    In padding, r, z, n and gh_n are finite but mean nothing.
    """

    h_prev: Array
    """The state that the step started from: ``h_{t-1}``, or ``h_{t+1}`` in reverse."""
    r: Array
    z: Array
    n: Array
    gh_n: Array


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
        Recurrent bias of the candidate.
    lengths : integer array, (N,), optional
        Number of steps of each row that are no padding; None means T for all.
    reverse : bool
        Run from the last step to the first.
    keep_tape : bool
        Whether a backward will follow; without it no tape is made.

    Returns
    -------
    h : array, (T, N, H)
        State after each step; in padding, the state that passes through.
    tape : Tape or None
        May share memory with h.
    """
    fast = accelerator(xp)
    if fast is not None:
        options = {"lengths": lengths, "reverse": reverse, "keep_tape": keep_tape}
        result = fast.forward(gx, h0, weight_hh, b_hn, **options)
        if result is not NotImplemented:
            return result  # type: ignore[no-any-return]
    return portable_forward(
        gx, h0, weight_hh, b_hn, lengths=lengths, reverse=reverse, keep_tape=keep_tape, xp=xp
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
    lengths, reverse
        As given to `forward`.

    Returns
    -------
    dgx : array, (T, N, 3H)
        Gradient with respect to gx. Its r and z parts are also those with respect to the
        recurrent products. Zero in padding.
    dgh_n : array, (T, N, H)
        Gradient with respect to ``W_nh h + b_hn``. Zero in padding.
    dh0 : array, (N, H)
        Gradient with respect to h0.
    """
    fast = accelerator(xp)
    if fast is not None:
        result = fast.backward(dh, dh_last, tape, weight_hh, lengths=lengths, reverse=reverse)
        if result is not NotImplemented:
            return result  # type: ignore[no-any-return]
    return portable_backward(dh, dh_last, tape, weight_hh, lengths=lengths, reverse=reverse, xp=xp)


def portable_forward(
    gx: Array,
    h0: Array,
    weight_hh: Array,
    b_hn: Array | None,
    /,
    *,
    lengths: Array | None = None,
    reverse: bool = False,
    keep_tape: bool = True,
    xp: Namespace,
) -> tuple[Array, Tape | None]:
    """`forward` in standard array operations alone."""
    steps = gx.shape[0]
    mask = None if lengths is None else valid_steps(lengths, steps, xp=xp)
    if mask is not None:
        gx = xp.where(mask, gx, xp.zeros_like(gx))
    weight = weight_hh.T
    states = [h0]
    gates = []
    for t in _times(steps, reverse):
        h = states[-1]
        h_next, of_step = equations.step(gx[t, ...], xp.matmul(h, weight), b_hn, h, xp=xp)
        states.append(h_next if mask is None else xp.where(mask[t, ...], h_next, h))
        if keep_tape:
            gates.append(of_step)
    if reverse:
        states.reverse()
        gates.reverse()
    h_all = xp.stack(states)
    h, h_prev = (h_all[:-1, ...], h_all[1:, ...]) if reverse else (h_all[1:, ...], h_all[:-1, ...])
    if not keep_tape:
        return h, None
    if not gates:
        return h, Tape(h_prev, h, h, h, h)
    return h, Tape(h_prev, *(xp.stack(kind) for kind in zip(*gates, strict=True)))


def portable_backward(
    dh: Array,
    dh_last: Array | None,
    tape: Tape,
    weight_hh: Array,
    /,
    *,
    lengths: Array | None = None,
    reverse: bool = False,
    xp: Namespace,
) -> tuple[Array, Array, Array]:
    """`backward` in standard array operations alone."""
    steps, rows, size = dh.shape
    slopes, slope_gx_n, slope_h = masked_slopes(tape, lengths, xp=xp)
    slopes_gh = xp.stack(slopes, axis=2)  # (T, N, 3, H)
    if dh_last is None:
        dh_last = xp.zeros((rows, size), dtype=dh.dtype, device=device(dh))
    carried = dh_last
    totals = []
    products = []
    for t in _times(steps, not reverse):
        total = dh[t, ...] + carried
        dgh = xp.reshape(slopes_gh[t, ...] * total[:, None, :], (rows, 3 * size))
        carried = total * slope_h[t, ...] + xp.matmul(dgh, weight_hh)
        totals.append(total)
        products.append(dgh)
    if steps == 0:
        return xp.zeros((0, rows, 3 * size), dtype=dh.dtype, device=device(dh)), dh, carried
    if not reverse:
        totals.reverse()
        products.reverse()
    dgh = xp.stack(products)
    dgx = xp.concat([dgh[..., : 2 * size], slope_gx_n * xp.stack(totals)], axis=-1)
    return dgx, dgh[..., 2 * size :], carried


def masked_slopes(
    tape: Tape, lengths: Array | None, /, *, xp: Namespace
) -> tuple[tuple[Array, Array, Array], Array, Array]:
    """Derivatives of each step's state, for all steps at once, which keeps the loop short.

    With respect to the recurrent products of r, z and n; to the candidate's input projection; and
    to ``h_prev`` past the gates. A step in padding passes its state on: slopes 0, 0 and 1.
    """
    of_step = equations.slopes(tape.h_prev, equations.Gates(*tape[1:]))
    gx_r, gx_z, gx_n, gh_n = of_step
    slope_h = tape.z
    if lengths is not None:
        mask = valid_steps(lengths, tape.h_prev.shape[0], xp=xp)
        zero = xp.zeros_like(slope_h)
        gx_r, gx_z, gx_n, gh_n = (xp.where(mask, slope, zero) for slope in of_step)
        slope_h = xp.where(mask, slope_h, xp.ones_like(slope_h))
    return (gx_r, gx_z, gh_n), gx_n, slope_h


def valid_steps(lengths: Array, steps: int, /, *, xp: Namespace) -> Array:
    """Boolean mask (T, N, 1) of the steps that are no padding."""
    times = xp.arange(steps, dtype=lengths.dtype, device=device(lengths))
    return (times[:, None] < lengths[None, :])[:, :, None]


def _times(steps: int, reverse: bool) -> range:
    return range(steps - 1, -1, -1) if reverse else range(steps)
