"""One direction of one GRU layer: the large products before and after the recurrence.

The input projection, and in the backward pass the gradients of the input, weights and biases, are
each one product over all T * N rows, never one a step. Below the public calls nothing is checked:
all arrays share one namespace, dtype and device, and what x holds in padding is finite.
"""

from __future__ import annotations

from gru_xp.arrays.libraries import is_untraced
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array, Namespace
from gru_xp.core import one_hot, recurrence
from gru_xp.core.loop import Loop
from gru_xp.core.one_hot import OneHot
from gru_xp.core.parameters import GRUParams
from gru_xp.core.products import matmul, sum_of_rows
from gru_xp.core.tape import Tape, valid_steps, zero_in_padding


def forward(
    params: GRUParams, x: Array | OneHot, h0: Array, loop: Loop, /, *, keep_tape: bool, place: Place
) -> tuple[Array, Tape | None]:
    """States (T, N, H) and tape for an input (T, N, I) and an initial state (N, H).

    Indices of a one-hot input are (T, N, 1).
    """
    xp = place.xp
    bias, b_hn = _biases(params, loop, xp=xp)
    if isinstance(x, OneHot):
        x = x.indices
        gx = one_hot.product(_rows(x, xp=xp)[:, 0], params.weight_ih, bias, place=place)
    else:
        gx = matmul(_rows(x, xp=xp), params.weight_ih.T, bias, place=place)
    return recurrence.forward(
        _steps(gx, x, xp=xp), h0, params.weight_hh, b_hn, loop, keep_tape=keep_tape, place=place
    )


def _biases(
    params: GRUParams, loop: Loop, /, *, xp: Namespace
) -> tuple[Array | None, Array | None]:
    """Biases of the input projection, and the one that stays in the loop."""
    _, weight_hh, b_ih, b_hh = params
    if b_ih is None or b_hh is None:
        return None, None
    if not loop.reset_after:
        return b_ih + b_hh, None
    # All join the input projection but the one that the reset gate scales.
    rz = 2 * weight_hh.shape[1]
    return xp.concat([b_ih[:rz] + b_hh[:rz], b_ih[rz:]]), b_hh[rz:]


def backward(
    params: GRUParams,
    x: Array | OneHot,
    tape: Tape,
    dh: Array,
    dh_last: Array | None,
    loop: Loop,
    /,
    *,
    with_dx: bool = True,
    place: Place,
) -> tuple[GRUParams, Array, Array]:
    """Gradients of the weights, of x (None without `with_dx`) and of h0, given those of `forward`.

    A one-hot x has none.
    `dh` (T, N, H) belongs to the states, `dh_last` (N, H) to the state at the end of the loop.
    """
    xp = place.xp
    dgx, dgh_n, dh0 = recurrence.backward(dh, dh_last, tape, params.weight_hh, loop, place=place)
    rz = 2 * dgh_n.shape[-1]
    dgx_rows, dgh_n_rows = _rows(dgx, xp=xp), _rows(dgh_n, xp=xp)
    dbias_ih = dbias_hh = None
    if params.bias_ih is not None:
        dbias_ih = sum_of_rows(dgx_rows, place=place)
        dbias_hh = xp.concat([dbias_ih[:rz], sum_of_rows(dgh_n_rows, place=place)])
    dx = None
    if isinstance(x, OneHot):
        indices = _rows(x.indices, xp=xp)[:, 0]
        classes = params.weight_ih.shape[1]
        dweight_ih = one_hot.weight_gradient(indices, dgx_rows, classes, place=place)
    else:
        dweight_ih = matmul(dgx_rows.T, _rows(x, xp=xp), place=place)
        if with_dx:
            dx = _steps(matmul(dgx_rows, params.weight_ih, place=place), x, xp=xp)
    valid = None
    if loop.lengths is not None:  # in padding there may be what came of a state that is not finite
        valid = valid_steps(loop.lengths, dh.shape[0], xp=xp, device=place.device)
    h_rows = _rows(zero_in_padding(tape.h_prev, valid, xp=xp), xp=xp)
    # A gate's recurrent product and its input projection have the same gradient, but for n. So one
    # product does for all three where the rows can be joined: in the place of dgx, which nobody
    # needs any more, or where that is smaller than joining the results.
    joins, rows = loop.reset_after, h_rows.shape[0]
    if joins and is_untraced(place.library) and rows > 1:  # of one row dbias_ih is a view
        dgx_rows[:, rz:] = dgh_n_rows
        del dgh_n, dgh_n_rows
        dweight_hh = matmul(dgx_rows.T, h_rows, place=place)
    elif joins and rows < h_rows.shape[1]:
        dgh_rows = xp.concat([dgx_rows[:, :rz], dgh_n_rows], axis=1)
        dweight_hh = matmul(dgh_rows.T, h_rows, place=place)
    else:
        n_rows = h_rows
        if not loop.reset_after:
            n_rows = _rows(zero_in_padding(tape.r * tape.h_prev, valid, xp=xp), xp=xp)
        dweight_hh = xp.concat(
            [
                matmul(dgx_rows[:, :rz].T, h_rows, place=place),
                matmul(dgh_n_rows.T, n_rows, place=place),
            ]
        )
    gradients = GRUParams(
        weight_ih=dweight_ih,
        weight_hh=dweight_hh,
        bias_ih=dbias_ih,
        bias_hh=dbias_hh,
    )
    return gradients, dx, dh0


# Products are of two dimensions, as some libraries batch a 3-D one instead. One step is indexed:
# a cell's whole arithmetic takes not much longer than a few reshapes.


def _rows(array: Array, /, *, xp: Namespace) -> Array:
    """(T, N, K) as (T * N, K)."""
    steps, batch, width = array.shape
    return array[0, ...] if steps == 1 else xp.reshape(array, (steps * batch, width))


def _steps(rows: Array, like: Array, /, *, xp: Namespace) -> Array:
    """(T * N, K) as (T, N, K), with the T and N of `like`."""
    steps, batch, _ = like.shape
    return rows[None, ...] if steps == 1 else xp.reshape(rows, (steps, batch, rows.shape[1]))
