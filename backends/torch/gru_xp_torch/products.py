"""The large matrix products by the C++ engine, so that training and evaluation agree bitwise."""

from __future__ import annotations

from typing import Any

import torch

from gru_xp_torch import cpu
from gru_xp_torch.state import are_taken, is_batched, is_transformed


def matmul(a: Any, b: Any, /, bias: Any = None) -> Any:
    """See `gru_xp.accelerator_api.OptionalFunctions`.

    On a GPU, and if torch transforms or compiles the call, torch's own product is used.
    """
    is_torchs = a.device.type != "cpu" or not are_taken(a, b, bias)
    if is_torchs or is_transformed() or torch.compiler.is_compiling() or is_batched(a):
        return torch.mm(a, b) if bias is None else torch.addmm(bias, a, b)
    return _Product.apply(a, b, bias)


class _Product(torch.autograd.Function):  # type: ignore[misc]
    """``a @ b + bias`` with derivatives of any order, which are themselves products."""

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any, bias: Any) -> Any:
        """Return the product."""
        ctx.save_for_backward(a, b)
        return cpu.matmul(a, b, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        """Return the gradients of the arguments that need one."""
        a, b = ctx.saved_tensors
        of_a, of_b, of_bias = ctx.needs_input_grad
        da = matmul(gradient, b.T) if of_a else None
        db = None
        if of_b:  # in the memory order of b, as required to accumulate a weight's gradient
            is_turned = b.T.is_contiguous() or is_batched(gradient)
            db = matmul(gradient.T, a).T if is_turned else matmul(a.T, gradient)
        return da, db, gradient.sum(0) if of_bias else None
