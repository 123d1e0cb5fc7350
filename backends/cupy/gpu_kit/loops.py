"""Times of the loop over time alone, in microseconds a step, on both paths.

``python loops.py PRECISION NxH ...``: a line of JSON for each case as it ends. A step's time is the
slope between a short and a long sequence, so that launches and the loading of the weights do not
count; those are in "start". ``--layouts`` times the ways to lay out the persistent
kernel that the cost model calls good, ``--once`` runs each persistent kernel once, for a profiler.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median
from typing import Any

import cupy
import numpy as np
import precisions
from gru_xp_cupy import compiled, persistent, steps
from gru_xp_cupy.plan import Plan, Problem, plans

from gru_xp.accelerator_api import Loop
from gru_xp.bench import clocks

SHORT, LONG = 32, 160
if "STEPS" in os.environ:
    LONG = int(os.environ["STEPS"])
    SHORT = LONG // 4
SAMPLES = 7
LAYOUTS = int(os.environ.get("LAYOUTS", "10"))


def microseconds(run: Callable[[], Any], /) -> float:
    """Return the median time between events around a call, after one to warm up."""
    run()
    return 1e6 * median(clocks.cupy(run, 1) for _ in range(SAMPLES))


class Work:
    """Arrays of one size, and the calls over them."""

    def __init__(self, precision: str, rows: int, hidden: int, length: int) -> None:
        dtype = precisions.dtype_of(precision)
        rng = np.random.default_rng(0)

        def draw(*shape: int, bound: float = 0.5) -> Any:
            return cupy.asarray(rng.uniform(-bound, bound, shape).astype(dtype))

        self.gx, self.h0 = draw(length, rows, 3 * hidden), draw(rows, hidden)
        self.weight_hh = draw(3 * hidden, hidden, bound=hidden**-0.5)
        self.b_hn, self.dh = draw(hidden), draw(length, rows, hidden)
        self.loop = Loop()

    def calls(self, path: Any, /) -> dict[str, Callable[[], Any]] | None:
        """Return what is timed on a path; None where the path does not take the size."""
        arguments = (self.gx, self.h0, self.weight_hh, self.b_hn, self.loop)
        first = path.forward(*arguments, keep_tape=True)
        if first is NotImplemented:
            return None
        _, tape = first
        calls = {
            "forward": lambda: path.forward(*arguments, keep_tape=False),
            "forward with tape": lambda: path.forward(*arguments, keep_tape=True),
        }

        def backward() -> Any:
            return path.backward(self.dh, None, tape, self.weight_hh, self.loop)

        if backward() is not NotImplemented:
            calls["backward"] = backward
        return calls


def step_and_start(short: Callable[[], Any], long: Callable[[], Any], /) -> tuple[float, float]:
    """Return the microseconds of a step, and those that a sequence takes besides."""
    few, many = microseconds(short), microseconds(long)
    step = (many - few) / (LONG - SHORT)
    return round(step, 2), round(few - step * SHORT)


def good_layouts(precision: str, rows: int, hidden: int, /) -> list[dict[int, Plan]]:
    """Pair the best layouts forward with the best backward."""
    device = persistent.current_device()
    best = []
    for gates in (3, 1):
        found = plans(Problem(rows, hidden, precision, gates), device)
        best.append(sorted(found, key=lambda each: each.step)[:LAYOUTS])
    return [dict(zip((3, 1), pair, strict=True)) for pair in zip(*best, strict=False)]


def compile_one(kernel: tuple[str, int, int, bool], /) -> None:
    """Compile a kernel, which CuPy keeps on disk for others."""
    compiled.persistent("persistent_forward", *kernel, cupy.cuda.Device().id)


def time_layouts(precision: str, sizes: list[tuple[int, int]], /) -> None:
    """Time every good layout of the sizes."""
    chosen = {size: good_layouts(precision, *size) for size in sizes}
    kernels = {
        (each.tile, each.early, each.held, each.streams)
        for pairs in chosen.values()
        for pair in pairs
        for each in pair.values()
    }
    with ProcessPoolExecutor(8, get_context("spawn")) as pool:
        list(pool.map(compile_one, sorted(kernels)))
    for size, pairs in chosen.items():
        works = [Work(precision, *size, length) for length in (SHORT, LONG)]
        for pair in pairs:
            persistent.plan = lambda problem, _, pair=pair: pair[problem.gates]
            persistent._launch_on.cache_clear()
            short, long = (each.calls(persistent) for each in works)
            for way, gates in (("forward with tape", 3), ("backward", 1)):
                if short and long and way in long:
                    step, _ = step_and_start(short[way], long[way])
                    told = {"what": "layout", "precision": precision, "size": size, "way": way}
                    layout = pair[gates][:-1]
                    print(json.dumps({**told, "us": step, "layout": layout}), flush=True)


def main(precision: str, sizes: list[str], /, *, once: bool, layouts: bool) -> None:
    """Time all sizes in one precision."""
    precisions.use(precision)
    numbers = [(int(rows), int(hidden)) for rows, hidden in (each.split("x") for each in sizes)]
    if layouts:
        time_layouts(precision, numbers)
        return
    for rows, hidden in numbers:
        for path in (persistent,) if once else (persistent, steps):
            works = [Work(precision, rows, hidden, length) for length in (SHORT, LONG)]
            short, long = (each.calls(path) for each in works)
            told = {"what": "loop", "precision": precision, "N": rows, "H": hidden}
            told["path"] = path.NAME
            if short is None or long is None:
                print(json.dumps({**told, "declined": True}), flush=True)
                continue
            for way in () if once else long:
                step, start = step_and_start(short[way], long[way])
                print(json.dumps({**told, "way": way, "us": step, "start": start}), flush=True)


if __name__ == "__main__":
    named = [each for each in sys.argv[1:] if not each.startswith("--")]
    flags = {name: f"--{name}" in sys.argv for name in ("once", "layouts")}
    main(named[0], named[1:], **flags)
