"""Run one path's kernels forward and back at a few small sizes, for compute-sanitizer to watch.

``python gpu_paths.py steps`` runs a kernel a step, ``python gpu_paths.py persistent`` all steps in
one launch.
"""

from __future__ import annotations

import sys
from typing import Any

import cupy
import gru_xp_cupy
import numpy as np

from gru_xp.accelerator_api import Loop

# T, N, H around the edges of tiles and blocks.
SIZES = ((3, 1, 8), (4, 3, 24), (3, 17, 72), (2, 35, 136))
PRECISIONS = ("float32", "tf32", "float16", "bfloat16", "float64")


def run(path: str, precision: str, size: tuple[int, int, int], /) -> None:
    """Run one case, its rows of different lengths.

    Raises
    ------
    RuntimeError
        If the path does not take the case, or a result is not finite.
    """
    steps, rows, hidden = size
    dtype = _dtype(precision)
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return cupy.asarray(rng.uniform(-0.5, 0.5, shape).astype(dtype))

    core = cupy._core
    kinds = core._routines_linalg
    kind = kinds.COMPUTE_TYPE_TF32 if precision == "tf32" else kinds.COMPUTE_TYPE_DEFAULT
    core.set_compute_type(np.float32, kind)
    loop = Loop(lengths=cupy.asarray(np.arange(rows) % (steps + 1)), reverse=bool(rows % 2))
    weight_hh = draw(3 * hidden, hidden)
    with gru_xp_cupy.use_persistent_kernel(path == "persistent"):
        if path == "persistent" and not gru_xp_cupy.persistent_kernel_runs(
            rows, hidden, dtype.name, training=True
        ):
            raise RuntimeError(f"the persistent kernel does not run {size} in {precision}")
        gx, h0 = draw(steps, rows, 3 * hidden), draw(rows, hidden)
        forward = gru_xp_cupy.forward(gx, h0, weight_hh, draw(hidden), loop, keep_tape=True)
        if forward is NotImplemented:
            raise RuntimeError(f"{size} in {precision} was declined")
        h, tape = forward
        dh, dh_last = draw(steps, rows, hidden), draw(rows, hidden)
        gradients = gru_xp_cupy.backward(dh, dh_last, tape, weight_hh, loop)
    for each in (h, *gradients):
        if not bool(cupy.isfinite(each.astype(np.float64)).all()):
            raise RuntimeError(f"a result of {size} in {precision} is not finite")


def _dtype(precision: str) -> np.dtype[Any]:
    if precision == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype("float32" if precision == "tf32" else precision)


def main(path: str, /) -> None:
    """Run all cases of a path, "steps" or "persistent"."""
    cupy.cuda.set_allocator(None)  # no pool: memcheck sees where each array ends
    for precision in PRECISIONS:
        if path == "persistent" and precision == "float64":  # which it does not know
            continue
        for size in SIZES:
            run(path, precision, size)
            print(path, precision, *size, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
