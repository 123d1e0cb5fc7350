"""Clocks: mean seconds per call over several calls, measured on the host or on the GPU."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

Clock = Callable[[Callable[[], Any], int], float]
"""Takes a function without arguments and a number of calls; returns the seconds per call."""


def wall(run: Callable[[], Any], count: int, /) -> float:
    """Measure on the host, for calls that return only when their results are available."""
    start = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - start) / count


def cupy(run: Callable[[], Any], count: int, /) -> float:
    """Measure between two events on CuPy's current stream."""
    cuda = importlib.import_module("cupy").cuda
    start, end = cuda.Event(), cuda.Event()
    _between(start, end, run, count)
    return float(cuda.get_elapsed_time(start, end)) / 1e3 / count


def torch(run: Callable[[], Any], count: int, /) -> float:
    """Measure between two events on torch's current stream."""
    cuda = importlib.import_module("torch").cuda
    start, end = (cuda.Event(enable_timing=True) for _ in range(2))
    _between(start, end, run, count)
    return float(start.elapsed_time(end)) / 1e3 / count


def _between(start: Any, end: Any, run: Callable[[], Any], count: int) -> None:
    start.record()
    for _ in range(count):
        run()
    end.record()
    end.synchronize()
