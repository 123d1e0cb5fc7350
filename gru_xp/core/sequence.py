"""One direction of one GRU layer: the large products before and after the recurrence.

The input projection, and in the backward pass the gradients of the input, weights and biases, are
each one product over all T * N rows, instead of one per step. Nothing is checked here: all arrays
have the same namespace, dtype and device, and the values of x in padding are finite.
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
    """Return the states (T, N, H) and the tape for an input (T, N, I) and initial state (N, H).

    The indices of one-hot input have shape (T, N, 1).
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
    """Return the bias of the input projection, and the bias that is added within the loop."""
    _, weight_hh, b_ih, b_hh = params
    if b_ih is None or b_hh is None:
        return None, None
    if not loop.reset_after:
        return b_ih + b_hh, None
    # All biases are added to the input projection, except b_hn, which the reset gate scales.
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
    """Return the gradients of the weights, of x and of h0 from those of the outputs of `forward`.

    `dh` (T, N, H) is the gradient of the states, and `dh_last` (N, H) that of the state at the end
    of the loop. The gradient of x is None for one-hot input or without `with_dx`.
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
    # A state that is not finite may have passed into padding.
    valid = valid_steps(loop.lengths, dh.shape[0], xp=xp, device=place.device)
    h_rows = _rows(zero_in_padding(tape.h_prev, valid, xp=xp), xp=xp)
    # For r and z, the recurrent products and input projections have the same gradients. The rows
    # of dgx and dgh_n can be joined, so that one product suffices for all three gates. This is done
    # in place in dgx, which is no longer needed, or if joining the rows copies less than joining
    # the results.
    joins, rows = loop.reset_after, h_rows.shape[0]
    if joins and is_untraced(place.library) and rows > 1:  # for a single row, dbias_ih is a view
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


# Products use 2-D arrays, because some libraries compute a 3-D product as a batch of small ones. A
# single step is indexed instead of reshaped, because a few reshapes take almost as long as the
# whole arithmetic of a cell.


def _rows(array: Array, /, *, xp: Namespace) -> Array:
    """Reshape (T, N, K) to (T * N, K)."""
    steps, batch, width = array.shape
    return array[0, ...] if steps == 1 else xp.reshape(array, (steps * batch, width))


def _steps(rows: Array, like: Array, /, *, xp: Namespace) -> Array:
    """Reshape (T * N, K) to (T, N, K), with T and N from `like`."""
    steps, batch, _ = like.shape
    return rows[None, ...] if steps == 1 else xp.reshape(rows, (steps, batch, rows.shape[1]))
