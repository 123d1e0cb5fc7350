"""Precisions by name, as CuPy has them: the arrays' dtype, and what float32 products round to."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np


def dtype_of(precision: str, /) -> np.dtype[Any]:
    """Return the dtype of the arrays."""
    if precision == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype("float32" if precision == "tf32" else precision)


def use(precision: str, /) -> None:
    """Have CuPy compute float32 products as the precision says."""
    core = cupy._core
    kinds = core._routines_linalg
    kind = kinds.COMPUTE_TYPE_TF32 if precision == "tf32" else kinds.COMPUTE_TYPE_DEFAULT
    core.set_compute_type(np.float32, kind)
