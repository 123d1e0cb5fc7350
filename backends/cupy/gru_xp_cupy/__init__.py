"""CuPy's accelerator: the recurrence in CUDA kernels, which CuPy compiles at their first use.

They take float16, bfloat16, float32 and float64 with the reset gate after the product; other calls
are left to the portable loop. On every device each kernel first proves itself on a case.
Results have the same bits on every run.
"""

from gru_xp_cupy.functions import (
    OPTIONS,
    backward,
    describe,
    expected_step,
    explain,
    forward,
    persistent_kernel_runs,
    use_persistent_kernel,
)

__all__ = [
    "OPTIONS",
    "backward",
    "describe",
    "expected_step",
    "explain",
    "forward",
    "persistent_kernel_runs",
    "use_persistent_kernel",
]
