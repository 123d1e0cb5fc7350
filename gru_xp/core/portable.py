"""The recurrence in standard array operations; see `gru_xp.core.recurrence`.

Accelerators can use its parts `step`, `backward_slopes`, `step_back` and `input_gradients` in loops
of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from gru_xp.arrays.dtypes import where
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array, Namespace
from gru_xp.core import equations
from gru_xp.core.loop import Loop
from gru_xp.core.tape import Tape, valid_steps, zero_in_padding


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
    """Run the loop over time forward."""
    xp = place.xp
    steps, reverse = gx.shape[0], loop.reverse
    mask = valid_steps(loop.lengths, steps, xp=xp, device=place.device)
    gx = zero_in_padding(gx, mask, xp=xp)
    states = [h0]
    gates = []
    for t in times(steps, reverse):
        h = states[-1]
        h_next, of_step = step(gx[t, ...], h, weight_hh, b_hn, loop, xp=xp)
        states.append(h_next if mask is None else where(mask[t, ...], h_next, h, xp=xp))
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
        return h, Tape(h_prev, h, h, h, h if loop.reset_after else None)
    return h, Tape(h_prev, *(_stacked(kind, xp=xp) for kind in zip(*gates, strict=True)))


def step(
    gx: Array,
    h: Array,
    weight_hh: Array,
    b_hn: Array | None,
    loop: Loop,
    /,
    *,
    xp: Namespace,
) -> tuple[Array, equations.Gates]:
    """Compute one step of the loop, including the recurrent product."""
    if loop.reset_after:
        return equations.step(gx, xp.matmul(h, weight_hh.T), b_hn, h, xp=xp)
    return equations.step_reset_before(gx, h, weight_hh, xp=xp)


def _stacked(arrays: Iterable[Array | None], /, *, xp: Namespace) -> Array | None:
    arrays = tuple(arrays)
    return None if arrays[0] is None else xp.stack(arrays)


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
    """Run the loop over time backward."""
    xp = place.xp
    steps, rows, size = dh.shape
    carried = dh_last
    if carried is None:
        carried = xp.zeros((rows, size), dtype=dh.dtype, device=place.device)
    if steps == 0:
        dgx = xp.zeros((0, rows, 3 * size), dtype=dh.dtype, device=place.device)
        return dgx, xp.zeros_like(dh), carried + 0  # + 0: a copy
    mask = valid_steps(loop.lengths, steps, xp=xp, device=place.device)
    slopes = backward_slopes(tape, loop, xp=xp)
    totals = []
    products = []
    for t in times(steps, not loop.reverse):
        total = dh[t, ...] + carried
        of_step = Slopes(*(None if slope is None else slope[t, ...] for slope in slopes))
        dgh, before = step_back(total, of_step, weight_hh, loop, xp=xp)
        carried = before if mask is None else where(mask[t, ...], before, total, xp=xp)
        totals.append(total)
        products.append(dgh)
    if not loop.reverse:
        totals.reverse()
        products.reverse()
    dgh = xp.stack(products)
    return (*input_gradients(dgh, xp.stack(totals), slopes, mask, xp=xp), carried)


class Slopes(NamedTuple):
    """Derivatives of all steps, computed at once to keep the loop over time short."""

    gates: Array
    """(T, N, 3, H). Derivatives of the state with respect to the recurrent products of r, z and n.
    With reset_after=False, the entry of r is instead the derivative of ``r * h_prev`` with respect
    to the product of r."""
    h: Array
    """(T, N, H). Derivative of the state with respect to ``h_prev``, not through the gates."""
    gx_n: Array | None
    """(T, N, H). Derivative of the state with respect to the candidate's input projection; None if
    it equals that with respect to the candidate's recurrent product."""
    r: Array | None
    """(T, N, H). The reset gate with reset_after=False, else None."""


def backward_slopes(tape: Tape, loop: Loop, /, *, xp: Namespace) -> Slopes:
    """Compute the derivatives that the backward loop needs from the tape."""
    gates = equations.Gates(*tape[1:])
    gx_n = r = None
    if loop.reset_after:
        of_r, of_z, gx_n, of_n = equations.slopes(tape.h_prev, gates)
    else:
        of_r, of_z, of_n = equations.slopes_reset_before(tape.h_prev, gates)
        r = tape.r
    return Slopes(xp.stack([of_r, of_z, of_n], axis=2), tape.z, gx_n, r)


def step_back(
    total: Array, slopes: Slopes, weight_hh: Array, loop: Loop, /, *, xp: Namespace
) -> tuple[Array, Array]:
    """Compute one step of the backward loop.

    `total` is the whole gradient (N, H) with respect to the state after the step. Returns the
    gradients with respect to the recurrent products (N, 3H) and to the state before the step. In
    padding both are meaningless.
    """
    rows, size = total.shape
    if loop.reset_after:
        dgh = xp.reshape(slopes.gates * total[:, None, :], (rows, 3 * size))
        return dgh, total * slopes.h + xp.matmul(dgh, weight_hh)
    dgh_n = total * slopes.gates[:, 2, :]
    drh = xp.matmul(dgh_n, weight_hh[2 * size :, :])
    dgh_rz = xp.concat([drh * slopes.gates[:, 0, :], total * slopes.gates[:, 1, :]], axis=-1)
    dh = total * slopes.h + drh * slopes.r + xp.matmul(dgh_rz, weight_hh[: 2 * size, :])
    return xp.concat([dgh_rz, dgh_n], axis=-1), dh


def input_gradients(
    dgh: Array, total: Array, slopes: Slopes, mask: Array | None, /, *, xp: Namespace
) -> tuple[Array, Array]:
    """Return dgx (T, N, 3H) and dgh_n (T, N, H) from the results of the backward loop.

    `mask` is the result of `valid_steps`. Padding is set to zero here. Multiplying by zero earlier
    would not work, because a NaN in a gradient or weight would remain NaN.
    """
    size = total.shape[-1]
    dgh = zero_in_padding(dgh, mask, xp=xp)
    dgh_n = dgh[..., 2 * size :]
    if slopes.gx_n is None:
        return dgh, dgh_n
    dgx_n = zero_in_padding(slopes.gx_n * total, mask, xp=xp)
    return xp.concat([dgh[..., : 2 * size], dgx_n], axis=-1), dgh_n


def times(steps: int, reverse: bool) -> range:
    """Return the indices of the steps in the order of the loop."""
    return range(steps - 1, -1, -1) if reverse else range(steps)
