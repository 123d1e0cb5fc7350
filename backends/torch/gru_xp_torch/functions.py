"""The accelerator's functions, as `gru_xp.accelerator_api` defines them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gru_xp.accelerator_api import Form, GRUParams, Loop, Tape
from gru_xp_torch import cpu, cuda, operators
from gru_xp_torch.autograd import REMEDY, PlainRecurrence, Recurrence
from gru_xp_torch.state import are_plain, are_taken, is_followed, is_transformed

OPTIONS = frozenset({"lengths", "reverse", "reset_after"})
"""Options of a `Loop` that the accelerator supports."""


def forward(gx: Any, h0: Any, weight_hh: Any, b_hn: Any, loop: Loop, /, *, keep_tape: bool) -> Any:
    """See `gru_xp.accelerator_api.Accelerator`.

    A single step that may be differentiated is declined. torch's operations provide all of its
    derivatives, and there is no loop that could be faster.
    """
    tensors = (gx, h0, weight_hh, b_hn)
    if not are_taken(*tensors):
        return NotImplemented
    if not is_followed(*tensors):
        return operators.forward(*tensors, loop, keep_tape=keep_tape)
    if gx.shape[0] < 2:
        return NotImplemented
    is_plain = not (is_transformed() or torch.compiler.is_compiling())
    function = PlainRecurrence if is_plain else Recurrence
    try:
        h, *kept = function.apply(*tensors, loop.lengths, loop.reverse, loop.reset_after, keep_tape)
    except NotImplementedError as error:  # raised by torch for a Function without a jvp
        raise NotImplementedError(
            f"gru_xp: the accelerated loop has no forward mode (jvp). {REMEDY}"
        ) from error
    return h, operators.whole_tape(*kept) if keep_tape else None


def backward(dh: Any, dh_last: Any, tape: Tape, weight_hh: Any, loop: Loop, /) -> Any:
    """See `gru_xp.accelerator_api.Accelerator`; a call that may be differentiated is declined."""
    tensors = (dh, dh_last, *tape, weight_hh)
    if not are_taken(*tensors) or is_followed(*tensors):
        return NotImplemented
    return operators.backward(dh, dh_last, tape, weight_hh, loop)


def step(
    x: Any,
    h: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    reset_after: bool = True,
    /,
) -> Any:
    """Run a step of a cell in evaluation mode; see `gru_xp.accelerator_api.OptionalFunctions`."""
    params = GRUParams(weight_ih, weight_hh, bias_ih, bias_hh)
    return cpu.step(x, h, params, reset_after) if are_plain(x, h, *params) else NotImplemented


def sequence(x: Any, h0: Any, params: Sequence[GRUParams], loop: Loop, form: Form, /) -> Any:
    """Run a whole GRU in evaluation mode; see `gru_xp.accelerator_api.OptionalFunctions`."""
    tensors = (x, h0, *(each for of_layer in params for each in of_layer))
    if loop.lengths is None and not loop.reverse and are_plain(*tensors):
        return cpu.sequence(x, h0, params, loop.reset_after, form)
    return NotImplemented


def describe() -> str:
    """Describe the accelerator, for the list of backends."""
    return "CPU tensors by C++" + (", CUDA tensors by CuPy" if cuda.is_on() else "")
