"""NumPy's accelerator: the recurrence, large products and whole calls in evaluation mode, in C++.

The C++ sources are in ``backends/numpy/src``. They support float32 and float64; the portable loop
runs other calls. Results are bitwise equal for any number of threads, and the results of a row do
not depend on other rows or on the number of steps.
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
