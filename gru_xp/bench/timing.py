"""Times of calls of several contestants: results are compared first, then they take turns."""

from __future__ import annotations

import gc
import math
import time
from typing import NamedTuple

import numpy as np

from gru_xp.bench.cases import Case, HostArray
from gru_xp.bench.contestant import EXPERIMENTAL, OWN, Call
from gru_xp.bench.errors import BenchError, FailedError

TOLERANCES = {"float64": 1e-4, "float32": 1e-4, "tf32": 1e-2, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest allowed difference of two contestants' results, relative to the largest value.

1e-4 corresponds to about a thousand rounding errors of float32. TF32 and float16 have rounding
errors of 5e-4, and bfloat16 of 4e-3; their tolerances are about twenty of these, because rounding
errors accumulate in the loop. Swapped gates or a missing bias cause a difference of the order of 1.
"""

_SAMPLE_SECONDS = 0.01  # so long that the clock and process switches add far less than 1 %
_LONG_SECONDS = 0.2  # calls of at least this duration need no warm-up
_ROUNDS, _LONG_ROUNDS = 9, 5
_SLICE_SECONDS, _SETTLED, _SETTLE_LIMIT = 0.01, 0.2, 0.5


class Times(NamedTuple):
    """Times of one contestant."""

    calls: int
    """Number of calls in a sample."""
    seconds: list[float]
    """Seconds per call, for each sample."""


def agree(calls: dict[str, Call], case: Case, precision: str, /) -> None:
    """Run every call once and compare the results. This also triggers lazy compilation.

    Raises
    ------
    FailedError
        If a contestant raises an exception, or the results of an experimental one differ from those
        of gru_xp.
    BenchError
        If the results of another contestant differ.
    """
    tolerance = TOLERANCES[precision]
    results: dict[str, HostArray] = {}
    for name, call in calls.items():
        try:
            with call.context():
                got = {key: _widened(each) for key, each in call.results().items()}
        except MemoryError:  # of the host; the process reports it in its answer
            raise
        except Exception as failure:
            raise FailedError(name, f" fails with {type(failure).__name__}: {failure}") from failure
        results = results or got
        for key, wanted in results.items():
            if got[key].shape != wanted.shape:
                raise _disagreement(
                    name,
                    f"{key} of {case} has shape {got[key].shape}, expected {wanted.shape}, the "
                    f"shape of {OWN}'s",
                )
            error = float(np.max(np.abs(got[key] - wanted)) / np.max(np.abs(wanted)))
            if not error <= tolerance:  # also true for NaN
                raise _disagreement(
                    name,
                    f"{key} of {case} differs from {OWN}'s by {error:.1e} of its largest value, "
                    f"more than {tolerance:.0e}. Times of different computations cannot be "
                    "compared",
                )


def _disagreement(name: str, message: str) -> BenchError:
    """Return the error; for an experimental contestant, a FailedError, which only excludes it."""
    if name in EXPERIMENTAL:
        return FailedError(name, f": {message}")
    return BenchError(f"{name}: {message}")


def _widened(array: HostArray) -> HostArray:
    """Convert 16-bit numbers to float32, because their differences would round and overflow."""
    return array if array.dtype.itemsize > 2 else array.astype(np.float32)


def measure(calls: dict[str, Call], repeats: int | None, /) -> dict[str, Times]:
    """Time calls in rounds. Each round takes one sample of every call.

    Parameters
    ----------
    calls : dict of str to Call
        Calls, each of which has run at least once.
    repeats : int or None
        Number of rounds. None means 9, or 5 if a call is long.
    """
    expected = {name: min(_sample(call, 1), _sample(call, 1)) for name, call in calls.items()}
    if repeats is None:
        repeats = _ROUNDS if max(expected.values()) < _LONG_SECONDS else _LONG_ROUNDS
    counts = {name: math.ceil(_SAMPLE_SECONDS / each) for name, each in expected.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        gc.collect()  # not during samples; fast, because the child has frozen imported objects
        gc.disable()
        try:
            for name, call in calls.items():
                settle()
                if expected[name] < _LONG_SECONDS:
                    _sample(call, 1)  # bring its weights back to the cache and wake its threads
                seconds[name].append(_sample(call, counts[name]))
        finally:
            gc.enable()
    return {name: Times(counts[name], seconds[name]) for name in calls}


def _sample(call: Call, count: int) -> float:
    """Return the mean seconds per call of `count` calls."""
    with call.context():
        return call.seconds(call.run, count)


def settle() -> None:
    """Wait until no thread of this process is busy.

    Thread pools keep spinning for a while after a call: OpenBLAS's for about 100 ms, ONNX Runtime's
    for 25 ms. They would take that time from the next contestant. The time slices are not shorter
    than a tick of the scheduler, because a kernel may account for thread time only at ticks.
    """
    deadline = time.perf_counter() + _SETTLE_LIMIT
    while True:
        wall, busy = time.perf_counter(), time.process_time()
        time.sleep(_SLICE_SECONDS)
        busy, now = time.process_time() - busy, time.perf_counter()
        if busy < _SETTLED * (now - wall) or now > deadline:
            return
