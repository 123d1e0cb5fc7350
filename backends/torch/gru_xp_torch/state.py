"""Checks of tensors and of torch's state (autograd, transforms, tracing) before a computation."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch.autograd import forward_ad

from gru_xp_torch import cpu, cuda


def engine(device: Any, /) -> ModuleType | None:
    """Return the engine for a device, or None if there is none."""
    if device.type == "cpu":
        return cpu
    return cuda if device.type == "cuda" and cuda.is_on() else None


def are_taken(first: Any, /, *others: Any) -> bool:
    """Whether the tensors have one device and dtype that its engine supports. None is skipped.

    The result is False under autocast, where products have another dtype, and if every single
    operation is recorded, as in ``torch.jit.trace`` and under a dispatch mode.
    """
    kinds = None if torch.compiler.is_compiling() else _KINDS  # the compiler uses other types
    if kinds and type(first) not in kinds:
        return False
    dtype, device = first.dtype, first.device
    runs = engine(device)
    if runs is None or dtype not in runs.DTYPES or 0 in first.shape or is_watched():
        return False
    for each in (first, *others):  # a generator would take almost as long as a small step
        if each is None:
            continue
        if kinds and (type(each) not in kinds or each.layout is not torch.strided):
            return False
        if each.dtype is not dtype or each.device != device:
            return False
    return not torch.is_autocast_enabled(device.type)


_KINDS = (torch.Tensor, torch.nn.Parameter)
"""Types of tensors that do not override torch's operations."""


def is_watched() -> bool:
    """Whether the single operations of a call are recorded or replaced."""
    if torch.compiler.is_compiling():  # the compiler supports our operators
        return False
    return torch._C._get_tracing_state() is not None or torch._C._len_torch_dispatch_stack() > 0


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` or forward mode is active."""
    return bool(torch._C._are_functorch_transforms_active()) or forward_ad._current_level >= 0


def is_followed(*tensors: Any) -> bool:
    """Whether the result of a computation with these tensors may be differentiated."""
    if is_transformed():
        return True
    return torch.is_grad_enabled() and any(
        each is not None and each.requires_grad for each in tensors
    )


def are_plain(*tensors: Any) -> bool:
    """Whether these are supported CPU tensors that are neither differentiated nor traced."""
    if torch.compiler.is_compiling() or not are_taken(*tensors):
        return False
    return tensors[0].device.type == "cpu" and not is_followed(*tensors)


def is_batched(tensor: Any, /) -> bool:
    """Whether a tensor is a batch of gradients from ``torch.autograd.grad(is_grads_batched)``."""
    return bool(torch._C._functorch.is_legacy_batchedtensor(tensor))
