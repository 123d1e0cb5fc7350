"""``gru-xp bench --stream``: each step of a stream, from the median to the slowest."""

# ruff: noqa: F811  (arguments have the names of fixtures that are imported)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for name in ("click", "filelock", "matplotlib", "rich", "safetensors", "threadpoolctl"):
    pytest.importorskip(name, reason="the command line is the extra gru-xp[cli]")

from gru_xp.arrays import libraries  # noqa: E402
from gru_xp.bench import cases, parent, peers, report, streams, timing  # noqa: E402
from gru_xp.bench.cases import Case, Job, Size  # noqa: E402
from gru_xp.bench.contestant import Call, Contestant  # noqa: E402
from gru_xp.bench.own import Own  # noqa: E402
from gru_xp.checking import reference  # noqa: E402
from gru_xp.core import accelerators  # noqa: E402
from tests.test_bench import Run, peer, run  # noqa: E402, F401  (fixtures)
from tests.test_bench_measuring import call_of  # noqa: E402

TINY = ("--stream", "--repeats", "50")


def test_the_default_streams_are_of_16_and_64_units_and_of_two_layers() -> None:
    made = cases.stream_cases(cases.STREAMS)
    assert [str(each) for each in made] == [
        "stream of 16",
        "stream of 64",
        "stream of 64, 2 layers",
    ]
    assert [each.flops for each in made] == [2 * 3 * 2 * 16**2, 12 * 64**2, 24 * 64**2]
    assert cases.stream_cases((9, 3))[-1] == Case("stream", Size(1, 1, 9, 9), 2)


def test_a_benchmark_of_gru_xp_alone_prints_and_writes_everything(run: Run) -> None:
    ran = run(*TINY, "--steps", "4,6", "--peers", "none", "--json", "a.json", "--plot", "a.svg")
    assert ran.status == 0, ran.err
    for word in ("recurrence: ", "1 thread", "99.9 %", "most", "stream of 6, 2 layers", "portable"):
        assert word in ran.out
    assert "1 thread, stream of 4\n" in ran.err
    drawn = Path("a.svg").read_text()
    for text in ("stream of 6, 2 layers, 1 thread", "gru_xp portable", "share of steps"):
        assert f"<!-- {text} -->" in drawn

    document = json.loads(Path("a.json").read_text())
    assert document["schema_version"] == 1
    assert document["memory"] == []
    (part,) = document["threads"]
    assert part["threads"] == 1
    shapes = [tuple(each[key] for key in ("kind", "T", "N", "I", "H", "layers"))
              for each in part["cases"]]  # fmt: skip
    assert shapes == [
        ("stream", 1, 1, hidden, hidden, layers) for hidden, layers in ((4, 1), (6, 1), (6, 2))
    ]
    for each in part["cases"]:
        assert list(each["contestants"]) == ["gru_xp", "gru_xp portable"]
        assert each["contestants"]["gru_xp"]["ratio"] == 1
        for numbers in each["contestants"].values():
            ordered = [numbers[f"us_per_step{end}"] for end in ("", "_99", "_99.9", "_most")]
            assert ordered == sorted(ordered)
            assert numbers["steps"] == sum(numbers["histogram"]) == 50
            assert len(numbers["histogram"]) == len(each["histogram_edges_us"]) - 1


def test_each_peer_agrees_with_gru_xp_and_is_timed(run: Run, peer: str) -> None:
    ran = run(*TINY, "--steps", "5", "--peers", peer, "--json", "all.json")
    assert ran.status == 0, ran.err
    (part,) = json.loads(Path("all.json").read_text())["threads"]
    forms = {"torch": [["torch", "torch GRUCell"], ["torch"]], "jax": [[], []]}
    timed = [list(each["contestants"])[2:] for each in part["cases"]]
    assert timed == forms.get(peer, [[peer], [peer]])
    assert ("jax is left out" in ran.out) == (peer == "jax")


def results_of(contestant: Contestant, work: cases.Work) -> dict[str, np.ndarray[Any, Any]]:
    """What each form of a contestant computes, after steps that must not matter."""
    found = {}
    for form, call in contestant.streams(work).items():
        with call.context():
            for _ in range(3):
                call.run()
            found[form] = call.results()["y"]
            np.testing.assert_array_equal(call.results()["y"], found[form])
    return found


@pytest.mark.parametrize("layers", [1, 2])
def test_all_compute_what_the_scalar_reference_does(peer: str, layers: int) -> None:
    """Also where nothing compares them, with peers of which one would hide the other's fault."""
    work = cases.work(Size(6, 1, 5, 5), "float32", layers)
    wanted = work.x
    for weights in work.layers:
        wanted = reference.states(weights, wanted, np.zeros((1, 5)))
    job = Job((), (5,), 1, (peer,), True, "numpy", "float32", 1, stream=True)
    found: dict[str, Any] = {}
    for each in (Own("numpy", "float32", accelerated=True), peers.make(peer, job)):
        found |= results_of(each, work)
    for y in found.values():
        np.testing.assert_allclose(y, np.asarray(wanted)[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["array_api_strict", "jax", "torch"])
def test_gru_xp_runs_on_other_backends(name: str) -> None:
    if reason := libraries.unusable(name):
        pytest.skip(reason)
    answer = parent.run(Job((), (4,), 1, (), True, name, "float64", repeats=2, stream=True))
    assert answer["recurrence"] == accelerators.running(name)
    assert [list(each["spread"]) for each in answer["cases"]] == [["gru_xp", "gru_xp portable"]] * 2


def test_the_portable_form_has_no_accelerators_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    found = accelerators.find("numpy").module
    if found is None:
        pytest.skip(accelerators.find("numpy").reason)
    monkeypatch.setattr(
        found, "stream", lambda *given: asked.append(True) or NotImplemented, raising=False
    )
    work = cases.work(Size(2, 1, 3, 3), "float32")
    with accelerators.use_accelerators(True):
        Own("numpy", "float32", accelerated=False).streams(work)
        assert asked == []
        Own("numpy", "float32", accelerated=True).streams(work)
        assert asked == [True, True]


def test_contestants_take_turns_and_every_step_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    monkeypatch.setattr(timing, "settle", lambda: log.append("quiet"))
    taken = streams.measure({name: call_of(0, log, name) for name in "ab"}, 25)
    turn = ["quiet", "(a", "a", "a)", "quiet", "(b", "b", "b)"]
    assert log == turn * 10
    assert all(len(times) == 25 and (times > 0).all() for times in taken.values())


def test_gru_xp_has_all_steps_and_the_others_as_many_as_their_time_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0]
    monkeypatch.setattr(streams.time, "perf_counter_ns", lambda: now[0])
    monkeypatch.setattr(timing, "settle", lambda: None)
    monkeypatch.setattr(streams, "_MOST", 100)
    monkeypatch.setattr(streams, "_LEAST", 20)
    monkeypatch.setattr(streams, "_PEER_SECONDS", 1e-3)

    def lasting(microseconds: int) -> Call:
        def run() -> None:
            now[0] += 1000 * microseconds

        return Call(run, dict)

    of = {"gru_xp": lasting(900), "quick": lasting(1), "slow": lasting(20), "slower": lasting(200)}
    taken = streams.measure(of, None)
    assert {name: len(times) for name, times in taken.items()} == {
        "gru_xp": 100, "quick": 100, "slow": 50, "slower": 20,
    }  # fmt: skip
    assert set(taken["slow"]) == {20_000}


def test_a_spread_is_of_all_steps_and_of_a_clock_of_any_resolution() -> None:
    times = np.concatenate([np.full(9_980, 2_000), np.full(19, 50_000), [3 * 10**9]])
    found = streams.spread(times)
    assert found["steps"] == sum(found["histogram"]) == 10_000
    assert (found["us_per_step"], found["us_per_step_99"]) == (2, 2)
    assert (found["us_per_step_99.9"], found["us_per_step_most"]) == (50, 3e6)
    of_the_slowest = found["histogram"][-1]  # beyond the last edge
    assert of_the_slowest == 1
    assert found["histogram"][np.searchsorted(streams.EDGES, 2.0) - 1] == 9_980
    assert sum(streams.spread(np.zeros(3, np.int64))["histogram"]) == 3


def test_ratios_are_of_medians() -> None:
    spread = {"gru_xp": streams.spread(np.asarray([1000, 2000, 9000])),
              "torch": streams.spread(np.asarray([3000, 4000, 5000]))}  # fmt: skip
    measured = {
        "threads": 1, "peak_flops": None, "isa": None, "recurrence": "", "gpu": None, "notes": [],
        "cases": [{"kind": "stream", "size": [1, 1, 4, 4], "layers": 2, "spread": spread}],
    }  # fmt: skip
    job = Job((), (4,), 1, (), True, "numpy", "float32", None, stream=True)
    document = report.document([measured], [], job=job, notes=[], arguments=[])
    assert report.is_of_streams(document)
    (part,) = document["threads"]
    assert part["cases"][0]["contestants"]["torch"]["ratio"] == 2
    assert part["summary"]["torch"]["stream"]["least_at"] == "stream of 4, 2 layers"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            "--sizes 1x1x1x1",
            "--stream cannot be combined with --sizes or --random. Choose the hidden units with "
            "--steps",
        ),
        ("--random 5", "--stream cannot be combined with --sizes or --random"),
        ("--repeats 1000001", "1000001 is not in the range 1<=x<=1000000"),
        ("--steps 0", "expected an integer from 1 to 1000000, got '0'"),
        ("--plot plot.txt", ".png, .svg"),
    ],
)
def test_what_cannot_be_used_is_one_line_before_anything_is_measured(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    words: str,
) -> None:
    monkeypatch.setattr(parent, "run", lambda job: pytest.fail("it has begun"))
    ran = run("--stream", *arguments.split())
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("gru-xp: error: ")
    assert words in ran.err


def test_streams_are_not_measured_on_a_gpu(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(libraries, "resolve", lambda name: (name, "asked for by name"))
    ran = run("--stream", "--backend", "cupy")
    assert (ran.status, ran.out) == (2, "")
    assert "--stream does not support --backend cupy" in ran.err
