"""cuBLAS's product for use in a loop, with arguments that are prepared once."""

from __future__ import annotations

import os
from typing import Any

import cupy
import numpy as np

from gru_xp_cupy import arrays

# cudaDataType and cublasComputeType_t of library_types.h and cublas_api.h.
_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
_COMPUTE_FLOAT, _COMPUTE_DOUBLE, _COMPUTE_TF32 = 68, 70, 77
_PLAIN, _TRANSPOSED, _DEFAULT_ALGORITHM = 0, 1, -1

_SCALARS = {dtype: np.array([1, 0], dtype) for dtype in ("float32", "float64")}


def rounds_to_tf32() -> bool:
    """Whether CuPy's float32 products use TF32, set by CUPY_TF32 or `set_compute_type`."""
    try:  # CuPy has no public function for the current setting
        core = cupy._core
        in_force = core.get_compute_type(np.float32)
        return bool(in_force == core._routines_linalg.COMPUTE_TYPE_TF32)
    except AttributeError:
        return os.environ.get("CUPY_TF32") == "1"


def compute_type(dtype: str, /) -> int:
    """Return cuBLAS's compute type: float for 16-bit numbers, TF32 for float if requested."""
    if dtype == "float64":
        return _COMPUTE_DOUBLE
    return _COMPUTE_TF32 if dtype == "float32" and rounds_to_tf32() else _COMPUTE_FLOAT


class Product:
    """Product of rows with a matrix (3H, H), C-contiguous and aligned, or with its transpose."""

    def __init__(self, matrix: Any, rows: int, dtype: str, /, *, transposed: bool) -> None:
        self._matrix = matrix
        outer, inner = matrix.shape
        # cuBLAS uses column-major matrices, so everything is transposed.
        columns, terms = (outer, inner) if transposed else (inner, outer)
        kind = _TYPES[dtype]
        scalars = _SCALARS["float64" if dtype == "float64" else "float32"].ctypes.data
        itemsize = matrix.dtype.itemsize if dtype == "float64" else 4
        self._before = (
            cupy.cuda.device.get_cublas_handle(),
            *(_TRANSPOSED if transposed else _PLAIN, _PLAIN, columns, rows, terms),
            *(scalars, arrays.address(matrix), kind, inner),
        )
        self._between = kind, terms, scalars + itemsize
        self._after = kind, columns, compute_type(dtype), _DEFAULT_ALGORITHM
        self._multiply = cupy.cuda.cublas.gemmEx

    def __call__(self, rows: int, out: int, /) -> None:
        """Multiply the rows at address `rows`, write to address `out`; both are C-contiguous."""
        self._multiply(*self._before, rows, *self._between, out, *self._after)
