"""Times of each single step of a stream. In live audio, the slowest steps matter."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gru_xp.bench import timing
from gru_xp.bench.cases import HostArray
from gru_xp.bench.contestant import OWN, Call

COMPARED = 16
"""Number of steps whose results are compared before the contestants are timed."""

EDGES = np.logspace(-1, 5, 6 * 20 + 1)
"""Edges of the histogram's bins in µs. Values outside are counted in the first or last bin."""

_MOST, _LEAST, _PEER_SECONDS = 10**5, 10**4, 1.0
_TURNS = 10
_WARM_UP = 100


def measure(calls: dict[str, Call], steps: int | None, /) -> dict[str, HostArray]:
    """Time every single step. The contestants take turns of many steps.

    Parameters
    ----------
    calls : dict of str to Call
        Calls, each of which has run at least once.
    steps : int or None
        Number of steps of each contestant. None means 100,000 for gru_xp, and for the others as
        many as take about a second.

    Returns
    -------
    dict of str to array
        Nanoseconds of each step, including about 50 of the clock itself.
    """
    taken = {
        name: np.empty(steps or _steps(name, call), np.int64)  # allocated before the first timing
        for name, call in calls.items()
    }
    turns = {name: np.array_split(times, _TURNS) for name, times in taken.items()}
    for turn in range(_TURNS):
        gc.collect()  # not during the steps, as in `timing.measure`
        gc.disable()
        try:
            for name, call in calls.items():
                timing.settle()
                with call.context():
                    _time(call.run, turns[name][turn])
        finally:
            gc.enable()
    return taken


def spread(nanoseconds: HostArray, /) -> dict[str, Any]:
    """Return percentiles and a histogram of times, in µs."""
    times = nanoseconds / 1e3
    median, of_hundred, of_thousand = map(float, np.percentile(times, [50, 99, 99.9]))
    counts, _ = np.histogram(np.clip(times, EDGES[0], EDGES[-1]), EDGES)
    return {
        "steps": len(times),
        "us_per_step": median,
        "us_per_step_99": of_hundred,
        "us_per_step_99.9": of_thousand,
        "us_per_step_most": float(times.max()),
        "histogram": counts.tolist(),
    }


def _steps(name: str, call: Call) -> int:
    if name == OWN:
        return _MOST
    times = np.empty(_WARM_UP, np.int64)
    with call.context():
        _time(call.run, times)
    seconds = max(1.0, float(np.median(times))) / 1e9
    return int(np.clip(_PEER_SECONDS / seconds, _LEAST, _MOST))


def _time(run: Callable[[], Any], times: HostArray) -> None:
    clock = time.perf_counter_ns
    for _ in range(_WARM_UP):  # bring weights back to the cache and wake the threads
        run()
    for index in range(len(times)):
        start = clock()
        run()
        times[index] = clock() - start
