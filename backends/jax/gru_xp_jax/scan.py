"""The recurrence forward and backward by ``lax.scan``, and its derivative."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gru_xp.accelerator_api import (
    ARRAYS,
    CONSTANTS,
    Loop,
    Tape,
    portable,
    valid_steps,
    zero_in_padding,
)

OPTIONS = frozenset({"lengths", "reverse", "reset_after"})
"""Options of a `Loop` that the accelerator supports."""

# Makes a loop a valid argument of compiled functions: arrays are traced, other fields are constant.
jax.tree_util.register_dataclass(Loop, data_fields=ARRAYS, meta_fields=CONSTANTS)


def forward(gx: Any, h0: Any, weight_hh: Any, b_hn: Any, loop: Loop, /, *, keep_tape: bool) -> Any:
    """See `gru_xp.accelerator_api.Accelerator`; a call of fewer than two steps is declined."""
    if gx.shape[0] < 2:
        return NotImplemented  # the portable code computes a single step without a scan
    return _forward(*_alike((gx, h0, weight_hh, b_hn, loop)), keep_tape)


def backward(dh: Any, dh_last: Any, tape: Tape, weight_hh: Any, loop: Loop, /) -> Any:
    """See `gru_xp.accelerator_api.Accelerator`; a call of fewer than two steps is declined."""
    if dh.shape[0] < 2:
        return NotImplemented
    return _backward(*_alike((dh, dh_last, tape, weight_hh, loop)))


def _alike(arguments: Any, /) -> Any:
    """Make all arrays vary over the axes of a ``shard_map`` over which any of them varies.

    This is required because the type of a scan's carry must not change. The derivative of the cast
    sums the gradients over these axes.
    """
    leaves, tree = jax.tree.flatten(arguments)
    # Arrays of JAX versions without such types are left unchanged.
    types = [getattr(jax.typeof(each), "manual_axis_type", None) for each in leaves]
    varies = [frozenset() if each is None else each.varying for each in types]
    of_all = frozenset().union(*varies)
    return tree.unflatten(
        lax.pcast(each, tuple(of_all - own), to="varying") if of_all - own else each
        for each, own in zip(leaves, varies, strict=True)
    )


@partial(jax.custom_jvp, nondiff_argnums=(5,))
def _scan(gx: Any, h0: Any, weight_hh: Any, b_hn: Any, loop: Loop, keep_tape: bool) -> Any:
    mask = valid_steps(loop.lengths, gx.shape[0], xp=jnp)

    def one_step(h: Any, inputs: Any) -> Any:
        gx_t, valid = inputs
        h_next, gates = portable.step(gx_t, h, weight_hh, b_hn, loop, xp=jnp)
        if valid is not None:
            h_next = jnp.where(valid, h_next, h)
        return h_next, (h_next, (h, *gates) if keep_tape else None)

    inputs = (zero_in_padding(gx, mask, xp=jnp), mask)
    _, (h_all, kept) = lax.scan(one_step, h0, inputs, reverse=loop.reverse)
    return h_all, Tape(*kept) if keep_tape else None


# Compiled here, so that calls outside of the user's own jit also compile only once per shape.
_forward = jax.jit(_scan, static_argnums=5)


@_scan.defjvp  # type: ignore[untyped-decorator]
def _tangents(keep_tape: bool, primals: Any, tangents: Any) -> Any:
    """Derivative of `_scan` in forward mode, which JAX transposes for reverse mode.

    The tangents of the states are a linear map of the tangents of the inputs and the recurrent
    products. This map is expressed as the transpose of `_back`. Reverse mode transposes it again
    and thus runs `_back` itself, followed by one product for weight_hh. JAX's own derivative of the
    scan stores twice as much, and accumulates the gradient of weight_hh step by step.
    """
    *arrays, loop = primals
    of_gx, of_h0, of_weight_hh, of_b_hn, _ = tangents
    h, tape = _scan(*arrays, loop, True)
    of_gh = _recurrent_products(tape, of_weight_hh, of_b_hn, loop)

    def back(dh: Any) -> Any:
        dgx, dgh_n, dh0 = _back(dh, None, tape, arrays[2], loop)
        dgh = jnp.concatenate([dgx[..., : -dh.shape[-1]], dgh_n], axis=-1)
        return dgx, dgh, dh0

    (of_h,) = jax.linear_transpose(back, h)((of_gx, of_gh, of_h0))
    if not keep_tape:
        return (h, None), (of_h, None)
    _, of_tape = jax.jvp(partial(_tape, loop=loop), (*arrays, h), (*tangents[:4], of_h))
    return (h, tape), (of_h, of_tape)


def _recurrent_products(tape: Tape, weight_hh: Any, b_hn: Any, loop: Loop) -> Any:
    """Return ``W_hh h_prev + b_hn`` of all steps, (T, N, 3H), from the states of a tape."""
    steps, rows, size = tape.h_prev.shape
    tape, rz = _finite(tape, loop), 2 * size

    def as_rows(array: Any) -> Any:
        return jnp.reshape(array, (steps * rows, size))

    if loop.reset_after:
        products = as_rows(tape.h_prev) @ weight_hh.T
    else:
        of_rz = as_rows(tape.h_prev) @ weight_hh[:rz].T
        of_n = as_rows(tape.r * tape.h_prev) @ weight_hh[rz:].T
        products = jnp.concatenate([of_rz, of_n], axis=1)
    if b_hn is not None:
        products = products + jnp.pad(b_hn, (rz, 0))
    return jnp.reshape(products, (steps, rows, 3 * size))


def _tape(gx: Any, h0: Any, weight_hh: Any, b_hn: Any, h: Any, *, loop: Loop) -> Tape:
    """Return the tape of all steps from their states, for the derivative of the gates."""
    h_prev = jnp.concatenate([h[1:], h0[None]] if loop.reverse else [h0[None], h[:-1]])
    mask = valid_steps(loop.lengths, gx.shape[0], xp=jnp)
    gx, h = zero_in_padding(gx, mask, xp=jnp), zero_in_padding(h_prev, mask, xp=jnp)
    _, gates = portable.step(gx, h, weight_hh, b_hn, loop, xp=jnp)
    return Tape(h_prev, *gates)


def _back(dh: Any, dh_last: Any, tape: Tape, weight_hh: Any, loop: Loop) -> Any:
    steps, rows, size = dh.shape
    mask, tape = valid_steps(loop.lengths, steps, xp=jnp), _finite(tape, loop)
    slopes = portable.backward_slopes(tape, loop, xp=jnp)
    carried = jnp.zeros_like(dh[0]) if dh_last is None else dh_last

    def one_step(carried: Any, inputs: Any) -> Any:
        dh_t, of_step, valid = inputs
        total = dh_t + carried
        dgh, before = portable.step_back(total, of_step, weight_hh, loop, xp=jnp)
        before = before if valid is None else jnp.where(valid, before, total)
        return before, (total, None if loop.reset_after else dgh)

    dh0, (total, dgh) = lax.scan(one_step, carried, (dh, slopes, mask), reverse=not loop.reverse)
    if dgh is None:  # computed from the totals, which are a third of its size and need no product
        dgh = jnp.reshape(slopes.gates * total[:, :, None, :], (steps, rows, 3 * size))
    return (*portable.input_gradients(dgh, total, slopes, mask, xp=jnp), dh0)


_backward = jax.jit(_back)


def _finite(tape: Tape, loop: Loop) -> Tape:
    """Set a tape to zero in padding, where it may contain an initial state that is not finite.

    The product of such a state and a derivative of zero would not be zero.
    """
    mask = valid_steps(loop.lengths, tape.r.shape[0], xp=jnp)
    return Tape(*(None if each is None else zero_in_padding(each, mask, xp=jnp) for each in tape))
