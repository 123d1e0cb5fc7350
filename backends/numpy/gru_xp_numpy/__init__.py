"""NumPy's accelerator: the recurrence, the large products and whole calls in eval in C++.

The C++ sources are in ``backends/numpy/src``. They take float32 and float64; other calls are left
to the portable loop. Results have the same bits for any
number of threads, and each row's bits do not depend on the other rows nor on the number of steps.
"""

from gru_xp_numpy.functions import (
    OPTIONS,
    backward,
    describe,
    forward,
    get_num_threads,
    isa,
    matmul,
    measure_fma_peak,
    sequence,
    set_num_threads,
    step,
    stream,
)

__all__ = [
    "OPTIONS",
    "backward",
    "describe",
    "forward",
    "get_num_threads",
    "isa",
    "matmul",
    "measure_fma_peak",
    "sequence",
    "set_num_threads",
    "step",
    "stream",
]
