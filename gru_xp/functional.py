"""Pure functions: weights and input in, output and tape out, no hidden state.

``jax.jit``, ``jax.grad``, ``jax.vmap``, torch's autograd and ``torch.compile`` go through them, and
several calls can be in flight at once. The classes are a thin memory around them.

The first call of a process looks for accelerators, which ``torch.compile(fullgraph=True)`` cannot
trace: make one ordinary call before.
"""

from __future__ import annotations

from typing import NamedTuple

from gru_xp import equations, sequence, validation
from gru_xp.backend import array_namespace, device
from gru_xp.parameters import GRUParams
from gru_xp.tape import Tape
from gru_xp.typing import Array, DType, Namespace

__all__ = ["CellTape", "GRUParams", "gru_cell", "gru_cell_backward"]


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


def gru_cell(
    params: GRUParams, x: Array, h: Array | None = None, /, *, keep_tape: bool = True
) -> tuple[Array, CellTape | None]:
    """One step of a GRU.

    Parameters
    ----------
    params : GRUParams
        Packed weights; see `gru_xp.equations` for what they do.
    x : array, (I,) or (N, I)
        Input. Floating dtypes are promoted by the Array API's rules; integers and booleans are
        cast to the weights' dtype.
    h : array, (H,) or (N, H), optional
        State before the step; None means zeros.
    keep_tape : bool
        Without it the tape is None, and no backward can follow.

    Returns
    -------
    h_t : array, (H,) or (N, H)
        State after the step, in the computing dtype.
    tape : CellTape or None
        Holds `x` and `h` themselves: do not change them in place before `gru_cell_backward`.

    Raises
    ------
    ValueError
        If shapes do not fit each other, or arrays are on different devices.
    TypeError
        If arrays are of different libraries, or of a dtype that is no real number's.

    Examples
    --------
    >>> import numpy as np
    >>> from gru_xp.functional import GRUParams, gru_cell
    >>> params = GRUParams(np.ones((6, 3)), np.ones((6, 2)), np.zeros(6), np.zeros(6))
    >>> h_t, tape = gru_cell(params, np.zeros((5, 3)))
    >>> h_t.shape
    (5, 2)
    """
    validation.check_params(params, owner="gru_cell")
    xp = array_namespace(*params)
    return step(params, x, h, keep_tape=keep_tape, owner="gru_cell", xp=xp)


def step(
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

    dtype = validation.computing_dtype(*params.named().values(), x, h, xp=xp)
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


def gru_cell_backward(
    params: GRUParams, tape: CellTape, delta: Array, /
) -> tuple[GRUParams, Array, Array]:
    """Gradients of one step, given that of its output.

    Parameters
    ----------
    params : GRUParams
        As given to `gru_cell`.
    tape : CellTape
        As `gru_cell` returned it.
    delta : array, (H,) or (N, H)
        Gradient with respect to ``h_t``. Its rank decides that of `dx` and `dh`; a batch axis of 1
        may come or go.

    Returns
    -------
    dparams : GRUParams
        Gradients with respect to the weights, in their dtypes.
    dx, dh : array
        Gradients with respect to the input and to the state before the step, in the dtypes of
        these (the computing dtype for an integer input).

    Raises
    ------
    ValueError
        If `delta` has another shape than the output, or is on another device.
    TypeError
        If `delta` is of another library than the weights.
    """
    validation.check_params(params, owner="gru_cell_backward")
    xp = array_namespace(*params)
    return step_backward(params, tape, delta, owner="gru_cell_backward", xp=xp)


def step_backward(
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
        GRUParams(
            *(_like(one, weight, xp=xp) for one, weight in zip(dparams, params, strict=True))
        ),
        _like(xp.reshape(dx, (*rows, x.shape[-1])), tape.x, xp=xp),
        _like(xp.reshape(dh, (*rows, hidden_size)), tape.h, xp=xp),
    )


def gate_gradients(tape: CellTape, delta: Array, /, *, xp: Namespace) -> equations.GateSlopes:
    """Gradients with respect to the gates r, z and n of a step, in the shape of `delta`."""
    dh_t = xp.reshape(cast(delta, tape.r.dtype, xp=xp), tape.r.shape)
    h = xp.reshape(cast(tape.h, tape.r.dtype, xp=xp), tape.r.shape)
    of_gates = equations.gate_slopes(h, equations.Gates(*tape[2:]))
    return equations.GateSlopes(*(xp.reshape(dh_t * slope, delta.shape) for slope in of_gates))


def _as_sequence(tape: CellTape, /, *, xp: Namespace) -> Tape:
    h = xp.reshape(cast(tape.h, tape.r.dtype, xp=xp), tape.r.shape)
    return Tape(*(array[None, ...] for array in (h, *tape[2:])))


def cast(array: Array, dtype: DType, /, *, xp: Namespace) -> Array:
    """Return the array itself where it has the dtype already, else a copy that has."""
    return array if array.dtype == dtype else xp.astype(array, dtype)


def cast_params(params: GRUParams, dtype: DType, /, *, xp: Namespace) -> GRUParams:
    """`cast` for each of the packed arrays."""
    return GRUParams(*(None if array is None else cast(array, dtype, xp=xp) for array in params))


def _like(gradient: Array | None, value: Array | None, /, *, xp: Namespace) -> Array | None:
    """Cast a gradient to the dtype of what it belongs to, unless that is an integer's."""
    if gradient is None or value is None or not xp.isdtype(value.dtype, "real floating"):
        return gradient
    return cast(gradient, value.dtype, xp=xp)
