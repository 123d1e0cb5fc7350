"""Times of calls, side by side: what they compute is checked first, then they take turns."""

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
"""Largest difference of two contestants' results, as a share of the largest value.

A share of 1e-4 is some thousand roundings of float32. TF32 and float16 round by 5e-4, bfloat16 by
4e-3, and their shares are some twenty of these roundings, as the loop adds some up. Swapped gates
or a missing bias make a difference of the order of 1.
"""

_SAMPLE_SECONDS = 0.01  # what a clock and a switch of processes blur by far less than a percent
_LONG_SECONDS = 0.2  # a call that itself outlasts any warming up
_ROUNDS, _LONG_ROUNDS = 9, 5
_SLICE_SECONDS, _SETTLED, _SETTLE_LIMIT = 0.01, 0.2, 0.5


class Times(NamedTuple):
    """What one contestant took."""

    calls: int
    """Calls in a sample."""
    seconds: list[float]
    """Of each sample, for one call."""


def agree(calls: dict[str, Call], case: Case, precision: str, /) -> None:
    """Run every call once and compare what they compute; this compiles what is compiled late.

    Raises
    ------
    FailedError
        If one raises, or what is experimental computes something else than gru_xp.
    BenchError
        If another one does.
    """
    tolerance = TOLERANCES[precision]
    results: dict[str, HostArray] = {}
    for name, call in calls.items():
        try:
            with call.context():
                got = {key: _widened(each) for key, each in call.results().items()}
        except MemoryError:  # of the host: the process ends with an answer of its own
            raise
        except Exception as failure:
            raise FailedError(name, f" fails with {type(failure).__name__}: {failure}") from failure
        results = results or got
        for key, wanted in results.items():
            if got[key].shape != wanted.shape:
                raise _disagreement(
                    name, f"{key} of {case} has the shape {got[key].shape}, {OWN}'s {wanted.shape}"
                )
            error = float(np.max(np.abs(got[key] - wanted)) / np.max(np.abs(wanted)))
            if not error <= tolerance:  # in this way, so that NaN is too large
                raise _disagreement(
                    name,
                    f"{key} of {case} differs from {OWN}'s by {error:.1e} of its largest value, "
                    f"more than {tolerance:.0e}: times of other numbers are worth nothing",
                )


def _disagreement(name: str, message: str) -> BenchError:
    """Of what is experimental no more than that it cannot be measured; else something is wrong."""
    if name in EXPERIMENTAL:
        return FailedError(name, f": {message}")
    return BenchError(f"{name}: {message}")


def _widened(array: HostArray) -> HostArray:
    """Return float32 for numbers of 16 bits, whose differences would round and overflow."""
    return array if array.dtype.itemsize > 2 else array.astype(np.float32)


def measure(calls: dict[str, Call], repeats: int | None, /) -> dict[str, Times]:
    """Time calls in turns, a sample of each in every round.

    Parameters
    ----------
    calls : dict of str to Call
        All have run at least once.
    repeats : int or None
        Rounds; None takes fewer for calls that last.
    """
    expected = {name: min(_sample(call, 1), _sample(call, 1)) for name, call in calls.items()}
    if repeats is None:
        repeats = _ROUNDS if max(expected.values()) < _LONG_SECONDS else _LONG_ROUNDS
    counts = {name: math.ceil(_SAMPLE_SECONDS / each) for name, each in expected.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        gc.collect()  # outside the samples; quick, as the child has frozen what was imported
        gc.disable()
        try:
            for name, call in calls.items():
                settle()
                if expected[name] < _LONG_SECONDS:
                    _sample(call, 1)  # brings its weights and threads back
                seconds[name].append(_sample(call, counts[name]))
        finally:
            gc.enable()
    return {name: Times(counts[name], seconds[name]) for name in calls}


def _sample(call: Call, count: int) -> float:
    """Return the seconds of one call, as the mean of `count`."""
    with call.context():
        return call.seconds(call.run, count)


def settle() -> None:
    """Wait until no thread of this process is busy.

    Thread pools spin for a while after a call, in the hope of another: OpenBLAS's for some 100 ms,
    ONNX Runtime's for 25. They would take that time from the next contestant. The slices are no
    shorter than a tick of the scheduler, as a kernel may book a thread's time at ticks alone.
    """
    deadline = time.perf_counter() + _SETTLE_LIMIT
    while True:
        wall, busy = time.perf_counter(), time.process_time()
        time.sleep(_SLICE_SECONDS)
        busy, now = time.process_time() - busy, time.perf_counter()
        if busy < _SETTLED * (now - wall) or now > deadline:
            return
