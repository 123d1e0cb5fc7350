"""One step of a cell, forward and backward: the recurrence with T = 1.

`gru_xp.functional` has these for users, and says what arguments and results are.
"""

from __future__ import annotations

from typing import NamedTuple

from gru_xp import equations, sequence, validation
from gru_xp.backend import device, runs_on_device_of_weights
from gru_xp.dtypes import cast, computing_dtype, like
from gru_xp.parameters import GRUParams, cast_params
from gru_xp.tape import Tape
from gru_xp.typing import Array, Namespace


class CellTape(NamedTuple):
    """What the backward pass of one step needs of its forward pass.

    `x` and `h` are the arguments as they were given; the others have the computing dtype.
    """

    x: Array
    """(I,) or (N, I)"""
    h: Array
    """(H,) or (N, H): the state before the step; zeros where none was given."""
    r: Array
    """Reset gate, (N, H), as the three below."""
    z: Array
    n: Array
    gh_n: Array


@runs_on_device_of_weights
def forward(
    params: GRUParams,
    x: Array,
    h: Array | None,
    /,
    *,
    keep_tape: bool,
    owner: str,
    xp: Namespace,
) -> tuple[Array, CellTape | None]:
    """`gru_cell` for weights that are known to be sound; `owner` is whom errors name."""
    weight = params.weight_ih
    input_size, hidden_size = weight.shape[1], params.weight_hh.shape[1]
    validation.check_array(x, weight, name="input", owner=owner, xp=xp)
    if h is not None:
        validation.check_array(h, weight, name="hidden", owner=owner, xp=xp)
    validation.check_step(x, h, input_size=input_size, hidden_size=hidden_size, owner=owner)

    dtype = computing_dtype(*params.named().values(), x, h, xp=xp)
    if h is None:
        h = xp.zeros((*x.shape[:-1], hidden_size), dtype=dtype, device=device(x))
    states, tape = sequence.forward(
        cast_params(params, dtype, xp=xp),
        xp.reshape(cast(x, dtype, xp=xp), (1, -1, input_size)),
        xp.reshape(cast(h, dtype, xp=xp), (-1, hidden_size)),
        keep_tape=keep_tape,
        xp=xp,
    )
    h_t = xp.reshape(states, h.shape)
    if tape is None:
        return h_t, None
    _, *gates = tape
    return h_t, CellTape(x, h, *(array[0, ...] for array in gates))


@runs_on_device_of_weights
def backward(
    params: GRUParams, tape: CellTape, delta: Array, /, *, owner: str, xp: Namespace
) -> tuple[GRUParams, Array, Array]:
    """`gru_cell_backward` for weights that are known to be sound."""
    hidden_size = params.weight_hh.shape[1]
    validation.check_array(delta, params.weight_ih, name="delta", owner=owner, xp=xp)
    validation.check_delta(delta, tuple(tape.h.shape), owner=owner)

    dtype = tape.r.dtype
    x = xp.reshape(cast(tape.x, dtype, xp=xp), (1, -1, tape.x.shape[-1]))
    dh_t = xp.reshape(cast(delta, dtype, xp=xp), (1, -1, hidden_size))
    dparams, dx, dh = sequence.backward(
        cast_params(params, dtype, xp=xp), x, _as_sequence(tape, xp=xp), dh_t, None, xp=xp
    )
    rows = delta.shape[:-1]
    return (
        GRUParams(*(like(one, weight, xp=xp) for one, weight in zip(dparams, params, strict=True))),
        like(xp.reshape(dx, (*rows, x.shape[-1])), tape.x, xp=xp),
        like(xp.reshape(dh, (*rows, hidden_size)), tape.h, xp=xp),
    )


@runs_on_device_of_weights
def gate_gradients(tape: CellTape, delta: Array, /, *, xp: Namespace) -> equations.GateSlopes:
    """Gradients with respect to the gates r, z and n of a step, in the shape of `delta`."""
    dh_t = xp.reshape(cast(delta, tape.r.dtype, xp=xp), tape.r.shape)
    h = xp.reshape(cast(tape.h, tape.r.dtype, xp=xp), tape.r.shape)
    of_gates = equations.gate_slopes(h, equations.Gates(*tape[2:]))
    return equations.GateSlopes(*(xp.reshape(dh_t * slope, delta.shape) for slope in of_gates))


def _as_sequence(tape: CellTape, /, *, xp: Namespace) -> Tape:
    h = xp.reshape(cast(tape.h, tape.r.dtype, xp=xp), tape.r.shape)
    return Tape(*(array[None, ...] for array in (h, *tape[2:])))
