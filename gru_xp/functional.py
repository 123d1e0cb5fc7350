"""Pure functions of weights and input, which return the output and a tape.

They work under ``jax.jit``, ``jax.grad``, ``jax.vmap``, torch's autograd, ``torch.func``,
``torch.compile`` and ``torch.export``. They have no hidden state, so several forward passes can
precede their backward passes. The classes store weights and tape and call the same code.

With torch CPU tensors and two or more steps, second derivatives and forward-mode derivatives
(``jvp``) raise an error. They work within ``gru_xp.use_accelerators(False)``, where the portable
loop runs.

With JAX arrays, JAX's accelerator gives the time loop of `gru` a custom derivative, computed by the
loop of `gru_backward`. Derivatives in either mode and of any order equal JAX's own up to rounding,
and ``jax.grad`` takes less time and memory (see ``docs/performance.md``). Within
``gru_xp.use_accelerators(False)``, JAX differentiates the portable loop, which ``jax.jit`` unrolls.

The first call in a process looks for accelerators. ``torch.compile(fullgraph=True)`` cannot trace
this search, so make one ordinary call before compiling. It also cannot trace `lengths` that are not
a tensor.
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
    """Compute one step of a GRU.

    Parameters
    ----------
    params : GRUParams
        Packed weights. `gru_xp.core.equations` gives the equations.
    x : array, (I,) or (N, I)
        Input. Floating dtypes are promoted by the Array API's rules. Integers and booleans are
        cast to the dtype of the weights.
    h : array, (H,) or (N, H), optional
        State before the step. None means zeros.
    reset_after : bool
        As in `gru_xp.GRUCell`.
    keep_tape : bool
        Whether to return a tape, which `gru_cell_backward` needs.

    Returns
    -------
    h_t : array, (H,) or (N, H)
        State after the step, in the promoted dtype.
    tape : CellTape or None
        Values for `gru_cell_backward`, or None if `keep_tape` is False. The tape refers to `x` and
        `h` without copying them; do not change them in place before `gru_cell_backward`.

    Raises
    ------
    ValueError
        If shapes do not match, or arrays are on different devices.
    TypeError
        If arrays belong to different libraries, or a dtype is not that of real numbers.

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
    """Compute the gradients of one step from the gradient of its output.

    Parameters
    ----------
    params : GRUParams
        The weights passed to `gru_cell`.
    tape : CellTape
        The tape returned by `gru_cell`.
    delta : array, (H,) or (N, H)
        Gradient with respect to ``h_t``. `dx` and `dh` have the same number of dimensions as
        `delta`, which may have or lack a batch axis of length 1.
    reset_after : bool
        The value passed to `gru_cell`.

    Returns
    -------
    dparams : GRUParams
        Gradients with respect to the weights, in the dtypes of the weights.
    dx, dh : array
        Gradients with respect to the input and to the state before the step, in the dtypes of the
        input and the state (in the promoted dtype for an integer input).

    Raises
    ------
    ValueError
        If the shape or device of `delta` differs from that of the output, or if the tape was made
        by weights of other sizes or with the other value of `reset_after`.
    TypeError
        If `delta` belongs to another library than the weights.
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
    """Run a GRU with any number of layers over whole sequences.

    Parameters
    ----------
    params : sequence of GRUParams
        Weights of each layer, starting at the input. With `bidirectional` there are two per layer,
        forward then reverse. Layers after the first take inputs of size H, or 2H with
        `bidirectional`.
    x : array, (T, N, I), (N, T, I) with `batch_first`, or (T, I), or OneHot
        Input. Floating dtypes are promoted by the Array API's rules. Integers and booleans are
        cast to the dtype of the weights and used as numbers. To pass indices of characters, items
        or words, which select rows of ``weight_ih.T``, wrap them in a `OneHot`. NumPy indices are
        checked against I. The values of other libraries' arrays are not read; the result for an
        index out of range is undefined there.
    h0 : array, (num_layers * directions, N, H) or (num_layers * directions, H), optional
        Initial states in the order of `params`, with a batch axis if `x` has one. None means zeros.
    lengths : sequence of int or integer array, (N,), optional
        Number of steps of each row. The steps beyond it are padding, whose values are ignored.
        Python integers and NumPy arrays are checked against T. The values of other libraries'
        arrays are not read; in them a length greater than T means T.
    masks : sequence of array, (T, N, H) or (T, N, 2H)
        Scaled dropout masks, by which the output of each layer except the last is multiplied. Time
        is the first axis, even with `batch_first`, and N is 1 for `x` without a batch axis. None
        means no dropout.
    batch_first, bidirectional, reverse, reset_after : bool
        As in `gru_xp.GRU`.
    keep_tape : bool
        Whether to return a tape, which `gru_backward` and `gru_gates` need.

    Returns
    -------
    y : array, (T, N, H), (N, T, H) with `batch_first`, or (T, H)
        State of the last layer after each step, and zero in padding. With `bidirectional` the last
        axis has length 2H, the forward direction first. Index t is time t in both directions.
    h_n : array, (num_layers * directions, N, H) or (num_layers * directions, H)
        State of each row after its last step, in the order of `params`. A reverse direction ends at
        the first step of the row, so its entry is the state after that step.
    tape : GRUTape or None
        Values for `gru_backward`, or None if `keep_tape` is False. The tape refers to the arguments
        without copying them and may share memory with `y`; do not change any of them in place
        before `gru_backward`.

    Raises
    ------
    ValueError
        If shapes do not match, arrays are on different devices, a length is negative or greater
        than T, a NumPy index is not between 0 and I - 1, or `bidirectional` and `reverse` are both
        True.
    TypeError
        If arrays belong to different libraries, a dtype is not that of real numbers, or the dtype
        of indices or lengths is not an integer dtype.
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
    dy: Array | None,
    dh_n: Array | None = None,
    /,
    *,
    batch_first: bool = False,
    bidirectional: bool = False,
    reverse: bool = False,
    reset_after: bool = True,
) -> tuple[list[GRUParams], Array | None, Array]:
    """Compute the gradients of `gru` from the gradients of its outputs.

    Parameters
    ----------
    params : sequence of GRUParams
        The weights passed to `gru`.
    tape : GRUTape
        The tape returned by `gru`.
    dy : array, same shape as ``y``, or None
        Gradient with respect to ``y``. Its values in padding are ignored. None means zeros.
    dh_n : array, same shape as ``h_n``, optional
        Gradient with respect to ``h_n``. None means zeros.
    batch_first, bidirectional, reverse, reset_after : bool
        The values passed to `gru`.

    Returns
    -------
    dparams : list of GRUParams
        Gradients with respect to the weights, in the dtypes of the weights.
    dx, dh0 : array
        Gradients with respect to the input (zero in padding) and to the initial states, in the
        dtypes of the input and the states (in the promoted dtype for integers, or if no states were
        given). `dx` is None if the input was a `OneHot`.

    Raises
    ------
    ValueError
        If the shape or device of a gradient differs from that of its output, or if the tape was
        made by weights of other sizes or with other options.
    TypeError
        If a gradient belongs to another library than the weights, or both are None.
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
    """Return the gates r, z and n of every step, layer and direction of a forward pass.

    Parameters
    ----------
    tape : GRUTape
        The tape returned by `gru`.
    batch_first : bool
        The value passed to `gru`.

    Returns
    -------
    GateValues
        Arrays (num_layers * directions, T, N, H), zero in padding.

    Raises
    ------
    ValueError
        If the tape was made with the other value of `batch_first`.
    """
    checks.check_tape(tape, GRUTape, owner="gru_gates")
    form = Form(flag("batch_first", batch_first))
    given = {"batch_first": form.batch_first and len(tape.leading) == 2}
    checks.check_options({"batch_first": bool(tape.batch_first)}, given, owner="gru_gates")
    return stack.gates(tape, form, place=Place.of(tape.tapes[0].r))


def _listed(values: Any, owner: str, name: str, kind: str) -> list[Any]:
    """Return a sequence as a list; refuse a single GRUParams or array."""
    # library_of is not called for lists and tuples, because torch.compile would warn about it.
    is_one = not isinstance(values, (list, tuple)) and library_of(values) is not None
    if isinstance(values, GRUParams) or is_one:
        raise TypeError(
            f"{owner}: expected {name} to be a sequence of {kind}, got a single "
            f"{type(values).__name__}. Wrap it in a list"
        )
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
