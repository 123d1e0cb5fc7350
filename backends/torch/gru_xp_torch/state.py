"""What is known of tensors, and of what torch makes of a call, before anything is computed."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch.autograd import forward_ad

from gru_xp_torch import cpu, cuda


def engine(device: Any, /) -> ModuleType | None:
    """Return what computes on a device, None where nothing of ours does."""
    if device.type == "cpu":
        return cpu
    return cuda if device.type == "cuda" and cuda.is_on() else None


def are_taken(first: Any, /, *others: Any) -> bool:
    """Whether tensors are of one device and dtype, and its engine takes them; None passes.

    Under autocast none are, as the products there are of another dtype; nor where each operation
    counts, as in ``torch.jit.trace`` and under a dispatch mode.
    """
    kinds = None if torch.compiler.is_compiling() else _KINDS  # the compiler has its own
    if kinds and type(first) not in kinds:
        return False
    dtype, device = first.dtype, first.device
    runs = engine(device)
    if runs is None or dtype not in runs.DTYPES or 0 in first.shape or is_watched():
        return False
    for each in (first, *others):  # no generator here: a small step takes not much longer
        if each is None:
            continue
        if kinds and (type(each) not in kinds or each.layout is not torch.strided):
            return False
        if each.dtype is not dtype or each.device != device:
            return False
    return not torch.is_autocast_enabled(device.type)


_KINDS = (torch.Tensor, torch.nn.Parameter)
"""Of tensors whose operations mean what torch's do."""


def is_watched() -> bool:
    """Whether somebody records or replaces the operations of a call, one by one."""
    if torch.compiler.is_compiling():  # which takes our operators as they are
        return False
    return torch._C._get_tracing_state() is not None or torch._C._len_torch_dispatch_stack() > 0


def is_transformed() -> bool:
    """Whether a function of ``torch.func``, or forward mode, is at work."""
    return bool(torch._C._are_functorch_transforms_active()) or forward_ad._current_level >= 0


def is_followed(*tensors: Any) -> bool:
    """Whether a derivative of what is computed may be wanted."""
    if is_transformed():
        return True
    return torch.is_grad_enabled() and any(
        each is not None and each.requires_grad for each in tensors
    )


def are_plain(*tensors: Any) -> bool:
    """Whether they are ordinary CPU tensors that are taken, and nothing follows or traces them."""
    if torch.compiler.is_compiling() or not are_taken(*tensors):
        return False
    return tensors[0].device.type == "cpu" and not is_followed(*tensors)


def is_batched(tensor: Any, /) -> bool:
    """Whether it is a batch of gradients, as ``torch.autograd.grad`` makes them on demand."""
    return bool(torch._C._functorch.is_legacy_batchedtensor(tensor))
