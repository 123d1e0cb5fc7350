"""One direction of one GRU layer: the large products before and after the recurrence.

The input projection, and in the backward pass the gradients of the input, weights and biases, are
each one product over all T * N rows, never one a step. Below the public calls nothing is checked:
all arrays share one namespace, dtype and device, and what x holds in padding is finite.
"""

from __future__ import annotations

from gru_xp import recurrence
from gru_xp.parameters import GRUParams
from gru_xp.products import matmul, sum_of_rows
from gru_xp.tape import Tape
from gru_xp.typing import Array, Namespace


def forward(
    params: GRUParams,
    x: Array,
    h0: Array,
    /,
    *,
    lengths: Array | None = None,
    reverse: bool = False,
    keep_tape: bool = True,
    reset_after: bool = True,
    xp: Namespace,
) -> tuple[Array, Tape | None]:
    """States (T, N, H) and tape for an input (T, N, I) and an initial state (N, H)."""
    bias = b_hn = None
    if params.bias_ih is not None and params.bias_hh is not None and not reset_after:
        bias = params.bias_ih + params.bias_hh
    elif params.bias_ih is not None and params.bias_hh is not None:
        # All biases join the input projection but the one that the reset gate scales.
        size = h0.shape[-1]
        b_h, b_hn = params.bias_hh[: 2 * size], params.bias_hh[2 * size :]
        b_ih, b_in = params.bias_ih[: 2 * size], params.bias_ih[2 * size :]
        bias = xp.concat([b_ih + b_h, b_in])
    return recurrence.forward(
        _product(x, params.weight_ih.T, bias, xp=xp),
        h0,
        params.weight_hh,
        b_hn,
        lengths=lengths,
        reverse=reverse,
        keep_tape=keep_tape,
        reset_after=reset_after,
        xp=xp,
    )


def backward(
    params: GRUParams,
    x: Array,
    tape: Tape,
    dh: Array,
    dh_last: Array | None,
    /,
    *,
    lengths: Array | None = None,
    reverse: bool = False,
    reset_after: bool = True,
    with_dx: bool = True,
    xp: Namespace,
) -> tuple[GRUParams, Array, Array]:
    """Gradients of the weights, of x (None without `with_dx`) and of h0, given those of `forward`.

    `dh` (T, N, H) belongs to the states, `dh_last` (N, H) to the state at the end of the loop.
    """
    dgx, dgh_n, dh0 = recurrence.backward(
        dh,
        dh_last,
        tape,
        params.weight_hh,
        lengths=lengths,
        reverse=reverse,
        reset_after=reset_after,
        xp=xp,
    )
    size = dgh_n.shape[-1]
    dgx_rows, dgh_n_rows = _rows(dgx, xp=xp), _rows(dgh_n, xp=xp)
    # A gate's recurrent product and its input projection have the same gradient, but for n.
    dgh_rz_rows = dgx_rows[:, : 2 * size]
    h_rows = _rows(tape.h_prev, xp=xp)
    n_rows = h_rows if reset_after else _rows(tape.r * tape.h_prev, xp=xp)
    dweight_hh = xp.concat(
        [matmul(dgh_rz_rows.T, h_rows, xp=xp), matmul(dgh_n_rows.T, n_rows, xp=xp)]
    )
    dbias_ih = dbias_hh = None
    if params.bias_ih is not None:
        dbias_ih = sum_of_rows(dgx_rows, xp=xp)
        dbias_hh = xp.concat([dbias_ih[: 2 * size], sum_of_rows(dgh_n_rows, xp=xp)])
    gradients = GRUParams(
        weight_ih=matmul(dgx_rows.T, _rows(x, xp=xp), xp=xp),
        weight_hh=dweight_hh,
        bias_ih=dbias_ih,
        bias_hh=dbias_hh,
    )
    dx = _product(dgx, params.weight_ih, xp=xp) if with_dx else None
    return gradients, dx, dh0


def _rows(array: Array, /, *, xp: Namespace) -> Array:
    """(T, N, K) as (T * N, K)."""
    steps, batch, width = array.shape
    return xp.reshape(array, (steps * batch, width))


def _product(array: Array, matrix: Array, /, bias: Array | None = None, *, xp: Namespace) -> Array:
    """(T, N, K) times (K, M), in two dimensions: some libraries batch a 3-D product instead."""
    steps, batch, _ = array.shape
    rows = matmul(_rows(array, xp=xp), matrix, bias, xp=xp)
    return xp.reshape(rows, (steps, batch, matrix.shape[1]))
