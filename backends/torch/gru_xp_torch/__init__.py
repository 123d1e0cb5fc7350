"""PyTorch's accelerator: NumPy's C++ engine for CPU tensors, CuPy's kernels for CUDA tensors.

The tensors share their memory with the arrays of these libraries. Autograd, ``torch.func.grad``,
``vmap`` and ``torch.compile`` are supported. `gru_xp_torch.autograd` lists what is not.
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
