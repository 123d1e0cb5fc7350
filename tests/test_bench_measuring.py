"""What ``gru-xp bench`` makes of its contestants: comparison, turns, ratios, memory, processes."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gru_xp.bench import cases, machine, memory, parent, report, timing
from gru_xp.bench.cases import Case, Job, Size
from gru_xp.bench.contestant import Call, Contestant
from gru_xp.bench.errors import BenchError, FailedError
from gru_xp.core import accelerators

CASE = Case("forward", Size(5, 2, 8, 6))
JOB = Job((Size(5, 2, 8, 6),), (4,), 1, (), True, "numpy", "float32", 1)


def call_of(value: Any, log: list[str] | None = None, name: str = "") -> Call:
    @contextmanager
    def context() -> Any:
        if log is not None:
            log.append(f"({name}")
        yield
        if log is not None:
            log.append(f"{name})")

    def run() -> None:
        if log is not None and log[-1] != name:
            log.append(name)

    return Call(run, lambda: {"y": np.asarray(value, dtype="float32")}, context)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1.0, 2.001], "differs from gru_xp's by 5.0e-04 of its largest value"),
        ([1.0, float("nan")], "differs from gru_xp's by nan"),
        ([[1.0, 2.0]], r"has shape \(1, 2\), expected \(2,\), the shape of gru_xp's"),
    ],
)
def test_a_contestant_with_other_numbers_is_named(value: Any, words: str) -> None:
    calls = {"gru_xp": call_of([1.0, 2.0]), "good": call_of([1.0, 2.00001]), "odd": call_of(value)}
    with pytest.raises(BenchError, match=f"odd: y of 5x2x8x6 forward {words}"):
        timing.agree(calls, Case("forward", Size(5, 2, 8, 6)), "float32")


def test_what_a_contestant_raises_is_told_with_its_name() -> None:
    def fail() -> Any:
        raise TypeError("no such dtype")

    calls = {"gru_xp": call_of([1.0]), "odd": Call(fail, fail)}
    with pytest.raises(FailedError, match="odd fails with TypeError: no such dtype") as caught:
        timing.agree(calls, CASE, "float32")
    assert caught.value.name == "odd"


def test_sixteen_bits_are_compared_in_float32_and_to_their_own_tolerance() -> None:
    def calls(dtype: str, value: float) -> dict[str, Call]:
        return {
            name: Call(lambda: None, lambda each=each: {"y": np.asarray([each], dtype)})
            for name, each in (("gru_xp", -6e4), ("other", value))
        }

    timing.agree(calls("float16", -6e4 * 1.01), CASE, "float16")
    with pytest.raises(BenchError, match=r"other: y of .* differs .* by 2\.0e"):  # not by infinity
        timing.agree(calls("float16", 6e4), CASE, "bfloat16")
    with pytest.raises(BenchError, match=r"more than 2e-02"):
        timing.agree(calls("float32", -6e4 * 1.03), CASE, "float16")


def test_contestants_take_turns_within_their_contexts_when_the_others_are_quiet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []
    monkeypatch.setattr(timing, "settle", lambda: log.append("quiet"))
    times = timing.measure({name: call_of(0, log, name) for name in "ab"}, 2)
    first = log.index("quiet")
    sample_of_a, sample_of_b = ["(a", "a", "a)"], ["(b", "b", "b)"]  # once untimed, once timed
    turn = ["quiet", *sample_of_a * 2, "quiet", *sample_of_b * 2]
    assert log[first:] == turn * 2
    assert all(len(each.seconds) == 2 and each.calls > 1 for each in times.values())


def test_ratios_are_of_medians_and_shares_of_the_measured_peak() -> None:
    case = Case("training", Size(10, 1, 2, 4))
    assert case.flops == 3 * 2 * 10 * 3 * 4 * (2 + 4)
    times = {"gru_xp": [1.0, 9.0, 2.0], "torch": [3.0, 4.0, 90.0]}
    measured = {
        "threads": 1,
        "peak_flops": 1440.0,
        "isa": "odd",
        "recurrence": "loop",
        "gpu": None,
        "notes": ["one"],
        "cases": [
            {
                "kind": kind,
                "size": list(case.size),
                "times": {
                    name: {"calls": 1, "seconds": [factor * each for each in seconds]}
                    for name, seconds in times.items()
                },
            }
            for kind, factor in (("training", 1), ("forward", 2))
        ],
    }
    weighed = [{"size": case.size, "bytes": {"gru_xp": 30, "torch": 40}}]
    document = report.document([measured], weighed, job=JOB, notes=["one"], arguments=[])
    assert (document["isa"], document["notes"]) == ("odd", ["one"])
    (part,) = document["threads"]
    own, other = (part["cases"][0]["contestants"][name] for name in ("gru_xp", "torch"))
    assert (own["us_per_call"], other["us_per_call"]) == (2e6, 4e6)
    assert (own["us_per_step"], own["share_of_peak"], own["ratio"]) == (2e5, 1.5, 1)
    assert (other["ratio"], other["share_of_peak"]) == (2, 0.75)
    assert part["summary"]["torch"]["training"] == {
        "geometric_mean": pytest.approx(2),
        "least": 2,
        "least_at": "10x1x2x4 training",
    }
    assert document["memory"][0]["ratio_gru_xp_to"] == {"torch": 0.75}


def test_the_peak_is_the_sum_of_all_threads_and_none_where_nothing_measures_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = SimpleNamespace(measure_fma_peak=lambda dtype: {"float32": 8e9}[dtype])
    monkeypatch.setitem(accelerators._found, "numpy", accelerators.Found(module, "fast"))
    assert machine.peak_flops("float32", 3) == 24e9
    assert machine.instruction_set() is None
    module.isa = lambda: "avx512"
    assert machine.instruction_set() == "avx512"
    monkeypatch.setitem(accelerators._found, "numpy", accelerators.Found(None, "none"))
    assert machine.peak_flops("float32", 3) is None
    assert machine.instruction_set() is None


class Greedy(Contestant):
    """Holds a number of bytes for the time of a call."""

    name = "greedy"

    def __init__(self, size: int) -> None:
        self._size = size

    def training(self, work: cases.Work, /) -> Call:
        size = self._size if work.size == JOB.sizes[0] else 1
        return Call(lambda: np.ones(size, dtype="int8").sum(), dict)


def test_the_peak_of_a_step_is_seen_though_it_is_over() -> None:
    if memory.peak() is None:
        pytest.skip("this platform does not tell a process's peak memory")
    size = 2**27
    growth = memory.training_growth(Greedy(size), JOB.sizes[0], "float32")
    assert 0.9 * size < growth < 1.5 * size
    if memory._CLEAR.exists():  # a second one as large does not hide behind the first
        assert memory.training_growth(Greedy(size), JOB.sizes[0], "float32") > 0.9 * size


def test_a_job_survives_its_way_to_the_process() -> None:
    assert Job.from_json(JOB.to_json()) == JOB


def test_the_process_is_limited_to_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--other")
    limits = parent.environment(JOB)
    for library in ("OMP", "OPENBLAS", "MKL", "GRU_XP"):
        assert limits[f"{library}_NUM_THREADS"] == "1"
    assert limits["XLA_FLAGS"] == "--other --xla_cpu_multi_thread_eigen=false"


def test_freed_memory_stays_in_the_process_but_where_memory_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    kept = parent.environment(JOB)["GLIBC_TUNABLES"].split(":")
    assert kept[:2] == ["glibc.malloc.check=0", "glibc.malloc.mmap_max=0"]
    assert kept[2].startswith("glibc.malloc.trim_threshold=")
    counted = parent.environment(replace(JOB, memory_of="torch"))
    assert counted["GLIBC_TUNABLES"] == "glibc.malloc.check=0"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this platform")
def test_the_process_has_as_many_cpus_as_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "import json\nprint(json.dumps({'cpus': len(os.sched_getaffinity(0))}))\nsys.exit()\n"
    monkeypatch.setattr(parent, "_START", parent._START.replace("from gru_xp", f"{told}from x"))
    assert parent.run(JOB) == {"cpus": 1}
    assert len(machine.cpus()) == len(os.sched_getaffinity(0))


def test_a_process_that_dies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parent, "_START", "raise SystemExit(3)")
    with pytest.raises(BenchError, match="ended with status 3"):
        parent.run(JOB)


def test_an_error_of_the_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    start = "import gru_xp.bench.timing as t; t.TOLERANCES['float32'] = -1.0\n"
    monkeypatch.setattr(parent, "_START", f"{start}{parent._START}")
    with pytest.raises(BenchError, match="gru_xp: y of 5x2x8x6 forward differs"):
        parent.run(JOB)
