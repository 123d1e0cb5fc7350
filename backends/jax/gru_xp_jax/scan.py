"""The recurrence forward and backward by ``lax.scan``."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gru_xp.accelerator_api import ARRAYS, CONSTANTS, Loop, Tape, portable, valid_steps

OPTIONS = frozenset({"lengths", "reverse", "reset_after"})
"""Of a `Loop`."""

# So that a loop is an argument of compiled functions: arrays are traced, all else is constant.
jax.tree_util.register_dataclass(Loop, data_fields=ARRAYS, meta_fields=CONSTANTS)


def forward(gx: Any, h0: Any, weight_hh: Any, b_hn: Any, loop: Loop, /, *, keep_tape: bool) -> Any:
    """See `gru_xp.accelerator_api.Accelerator`; a call of fewer than two steps is declined."""
    if gx.shape[0] < 2:
        return NotImplemented  # nothing to loop over: the portable step needs no scan
    return _forward(gx, h0, weight_hh, b_hn, loop, keep_tape=keep_tape)


def backward(dh: Any, dh_last: Any, tape: Tape, weight_hh: Any, loop: Loop, /) -> Any:
    """See `gru_xp.accelerator_api.Accelerator`; a call of fewer than two steps is declined."""
    if dh.shape[0] < 2:
        return NotImplemented
    return _backward(dh, dh_last, tape, weight_hh, loop)


# Compiled here, so that a call outside of the user's own jit compiles once a shape as well.
@partial(jax.jit, static_argnames=("keep_tape",))
def _forward(gx: Any, h0: Any, weight_hh: Any, b_hn: Any, loop: Loop, *, keep_tape: bool) -> Any:
    mask = None if loop.lengths is None else valid_steps(loop.lengths, gx.shape[0], xp=jnp)
    if mask is not None:
        gx = jnp.where(mask, gx, jnp.zeros_like(gx))

    def one_step(h: Any, inputs: Any) -> Any:
        gx_t, valid = inputs
        h_next, gates = portable.step(gx_t, h, weight_hh, b_hn, loop, xp=jnp)
        if valid is not None:
            h_next = jnp.where(valid, h_next, h)
        return h_next, (h_next, (h, *gates) if keep_tape else None)

    _, (h_all, kept) = lax.scan(one_step, h0, (gx, mask), reverse=loop.reverse)
    return h_all, Tape(*kept) if keep_tape else None


@jax.jit  # type: ignore[untyped-decorator]
def _backward(dh: Any, dh_last: Any, tape: Tape, weight_hh: Any, loop: Loop) -> Any:
    mask = None if loop.lengths is None else valid_steps(loop.lengths, dh.shape[0], xp=jnp)
    slopes = portable.backward_slopes(tape, loop, xp=jnp)
    carried = jnp.zeros(dh.shape[1:], dh.dtype) if dh_last is None else dh_last

    def one_step(carried: Any, inputs: Any) -> Any:
        dh_t, of_step, valid = inputs
        total = dh_t + carried
        dgh, before = portable.step_back(total, of_step, weight_hh, loop, xp=jnp)
        return before if valid is None else jnp.where(valid, before, total), (total, dgh)

    dh0, (total, dgh) = lax.scan(one_step, carried, (dh, slopes, mask), reverse=not loop.reverse)
    return (*portable.input_gradients(dgh, total, slopes, mask, xp=jnp), dh0)
