"""PyTorch's accelerator: CPU tensors by NumPy's C++ engine, CUDA tensors by CuPy's kernels.

The tensors share their memory with the arrays of those libraries. Autograd, ``torch.func.grad`` and
``vmap`` and ``torch.compile`` go through it; see `gru_xp_torch.autograd` for what does not.
"""

from gru_xp_torch.functions import (
    OPTIONS,
    backward,
    describe,
    forward,
    sequence,
    step,
)
from gru_xp_torch.products import matmul
from gru_xp_torch.state import are_taken as takes

__all__ = [
    "OPTIONS",
    "backward",
    "describe",
    "forward",
    "matmul",
    "sequence",
    "step",
    "takes",
]
