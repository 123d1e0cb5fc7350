"""The measuring process: reads a job as JSON from stdin and writes the results to stdout."""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

from gru_xp.arrays.libraries import BackendError
from gru_xp.bench import gpu, machine, memory, streams, timing
from gru_xp.bench.cases import Case, Job, cases, stream_cases, work
from gru_xp.bench.contestant import OWN, Contestant
from gru_xp.bench.contestants import contestants
from gru_xp.bench.errors import BenchError, FailedError
from gru_xp.core import accelerators

INTERRUPTED = 128 + 2


def main() -> int:
    """Run the job. User errors are returned as an answer too."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries must not mix with the answers
    try:
        answer = run(Job.from_json(sys.stdin.read()))
    except KeyboardInterrupt:  # the parent is interrupted as well, and reports it
        return INTERRUPTED
    except MemoryError:
        answer = {"error": "not enough memory. Choose smaller sizes"}
    except (BenchError, BackendError) as error:
        answer = {"error": str(error)}
    with answers:
        json.dump(answer, answers)
    return 0


def run(job: Job, /) -> dict[str, Any]:
    """Run the job and return the results."""
    made, notes = contestants(job)
    if job.memory_of is not None:
        chosen = [each for each in made if each.name == job.memory_of]
        if not chosen:  # a peer that failed to start
            return {"bytes": None, "notes": notes}
        _tell(f"memory of {job.memory_of}, {job.sizes[0]}")
        growth = memory.training_growth(chosen[0], job.sizes[0], job.dtype)
        return {"bytes": growth, "notes": notes}

    gc.freeze()
    # Measured before and after, so that a temporarily reduced clock does not lower the peak.
    peaks = [_peak(job)]
    measured = []
    for case in stream_cases(job.cells) if job.stream else cases(job.sizes, job.cells):
        _tell(f"{job.threads} threads, {case}" if job.threads > 1 else f"1 thread, {case}")
        if job.stream:
            measured.append(_measure_stream(case, made, job))
        elif job.backend == "cupy":
            measured += measure_on_gpu(case, made, job, notes)
        else:
            measured.append(_measure(case, made, job))
    peaks.append(_peak(job))
    return {
        "cases": measured,
        "peak_flops": max((peak for peak in peaks if peak is not None), default=None),
        "isa": machine.instruction_set(),
        "recurrence": accelerators.running(job.backend),
        "gpu": gpu.describe(job.precision) if job.backend == "cupy" else None,
        "notes": notes,
    }


def measure_on_gpu(
    case: Case, made: list[Contestant], job: Job, notes: list[str]
) -> list[dict[str, Any]]:
    """Measure a case, and leave out contestants that fail or do not fit into the GPU's memory.

    Returns
    -------
    list of dict
        One result, or none if the memory is not sufficient even for gru_xp alone.
    """
    while made:
        gpu.free()
        try:
            return [_expected(case, job) | _measure(case, made, job)]
        except Exception as error:
            if gpu.is_out_of_memory(error):
                without, reason = made[-1].name, "not enough memory together with the others"
            elif isinstance(error, FailedError) and error.name != OWN:
                without, reason = error.name, str(error)
            else:
                raise
        notes.append(f"{case}: without {without}, {reason}")
        made = [each for each in made if each.name != without]
    return []


def _expected(case: Case, job: Job) -> dict[str, Any]:
    """Return the step time predicted by the accelerator's cost model, if it has one."""
    found = accelerators.find(job.backend).module if accelerators.are_on() else None
    model = getattr(found, "expected_step", None) if "step" not in case.kind else None
    expected = model(case.size.rows, case.size.hidden, job.dtype) if model else {}
    ways = ("forward", "backward")[: 1 + case.training]
    if not all(way in expected for way in ways):
        return {}
    return {"expected_us_per_step": sum(expected[way] for way in ways)}


def _measure(case: Case, made: list[Contestant], job: Job) -> dict[str, Any]:
    data = work(case.size, job.dtype)
    prepared = {each.name: each.prepare(case, data) for each in made}
    calls = {name: call for name, call in prepared.items() if call is not None}
    timing.agree(calls, case, job.precision)
    times = timing.measure(calls, job.repeats)
    return {
        "kind": case.kind,
        "size": case.size,
        "times": {name: each._asdict() for name, each in times.items()},
    }


def _measure_stream(case: Case, made: list[Contestant], job: Job) -> dict[str, Any]:
    data = work(case.size._replace(steps=streams.COMPARED), job.dtype, case.layers)
    calls = {name: call for each in made for name, call in each.streams(data).items()}
    timing.agree(calls, case, job.precision)
    taken = streams.measure(calls, job.repeats)
    return {
        "kind": case.kind,
        "size": case.size,
        "layers": case.layers,
        "spread": {name: streams.spread(times) for name, times in taken.items()},
    }


def _peak(job: Job) -> float | None:
    return None if job.backend == "cupy" else machine.peak_flops(job.dtype, job.threads)


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
