"""Values of one path's kernels at a few small sizes against float64; also for compute-sanitizer.

``python paths.py PATH PRECISION ...``: "steps" runs a kernel a step, "persistent" all steps in one
launch, laid out for a smaller device, so that blocks have several tiles of units each as they have
at large sizes; and one size with every tile, and with weights in each kind of memory. A line of
JSON for each case as it ends; exit status 1 if one failed. ``--few`` runs the smallest cases alone,
and one with weights in registers.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import cupy
import numpy as np
import precisions
from gru_xp_cupy import persistent, steps
from gru_xp_cupy.plan import Device, Plan, Problem, plans

from gru_xp.accelerator_api import Loop, Place, Tape, portable

# T, N, H around the edges of tiles and blocks.
SIZES = ((3, 1, 8), (4, 3, 24), (3, 17, 72), (2, 35, 136), (3, 8, 40), (2, 64, 64))
FEW = SIZES[1:3]
LAID_OUT = (3, 50, 136)
MULTIPROCESSORS = 4
# Roundings of the numbers, or of the products' factors where these are rounded further.
TOLERANCES = {"float32": 1e-5, "tf32": 5e-3, "float16": 5e-3, "bfloat16": 4e-2, "float64": 1e-13}
EXACT = Place.named("numpy", dtype="float64")


def run(path: Any, precision: str, size: tuple[int, int, int], /) -> dict[str, float]:
    """Run one case, its rows of different lengths.

    Returns
    -------
    dict of str to float
        Largest differences from float64, as a share of the largest value.

    Raises
    ------
    RuntimeError
        If the path does not take the case.
    """
    length, rows, hidden = size
    dtype = precisions.dtype_of(precision)
    rng = np.random.default_rng(0)

    def draw(*shape: int, bound: float = 0.5) -> Any:
        return rng.uniform(-bound, bound, shape).astype(dtype)

    precisions.use(precision)
    lengths, reverse = np.arange(rows) % (length + 1), bool(rows % 2)
    gx, h0, b_hn = draw(length, rows, 3 * hidden), draw(rows, hidden), draw(hidden)
    weight_hh = draw(3 * hidden, hidden, bound=hidden**-0.5)
    dh, dh_last = draw(length, rows, hidden), draw(rows, hidden)

    moved = [cupy.asarray(each) for each in (gx, h0, weight_hh, b_hn, dh, dh_last)]
    loop = Loop(lengths=cupy.asarray(lengths), reverse=reverse)
    forward = path.forward(*moved[:4], loop, keep_tape=True)
    if forward is NotImplemented:
        raise RuntimeError("declined forward")
    h, tape = forward
    backward = path.backward(*moved[4:], tape, moved[2], loop)
    if backward is NotImplemented:
        raise RuntimeError("declined backward")

    exact = [np.asarray(each, np.float64) for each in (gx, h0, weight_hh, b_hn, dh, dh_last)]
    host = Loop(lengths=lengths, reverse=reverse)
    wanted_h, _ = portable.forward(*exact[:4], host, keep_tape=True, place=EXACT)
    kept = Tape(*(np.asarray(cupy.asnumpy(each), np.float64) for each in tape))
    gradients = portable.backward(*exact[4:], kept, exact[2], host, place=EXACT)
    errors = {}
    names = ("h", "dgx", "dgh_n", "dh0")
    for name, wanted, got in zip(names, (wanted_h, *gradients), (h, *backward), strict=True):
        difference = np.abs(np.asarray(cupy.asnumpy(got), np.float64) - wanted)
        errors[name] = float(np.max(difference) / (np.max(np.abs(wanted)) or 1))
    return errors


def known(precision: str, /) -> bool:
    """Whether the persistent kernel knows a precision on this device."""
    has_tiles = int(cupy.cuda.Device().compute_capability) >= 80  # of tensor cores
    return precision == "float32" or (has_tiles and precision != "float64")


def layouts(precision: str, shared: int, /) -> list[dict[int, Plan]]:
    """Lay out `LAID_OUT` for each tile and direction, in as many groups as there can be.

    If some weights are not in shared memory, there is a layout with weights in registers, too.
    """
    found: dict[tuple[str, int], dict[int, Plan]] = {}
    for gates in (3, 1):
        device = Device(12, shared, int(cupy.cuda.Device().compute_capability))
        for each in plans(Problem(*LAID_OUT[1:], precision, gates), device):
            found.setdefault((each.tile, each.held), {})[gates] = each
    return [each for each in found.values() if len(each) == 2]


def main(name: str, names: list[str], /, *, few: bool = False) -> int:
    """Run all cases of a path; return the exit status."""
    cupy.cuda.set_allocator(None)  # no pool: memcheck sees where each array ends
    path = {"steps": steps, "persistent": persistent}[name]
    device, choose = persistent._device, persistent.plan
    persistent._device = lambda number: device(number)._replace(multiprocessors=MULTIPROCESSORS)
    passed = True
    for precision in names or list(TOLERANCES):
        if path is persistent and not known(precision):
            continue
        persistent.plan = choose
        for size in FEW if few else SIZES:
            passed &= tell(path, precision, size)
        if path is steps:
            continue
        for shared in (227 << 10, 40 << 10):
            found = layouts(precision, shared)
            if few:
                found = [each for each in found if each[3].held][:1]
            for chosen in found:
                persistent.plan = lambda problem, _, chosen=chosen: chosen[problem.gates]
                persistent._device = lambda number: device(number)
                persistent._launch_on.cache_clear()
                passed &= tell(path, precision, LAID_OUT, layout=chosen[3][:-1])
        persistent._device = lambda number: device(number)._replace(multiprocessors=MULTIPROCESSORS)
        persistent._launch_on.cache_clear()
    return int(not passed)


def tell(path: Any, precision: str, size: tuple[int, int, int], /, **more: Any) -> bool:
    """Run one case and print what came; return whether it passed."""
    result: dict[str, Any] = {"path": path.NAME, "precision": precision, "T,N,H": size, **more}
    try:
        errors = run(path, precision, size)
        passed = all(each <= TOLERANCES[precision] for each in errors.values())  # not for NaN
        result |= {"passed": passed, **errors}
    except Exception as failure:
        result |= {"passed": False, "error": f"{type(failure).__name__}: {failure}"}
    print(json.dumps(result), flush=True)
    return bool(result["passed"])


if __name__ == "__main__":
    named = [each for each in sys.argv[1:] if not each.startswith("--")]
    sys.exit(main(named[0], named[1:], few="--few" in sys.argv[2:]))
