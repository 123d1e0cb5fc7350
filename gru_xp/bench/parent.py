"""The whole benchmark: one process for each number of threads and for each memory measurement."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

from gru_xp.bench import machine
from gru_xp.bench.cases import Case, Job
from gru_xp.bench.contestant import OWN
from gru_xp.bench.errors import BenchError

_START = """
import os, sys
if hasattr(os, "sched_setaffinity"):  # before imports start threads, which inherit the affinity
    os.sched_setaffinity(0, map(int, sys.argv[1:]))
from gru_xp.bench.child import main
sys.exit(main())
"""
_KEEP_MEMORY = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1000000000000"
_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "GRU_XP_NUM_THREADS")


def measure(job: Job, threads: tuple[int, ...], /) -> list[dict[str, Any]]:
    """Measure the times of a job for each number of threads.

    Raises
    ------
    BenchError
        If a contestant is not available or its results differ, or a process ends early.
    """
    return [{"threads": each, **run(replace(job, threads=each))} for each in threads]


def measure_memory(job: Job, threads: int, /) -> list[dict[str, Any]]:
    """Measure the peak memory of a training step at the two sizes with the most FLOPs."""
    names = [OWN, *(name for name in job.peers if name == "torch")]
    largest = sorted(set(job.sizes), key=lambda size: Case("training", size).flops)[-2:]
    rows = []
    for size in largest:
        alone = replace(job, sizes=(size,), cells=(), threads=threads)
        growth = {
            name: run(replace(alone, memory_of=name, peers=tuple({name} & set(job.peers))))["bytes"]
            for name in names
        }
        rows.append({"size": size, "bytes": growth})
    return rows


def run(job: Job, /) -> dict[str, Any]:
    """Start a process, send it a job and return its answer.

    Raises
    ------
    BenchError
        If the answer is an error, or there is no answer.
    """
    # With a GPU, all CPUs are used: the host does not compute, but torch's backward launches
    # kernels from a thread of its own.
    cpus = machine.cpus()[: None if job.backend == "cupy" else job.threads]
    with _ending_with_us():
        done = subprocess.run(
            # -P keeps files in the current folder from shadowing modules.
            [sys.executable, "-P", "-c", _START, *map(str, cpus)],
            input=job.to_json(),
            stdout=subprocess.PIPE,
            text=True,
            env=environment(job),
            check=False,
        )
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise BenchError(f"a measuring process ended with status {done.returncode}") from None
    if "error" in answer:
        raise BenchError(answer["error"])
    return answer


@contextmanager
def _ending_with_us() -> Iterator[None]:
    """Raise SystemExit on SIGTERM and SIGHUP, on which subprocess.run kills the measuring process.

    Signals that are ignored stay ignored.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # only it may set handlers
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def environment(job: Job, /) -> dict[str, str]:
    """Return the environment of a measuring process."""
    result = os.environ | dict.fromkeys(_LIMITS, str(job.threads))
    result["JAX_ENABLE_X64"] = str(int(job.dtype == "float64"))
    if job.backend == "cupy":
        result["CUPY_TF32"] = str(int(job.precision == "tf32"))
    else:
        result["JAX_PLATFORMS"] = "cpu"
    if job.memory_of is None:
        # Keep freed memory in the process. Some virtual machines take 3 ms to provide a MB again,
        # which would be charged to one contestant or another at random.
        tunables = (os.environ.get("GLIBC_TUNABLES", ""), _KEEP_MEMORY)
        result["GLIBC_TUNABLES"] = ":".join(filter(None, tunables))
    if job.threads == 1:
        flags = (os.environ.get("XLA_FLAGS", ""), "--xla_cpu_multi_thread_eigen=false")
        result["XLA_FLAGS"] = " ".join(flags).strip()
    return result
