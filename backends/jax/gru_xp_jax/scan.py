"""The recurrence forward and backward by ``lax.scan``; see `gru_xp.recurrence` for the contract."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gru_xp import portable
from gru_xp.tape import Tape, valid_steps


def forward(
    gx: Any,
    h0: Any,
    weight_hh: Any,
    b_hn: Any,
    /,
    *,
    lengths: Any = None,
    reverse: bool = False,
    keep_tape: bool = True,
    reset_after: bool = True,
) -> Any:
    """See `gru_xp.recurrence.forward`; a call of fewer than two steps is declined."""
    if gx.shape[0] < 2:
        return NotImplemented  # nothing to loop over: the portable step needs no scan
    return _forward(
        gx,
        h0,
        weight_hh,
        b_hn,
        lengths,
        reverse=reverse,
        keep_tape=keep_tape,
        reset_after=reset_after,
    )


def backward(
    dh: Any,
    dh_last: Any,
    tape: Tape,
    weight_hh: Any,
    /,
    *,
    lengths: Any = None,
    reverse: bool = False,
    reset_after: bool = True,
) -> Any:
    """See `gru_xp.recurrence.backward`; a call of fewer than two steps is declined."""
    if dh.shape[0] < 2:
        return NotImplemented
    return _backward(
        dh, dh_last, tape, weight_hh, lengths, reverse=reverse, reset_after=reset_after
    )


# Compiled here, so that a call outside of the user's own jit compiles once a shape as well.
@partial(jax.jit, static_argnames=("reverse", "keep_tape", "reset_after"))
def _forward(
    gx: Any,
    h0: Any,
    weight_hh: Any,
    b_hn: Any,
    lengths: Any,
    *,
    reverse: bool,
    keep_tape: bool,
    reset_after: bool,
) -> Any:
    mask = None if lengths is None else valid_steps(lengths, gx.shape[0], xp=jnp)
    if mask is not None:
        gx = jnp.where(mask, gx, jnp.zeros_like(gx))

    def one_step(h: Any, inputs: Any) -> Any:
        gx_t, valid = inputs
        h_next, gates = portable.step(gx_t, h, weight_hh, b_hn, reset_after=reset_after, xp=jnp)
        if valid is not None:
            h_next = jnp.where(valid, h_next, h)
        return h_next, (h_next, (h, *gates) if keep_tape else None)

    _, (h_all, kept) = lax.scan(one_step, h0, (gx, mask), reverse=reverse)
    return h_all, Tape(*kept) if keep_tape else None


@partial(jax.jit, static_argnames=("reverse", "reset_after"))
def _backward(
    dh: Any,
    dh_last: Any,
    tape: Tape,
    weight_hh: Any,
    lengths: Any,
    *,
    reverse: bool,
    reset_after: bool,
) -> Any:
    slopes = portable.backward_slopes(tape, lengths, reset_after=reset_after, xp=jnp)
    carried = jnp.zeros(dh.shape[1:], dh.dtype) if dh_last is None else dh_last

    def one_step(carried: Any, inputs: Any) -> Any:
        dh_t, of_step = inputs
        total = dh_t + carried
        dgh, carried = portable.step_back(
            total, of_step, weight_hh, reset_after=reset_after, xp=jnp
        )
        return carried, (total, dgh)

    dh0, (total, dgh) = lax.scan(one_step, carried, (dh, slopes), reverse=not reverse)
    return (*portable.input_gradients(dgh, total, slopes, xp=jnp), dh0)
