"""CuPy's accelerator: the recurrence in CUDA kernels, which CuPy compiles on first use.

The kernels support float16, bfloat16, float32 and float64 with the reset gate after the product.
The portable loop runs other calls. On every device, each kernel is first checked against the
portable loop. Results are bitwise reproducible from run to run.
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
