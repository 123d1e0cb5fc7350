"""CuPy's accelerator on a GPU, at the sizes that a CPU in its place is too slow for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gru_xp.arrays import libraries
from tests.test_cuda_values import SIZES, TOLERANCE, Case, check, draw_case

LARGE = [(20, 1, 1024), (20, 64, 1024), (9, 256, 1024), (9, 16, 2048), (9, 64, 2048)]


@pytest.fixture
def cupy() -> Any:
    if reason := libraries.unusable("cupy"):
        pytest.skip(reason)
    return libraries.namespace("cupy")


class OnGpu:
    """The accelerator as `check` takes it: NumPy's arrays in and out."""

    def __init__(self, *, persistent: bool) -> None:
        self.persistent = persistent

    def forward(self, *arguments: Any, keep_tape: bool) -> Any:
        return self._call("forward", *arguments, keep_tape=keep_tape)

    def backward(self, dh: Any, dh_last: Any, tape: Any, weight: Any, loop: Any) -> Any:
        import cupy

        from gru_xp.core.tape import Tape

        moved = Tape(*map(cupy.asarray, tape))
        return self._call("backward", dh, dh_last, moved, weight, loop)

    def _call(self, function: str, *arguments: Any, **options: Any) -> Any:
        import cupy
        import gru_xp_cupy.persistent
        import gru_xp_cupy.steps

        *arrays, loop = arguments
        if loop.lengths is not None:
            loop = replace(loop, lengths=cupy.asarray(loop.lengths))
        moved = [each if isinstance(each, tuple) else cupy.asarray(each) for each in arrays]
        # Not by the accelerator's own functions, which take the path that is expected to be faster.
        path = gru_xp_cupy.persistent if self.persistent else gru_xp_cupy.steps
        results = getattr(path, function)(*moved, loop, **options)
        assert results is not NotImplemented
        return tuple(
            tuple(map(cupy.asnumpy, each)) if isinstance(each, tuple) else cupy.asnumpy(each)
            for each in results
        )


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float32", "tf32"])
@pytest.mark.parametrize("size", [*SIZES, *LARGE], ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("reverse", [False, True])
def test_the_kernels_compute_the_recurrence(
    cupy: Any, size: tuple[int, int, int], reverse: bool, precision: str, persistent: bool
) -> None:
    import cupy as library
    import gru_xp_cupy.persistent

    core = library._core
    kinds, before = core._routines_linalg, core.get_compute_type(np.float32)
    tf32 = precision == "tf32"
    kind = kinds.COMPUTE_TYPE_TF32 if tf32 else kinds.COMPUTE_TYPE_DEFAULT
    core.set_compute_type(np.float32, kind)
    try:
        dtype = "float32" if tf32 else precision
        if persistent and gru_xp_cupy.persistent.proof(*size[1:], dtype) is None:
            pytest.skip("the persistent kernel does not fit on this device")
        case: Case = draw_case(size, dtype, reverse=reverse)
        check(OnGpu(persistent=persistent), case, 2 * TOLERANCE[precision])
    finally:
        core.set_compute_type(np.float32, before)
