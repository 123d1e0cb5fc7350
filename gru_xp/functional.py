"""Pure functions: weights and input in, output and tape out, no hidden state.

``jax.jit``, ``jax.grad``, ``jax.vmap``, torch's autograd, ``torch.func``, ``torch.compile`` and
``torch.export`` go through them, and several calls can be in flight at once. The classes are a thin
memory around them.

Over two or more steps of torch's CPU tensors a second derivative and forward mode (``jvp``) raise;
within ``gru_xp.use_accelerators(False)``, where the portable loop runs, they work.

On JAX the loop over time of `gru` has a derivative of its own, from `gru_backward`'s loop, where
JAX's accelerator runs it: derivatives of either mode and of any order are those of JAX to rounding,
and ``jax.grad`` takes less time and memory than by JAX's own (``docs/performance.md``). Within
``gru_xp.use_accelerators(False)`` JAX differentiates the portable loop, which ``jax.jit`` unrolls.

The first call of a process looks for accelerators, which ``torch.compile(fullgraph=True)`` cannot
trace: make one ordinary call before. Nor can it trace `lengths` that are no tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gru_xp.arrays.libraries import library_of
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array
from gru_xp.core import checks, stack, step
from gru_xp.core.loop import Loop
from gru_xp.core.one_hot import OneHot
from gru_xp.core.parameters import Form, GRUParams, flag, reverse_alone
from gru_xp.core.stack import GateValues, GRUTape
from gru_xp.core.step import CellTape

__all__ = [
    "CellTape",
    "GRUParams",
    "GRUTape",
    "GateValues",
    "OneHot",
    "gru",
    "gru_backward",
    "gru_cell",
    "gru_cell_backward",
    "gru_gates",
]


def gru_cell(
    params: GRUParams,
    x: Array,
    h: Array | None = None,
    /,
    *,
    reset_after: bool = True,
    keep_tape: bool = True,
) -> tuple[Array, CellTape | None]:
    """One step of a GRU.

    Parameters
    ----------
    params : GRUParams
        Packed weights; see `gru_xp.core.equations` for what they do.
    x : array, (I,) or (N, I)
        Input. Floating dtypes are promoted by the Array API's rules; integers and booleans are
        cast to the weights' dtype.
    h : array, (H,) or (N, H), optional
        State before the step; None means zeros.
    reset_after : bool
        As in `gru_xp.GRUCell`.
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
    flag("keep_tape", keep_tape)
    return step.forward(
        params,
        x,
        h,
        reset_after=flag("reset_after", reset_after),
        keep_tape=keep_tape,
        owner="gru_cell",
        place=checks.check_params(params, owner="gru_cell"),
    )


def gru_cell_backward(
    params: GRUParams, tape: CellTape, delta: Array, /, *, reset_after: bool = True
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
    reset_after : bool
        As given to `gru_cell`.

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
        If `delta` has another shape than the output, or is on another device, or if the tape is
        of a forward with another `reset_after`.
    TypeError
        If `delta` is of another library than the weights.
    """
    return step.backward(
        params,
        tape,
        delta,
        reset_after=flag("reset_after", reset_after),
        owner="gru_cell_backward",
        place=checks.check_params(params, owner="gru_cell_backward"),
    )


def gru(
    params: Sequence[GRUParams],
    x: Array | OneHot,
    h0: Array | None = None,
    /,
    *,
    lengths: Array | Sequence[int] | None = None,
    masks: Sequence[Array] | None = None,
    batch_first: bool = False,
    bidirectional: bool = False,
    reverse: bool = False,
    reset_after: bool = True,
    keep_tape: bool = True,
) -> tuple[Array, Array, GRUTape | None]:
    """Run a GRU of any number of layers over whole sequences.

    Parameters
    ----------
    params : sequence of GRUParams
        Weights of each layer, from the input on; with `bidirectional` two a layer, forward then
        reverse. Layers after the first take inputs of size H, or 2H with `bidirectional`.
    x : array, (T, N, I), (N, T, I) with `batch_first`, or (T, I), or OneHot
        Input. Floating dtypes are promoted by the Array API's rules; integers and booleans are
        cast to the weights' dtype: they are numbers. Indices of characters, items or words, whose
        rows of ``weight_ih.T`` are to be taken, come as a `OneHot`. NumPy's are checked against I;
        those of other libraries are not read, and what one outside gives is not defined.
    h0 : array, (num_layers * directions, N, H), or without N as `x`, optional
        Initial states, in the order of `params`; None means zeros.
    lengths : sequence of int or integer array, (N,), optional
        Steps of each row; what lies beyond is padding, and what it holds never matters. Integers
        on the host (NumPy's too) are checked against T. Arrays of other libraries are not read:
        there a length beyond T means T.
    masks : sequence of array, (T, N, H) or (T, N, 2H)
        What the output of each layer but the last is multiplied by: dropout masks, scaled. Time
        first, whatever `batch_first` says. None for no dropout.
    batch_first, bidirectional, reverse, reset_after : bool
        As in `gru_xp.GRU`.
    keep_tape : bool
        Without it the tape is None, and no backward can follow.

    Returns
    -------
    y : array, (T, N, H), (N, T, H) with `batch_first`, or (T, H)
        The last layer's state after each step, zero in padding; 2H wide with `bidirectional`, the
        forward direction's first. In every direction index t means time t.
    h_n : array, (num_layers * directions, N, H), or without N
        Each row's state after its last step, in the order of `params`; for a reverse direction,
        whose last step is the row's first, the state after that.
    tape : GRUTape or None
        Holds the arguments themselves, and may share memory with `y`: change none of them in place
        before `gru_backward`.

    Raises
    ------
    ValueError
        If shapes do not fit each other, arrays are on different devices, a length is negative
        or larger than T, one of NumPy's indices is not from 0 to I - 1, or both of `bidirectional`
        and `reverse` are True.
    TypeError
        If arrays are of different libraries, or of a dtype that is no real number's, for indices
        no integer's.
    """
    flag("keep_tape", keep_tape)
    form, loop = _form_and_loop(batch_first, bidirectional, reverse, reset_after, lengths)
    params = _listed(params, "gru", "params", "GRUParams")
    return stack.forward(
        params,
        x.indices if isinstance(x, OneHot) else x,
        h0,
        loop,
        form,
        masks=() if masks is None else _listed(masks, "gru", "masks", "arrays"),
        one_hot=isinstance(x, OneHot),
        keep_tape=keep_tape,
        owner="gru",
        place=checks.check_layers(params, form, owner="gru"),
    )


def gru_backward(
    params: Sequence[GRUParams],
    tape: GRUTape,
    dy: Array,
    dh_n: Array | None = None,
    /,
    *,
    batch_first: bool = False,
    bidirectional: bool = False,
    reverse: bool = False,
    reset_after: bool = True,
) -> tuple[list[GRUParams], Array | None, Array]:
    """Gradients of `gru`, given those of its outputs.

    Parameters
    ----------
    params : sequence of GRUParams
        As given to `gru`.
    tape : GRUTape
        As `gru` returned it.
    dy : array, in the shape of ``y``
        Gradient with respect to ``y``; what it holds in padding never matters.
    dh_n : array, in the shape of ``h_n``, optional
        Gradient with respect to ``h_n``; None means zeros.
    batch_first, bidirectional, reverse, reset_after : bool
        As given to `gru`.

    Returns
    -------
    dparams : list of GRUParams
        Gradients with respect to the weights, in their dtypes.
    dx, dh0 : array
        Gradients with respect to the input (zero in padding) and to the initial states, in the
        dtypes of these (the computing dtype for integers, or where no state was given). For a
        `OneHot` dx is None.

    Raises
    ------
    ValueError
        If a gradient has another shape than its output, or is on another device, or the tape
        was made with the other `reset_after`.
    TypeError
        If a gradient is of another library than the weights.
    """
    checks.check_tape(tape, GRUTape, owner="gru_backward")
    form, loop = _form_and_loop(batch_first, bidirectional, reverse, reset_after, tape.lengths)
    params = _listed(params, "gru_backward", "params", "GRUParams")
    return stack.backward(
        params,
        tape,
        dy,
        dh_n,
        loop,
        form,
        owner="gru_backward",
        place=checks.check_layers(params, form, owner="gru_backward"),
    )


def gru_gates(tape: GRUTape, /, *, batch_first: bool = False) -> GateValues:
    """Gates r, z and n of every step, layer and direction of a forward pass.

    Parameters
    ----------
    tape : GRUTape
        As `gru` returned it.
    batch_first : bool
        As given to `gru`.

    Returns
    -------
    GateValues
        Arrays (num_layers * directions, T, N, H), zero in padding.
    """
    checks.check_tape(tape, GRUTape, owner="gru_gates")
    form = Form(flag("batch_first", batch_first))
    return stack.gates(tape, form, place=Place.of(tape.tapes[0].r))


def _listed(values: Any, owner: str, name: str, kind: str) -> list[Any]:
    """Return a sequence of things as a list; one thing alone is none."""
    # Of lists and tuples no library is asked, which torch.compile would warn of.
    is_one = not isinstance(values, (list, tuple)) and library_of(values) is not None
    if isinstance(values, GRUParams) or is_one:
        raise TypeError(f"{owner}: expected {name} to be a sequence of {kind}, got one alone")
    try:
        return list(values)
    except TypeError:
        raise TypeError(
            f"{owner}: expected {name} to be a sequence of {kind}, got {type(values).__name__}"
        ) from None


def _form_and_loop(
    batch_first: bool, bidirectional: bool, reverse: bool, reset_after: bool, lengths: Any
) -> tuple[Form, Loop]:
    form = Form(flag("batch_first", batch_first), flag("bidirectional", bidirectional))
    reverse = reverse_alone(reverse, bidirectional=form.bidirectional)
    reset_after = flag("reset_after", reset_after)
    return form, Loop(lengths=lengths, reverse=reverse, reset_after=reset_after)
