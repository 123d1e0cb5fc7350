"""The recurrence for torch's autograd and ``torch.func``.

The first derivative consists of `gru_xp_torch.operators.backward` and one product. Second
derivatives and forward mode (``jvp``) raise an error; the portable loop supports both.
"""

from __future__ import annotations

from typing import Any

import torch

from gru_xp.accelerator_api import Loop, Tape, valid_steps
from gru_xp_torch import operators
from gru_xp_torch.operators import kept, whole_tape
from gru_xp_torch.products import matmul
from gru_xp_torch.state import is_batched

REMEDY = (
    "Run the forward within gru_xp.use_accelerators(False), where the portable loop (for "
    "gru_xp.interop.torch.GRU, torch's own loop) supports it"
)


class Recurrence(torch.autograd.Function):  # type: ignore[misc]
    """`operators.forward` with a tape, and its derivative.

    The results are h and the arrays of the tape. If `tape_is_seen`, the arrays of the tape are
    returned to the caller and are differentiable too. Otherwise only the backward uses them.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        gx: Any,
        h0: Any,
        weight_hh: Any,
        b_hn: Any,
        lengths: Any,
        reverse: bool,
        reset_after: bool,
        tape_is_seen: bool,
    ) -> Any:
        """Return h, as a copy that may be modified, and the arrays of the tape."""
        loop = Loop(lengths=lengths, reverse=reverse, reset_after=reset_after)
        h, tape = operators.forward(gx, h0, weight_hh, b_hn, loop, keep_tape=True)
        return h.clone(), *kept(tape)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save the values that the backward needs."""
        _, _, weight_hh, _, lengths, ctx.reverse, ctx.reset_after, ctx.tape_is_seen = inputs
        _, *tape = output
        ctx.save_for_backward(weight_hh, lengths, *tape)
        ctx.set_materialize_grads(False)
        if not ctx.tape_is_seen:
            # h_prev stays differentiable, so that a second derivative gets here and is refused.
            ctx.mark_non_differentiable(*tape[1:])

    @staticmethod
    def backward(ctx: Any, dh: Any, *dtape: Any) -> Any:
        """Return the gradients of all arguments. Gradients that are None are zero."""
        weight_hh, lengths, *arrays = ctx.saved_tensors
        _, needs_dh0, needs_dweight, needs_dbias, *_ = ctx.needs_input_grad
        loop = Loop(lengths=lengths, reverse=ctx.reverse, reset_after=ctx.reset_after)
        tape = whole_tape(*arrays)
        dh = torch.zeros_like(tape.h_prev) if dh is None else dh
        if not ctx.tape_is_seen or all(each is None for each in dtape):
            gradients = _backward(dh, tape, weight_hh, loop)
        else:
            given = [
                torch.zeros_like(each) if gradient is None else gradient
                for gradient, each in zip(dtape, arrays, strict=True)
            ]
            gradients = _backward_with_tape(dh, whole_tape(*given), tape, weight_hh, loop)
        dgx, dgh_n, dh0 = gradients
        dweight_hh = _weight_gradient(dgx, dgh_n, tape, loop) if needs_dweight else None
        db_hn = dgh_n.sum((0, 1)) if needs_dbias else None
        return dgx, dh0 if needs_dh0 else None, dweight_hh, db_hn, None, None, None, None


class PlainRecurrence(torch.autograd.Function):  # type: ignore[misc]
    """`Recurrence` without support for ``torch.func``, which costs 40 µs per call."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        """See `Recurrence`."""
        output = Recurrence.forward(*inputs)
        Recurrence.setup_context(ctx, inputs, output)
        return output

    backward = Recurrence.backward


class RecurrenceBackward(torch.autograd.Function):  # type: ignore[misc]
    """`operators.backward`, which has no derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        dh: Any, weight_hh: Any, lengths: Any, reverse: bool, reset_after: bool, *tape: Any
    ) -> Any:
        """Run the operator; return the results as a tuple, as torch requires."""
        return tuple(
            torch.ops.gru_xp.backward.default(
                dh, None, tape, weight_hh, lengths, reverse, reset_after
            )
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        """Raise an error."""
        raise RuntimeError(f"gru_xp: the accelerated loop has no second derivative. {REMEDY}")


def _backward(dh: Any, tape: Tape, weight_hh: Any, loop: Loop, /) -> tuple[Any, Any, Any]:
    """Return dgx, dgh_n and dh0."""
    if torch.compiler.is_compiling():  # does not support a Function within a Function's backward
        return operators.backward(dh, None, tape, weight_hh, loop)
    if is_batched(dh):  # from autograd itself; for torch.func, the operators have a vmap rule
        raise RuntimeError(
            "gru_xp: the accelerated loop does not support batched gradients (is_grads_batched, "
            f"vectorize). Use torch.func.vmap or jacrev. {REMEDY}"
        )
    if not torch.is_grad_enabled():  # no second derivative can be requested
        return operators.backward(dh, None, tape, weight_hh, loop)
    options = loop.lengths, loop.reverse, loop.reset_after
    return operators.gradients(*RecurrenceBackward.apply(dh, weight_hh, *options, *kept(tape)))


def _backward_with_tape(
    dh: Any, dtape: Tape, tape: Tape, weight_hh: Any, loop: Loop, /
) -> tuple[Any, Any, Any]:
    """`_backward` for the case that the arrays of the tape have gradients too.

    Their contribution to the gradients of a step's gates does not depend on other steps. Their
    contribution to the gradient of the state before the step is added to the gradient of that
    state. In padding these arrays are meaningless, and their contributions are zero.
    """
    h_prev, r, z, n, gh_n = tape
    if loop.lengths is not None:  # a state that is not finite may have passed into padding
        valid = valid_steps(loop.lengths, r.shape[0], xp=torch, device=r.device)
        h_prev, r, z, n, gh_n = whole_tape(*(each.where(valid, 0) for each in kept(tape)))
    size = r.shape[-1]
    dgx_n = dtape.n * (1 - n * n)
    if loop.reset_after:
        dgh_n = dgx_n * r + dtape.gh_n
        dr = dgx_n * gh_n
        dh_prev = dgh_n @ weight_hh[2 * size :]
    else:
        dgh_n = dgx_n
        drh = dgx_n @ weight_hh[2 * size :]
        dr, dh_prev = drh * h_prev, drh * r
    dgx_rz = torch.cat([(dtape.r + dr) * r * (1 - r), dtape.z * z * (1 - z)], dim=-1)
    dh_prev = dh_prev + dgx_rz @ weight_hh[: 2 * size] + dtape.h_prev
    none = torch.zeros_like(dh_prev[:1])
    if loop.reverse:
        later, first = [none, dh_prev[:-1]], dh_prev[-1]
    else:
        later, first = [dh_prev[1:], none], dh_prev[0]
    dgx, of_n, dh0 = _backward(dh + torch.cat(later), tape, weight_hh, loop)
    return dgx + torch.cat([dgx_rz, dgx_n], dim=-1), of_n + dgh_n, dh0 + first


def _weight_gradient(dgx: Any, dgh_n: Any, tape: Tape, loop: Loop, /) -> Any:
    """Return the gradient of weight_hh, (3H, H)."""
    h_prev = tape.h_prev
    of_n = h_prev if loop.reset_after else tape.r * h_prev
    if loop.lengths is not None:  # a state that is not finite may have passed into padding
        valid = valid_steps(loop.lengths, dgx.shape[0], xp=torch, device=dgx.device)
        h_prev, of_n = h_prev.where(valid, 0), of_n.where(valid, 0)
    pairs = ((dgx[..., : 2 * h_prev.shape[-1]], h_prev), (dgh_n, of_n))
    return torch.cat([matmul(_rows(dgh).T, _rows(states)) for dgh, states in pairs])


def _rows(array: Any, /) -> Any:
    """Reshape (T, N, K) to (T * N, K)."""
    steps, rows, width = array.shape
    return array.reshape(steps * rows, width)
