"""The whole benchmark: a process for each number of threads, and for each peak of memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

from gru_xp.bench import machine
from gru_xp.bench.cases import Case, Job
from gru_xp.bench.contestant import OWN
from gru_xp.bench.errors import BenchError

_START = """
import os, sys
if hasattr(os, "sched_setaffinity"):  # before any import starts threads, which inherit it
    os.sched_setaffinity(0, map(int, sys.argv[1:]))
from gru_xp.bench.child import main
sys.exit(main())
"""
_KEEP_MEMORY = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1000000000000"
_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "GRU_XP_NUM_THREADS")


def measure(job: Job, threads: tuple[int, ...], /) -> list[dict[str, Any]]:
    """Measure the times of a job once for each number of threads.

    Raises
    ------
    BenchError
        If a contestant cannot be had or computes something else, or a process ends early.
    """
    return [{"threads": each, **run(replace(job, threads=each))} for each in threads]


def measure_memory(job: Job, threads: int, /) -> list[dict[str, Any]]:
    """Measure the peak memory of a training step at the two largest sizes, by flops."""
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
    """Start a process, give it a job and return its answer.

    Raises
    ------
    BenchError
        If the answer is an error, or there is none.
    """
    # Before a GPU nobody computes on the host, but torch's backward has a thread that launches.
    cpus = machine.cpus()[: None if job.backend == "cupy" else job.threads]
    done = subprocess.run(
        # -P: a file of the current folder must not stand in for a module.
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


def environment(job: Job, /) -> dict[str, str]:
    """Return the environment of a measuring process."""
    result = os.environ | dict.fromkeys(_LIMITS, str(job.threads))
    result["JAX_ENABLE_X64"] = str(int(job.dtype == "float64"))
    if job.backend == "cupy":
        result["CUPY_TF32"] = str(int(job.precision == "tf32"))
    else:
        result["JAX_PLATFORMS"] = "cpu"
    if job.memory_of is None:
        # What is freed stays in the process, whoever's it was: some virtual machines take 3 ms to
        # hand out a MB again, and did so in the middle of now this contestant's time, now that's.
        tunables = (os.environ.get("GLIBC_TUNABLES", ""), _KEEP_MEMORY)
        result["GLIBC_TUNABLES"] = ":".join(filter(None, tunables))
    if job.threads == 1:
        flags = (os.environ.get("XLA_FLAGS", ""), "--xla_cpu_multi_thread_eigen=false")
        result["XLA_FLAGS"] = " ".join(flags).strip()
    return result
