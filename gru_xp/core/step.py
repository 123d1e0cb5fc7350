"""One step of a cell, forward and backward: the recurrence with T = 1.

`gru_xp.functional` contains the public functions and describes their arguments and results.
"""

from __future__ import annotations

from typing import NamedTuple

from gru_xp.arrays.door import admit
from gru_xp.arrays.dtypes import cast, like
from gru_xp.arrays.place import Place, runs_there
from gru_xp.arrays.transfer import private
from gru_xp.arrays.typing import Array
from gru_xp.core import checks, equations, sequence
from gru_xp.core.equations import GateGradients
from gru_xp.core.loop import PLAIN, RESET_BEFORE, Loop
from gru_xp.core.parameters import GRUParams, cast_params, like_params
from gru_xp.core.tape import Tape


class CellTape(NamedTuple):
    """Values of the forward pass of one step that its backward pass needs.

    `x` and `h` are the arguments as passed by the user; the others have the promoted dtype.
    """

    x: Array
    """(I,) or (N, I)"""
    h: Array
    """(H,) or (N, H): the state before the step; zeros if none was given."""
    r: Array
    """Reset gate. It has shape (N, H), like z, n and gh_n."""
    z: Array
    n: Array
    gh_n: Array | None
    """``W_nh h + b_nh``; None with reset_after=False."""


@runs_there
def forward(
    params: GRUParams,
    x: Array,
    h: Array | None,
    /,
    *,
    reset_after: bool,
    keep_tape: bool,
    copies: bool = False,
    owner: str,
    place: Place,
) -> tuple[Array, CellTape | None]:
    """`gru_cell` for weights that have been checked.

    Parameters
    ----------
    params, x, h, reset_after, keep_tape
        As in `gru_cell`.
    copies : bool
        Whether the tape holds copies of `x` and `h` instead of references.
    owner : str
        Name of the function or class, with which error messages begin.
    place : Place
        Place of the weights.
    """
    input_size, hidden_size = params.weight_ih.shape[1], params.weight_hh.shape[1]
    call, (x, h) = admit(owner, place, {"input": x}, {"hidden": h})
    checks.check_step(x, h, input_size=input_size, hidden_size=hidden_size, owner=owner)

    xp, dtype = call.xp, call.dtype
    if copies:
        x = private(x, place)
    if h is None:
        h = xp.zeros((*x.shape[:-1], hidden_size), dtype=dtype, device=call.device)
    elif copies:
        h = private(h, place)
    states, tape = sequence.forward(
        cast_params(params, dtype, xp=xp),
        _sequence(cast(x, dtype, xp=xp)),
        _rows(cast(h, dtype, xp=xp)),
        _loop(reset_after),
        keep_tape=keep_tape,
        place=call,
    )
    h_t = states[0, ...] if x.ndim == 2 else states[0, 0, ...]
    if tape is None:
        return h_t, None
    _, r, z, n, gh_n = tape
    gh_n = None if gh_n is None else gh_n[0, ...]
    return h_t, CellTape(x, h, r[0, ...], z[0, ...], n[0, ...], gh_n)


@runs_there
def backward(
    params: GRUParams,
    tape: CellTape,
    delta: Array,
    /,
    *,
    reset_after: bool,
    owner: str,
    place: Place,
) -> tuple[GRUParams, Array, Array]:
    """`gru_cell_backward` for weights that have been checked."""
    checks.check_tape(tape, CellTape, owner=owner)
    if (tape.gh_n is None) == reset_after:  # compared here, because a step takes little time
        options = {"reset_after": not reset_after}
        checks.check_options(options, {"reset_after": reset_after}, owner=owner)
    checks.check_tape_sizes(params, tape.x, tape.r, owner=owner)
    call, (delta, r) = admit(owner, place, {"delta": delta, "the tape": tape.r})
    checks.check_delta(delta, tuple(tape.h.shape), owner=owner)

    dtype = r.dtype
    call = call if call.dtype == dtype else call._replace(dtype=dtype)
    xp = call.xp
    gradients, dx, dh = sequence.backward(
        cast_params(params, dtype, xp=xp),
        _sequence(cast(tape.x, dtype, xp=xp)),
        _tape_of_sequence(tape, place=call),
        _sequence(cast(delta, dtype, xp=xp)),
        None,
        _loop(reset_after),
        place=call,
    )
    if delta.ndim == 2:
        dx = dx[0, ...]
    else:
        dx, dh = dx[0, 0, ...], dh[0, ...]
    return (
        like_params(gradients, params, xp=xp),
        like(dx, tape.x, xp=xp),
        like(dh, tape.h, xp=xp),
    )


@runs_there
def gate_gradients(
    tape: CellTape, delta: Array, weight_hn: Array | None, /, *, place: Place
) -> GateGradients:
    """Return the gradients with respect to the gates r, z and n of a step, shaped like `delta`.

    `weight_hn` (H, H) are the recurrent weights of the candidate. It is None with reset_after=True,
    where they are not needed.
    """
    xp, dtype = place.xp, tape.r.dtype
    dh = xp.reshape(cast(delta, dtype, xp=xp), tape.r.shape)
    h = xp.reshape(cast(tape.h, dtype, xp=xp), tape.r.shape)
    gates = equations.Gates(*tape[2:])
    if weight_hn is None:
        of_gates = equations.gate_gradients(dh, h, gates)
    else:
        weight_hn = cast(weight_hn, dtype, xp=xp)
        of_gates = equations.gate_gradients_reset_before(dh, h, gates, weight_hn, xp=xp)
    return GateGradients(*(xp.reshape(gradient, delta.shape) for gradient in of_gates))


def _loop(reset_after: bool, /) -> Loop:
    """Return the loop of a step; PLAIN if possible, because `accelerated` checks it fastest."""
    return PLAIN if reset_after else RESET_BEFORE


def _rows(array: Array, /) -> Array:
    """Return an array (K,) or (N, K) as (N, K)."""
    return array if array.ndim == 2 else array[None, :]


def _sequence(array: Array, /) -> Array:
    """Return an array (K,) or (N, K) as (1, N, K)."""
    return array[None, ...] if array.ndim == 2 else array[None, None, :]


def _tape_of_sequence(tape: CellTape, /, *, place: Place) -> Tape:
    _, h, r, z, n, gh_n = tape
    h = _sequence(cast(h, r.dtype, xp=place.xp))
    gh_n = None if gh_n is None else gh_n[None, ...]
    return Tape(h, r[None, ...], z[None, ...], n[None, ...], gh_n)
