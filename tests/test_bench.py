"""``gru-xp bench``: what it prints, writes and refuses, and its contestants."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

for name in ("click", "filelock", "matplotlib", "rich", "safetensors", "threadpoolctl"):
    pytest.importorskip(name, reason="the command line is the extra gru-xp[cli]")

from gru_xp import cli  # noqa: E402
from gru_xp.arrays import libraries  # noqa: E402
from gru_xp.bench import cases, memory, parent, peers  # noqa: E402
from gru_xp.bench.cases import Job, Size  # noqa: E402
from gru_xp.bench.contestant import IN_TORCH  # noqa: E402
from gru_xp.bench.contestants import contestants  # noqa: E402
from gru_xp.bench.errors import UnavailableError  # noqa: E402
from gru_xp.bench.own import Own  # noqa: E402
from gru_xp.core import accelerators  # noqa: E402

TINY = ("--sizes", "5x2x8x6,3x4x5x6", "--steps", "8", "--threads", "1", "--repeats", "2")


class Ran(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run ``gru-xp bench`` in an empty folder; the output is that of its processes too."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["gru-xp", "bench", *arguments])
        return Ran(cli.main(), *capfd.readouterr())

    return run


@pytest.fixture(params=list(peers.PEERS))
def peer(request: pytest.FixtureRequest) -> str:
    """Each peer that is installed."""
    name: str = request.param
    if reason := peers.missing(name):
        pytest.skip(reason)
    return name


def skip_without_peak() -> None:
    if memory.peak() is None:
        pytest.skip("this platform does not tell a process's peak memory")


def test_a_benchmark_of_gru_xp_alone_prints_and_writes_everything(run: Run) -> None:
    skip_without_peak()
    Path("out").mkdir()
    ran = run(*TINY, "--peers", "none", "--json", "out/all.json", "--plot", "out/all.svg")
    assert ran.status == 0, ran.err
    for word in ("recurrence: ", "1 thread", "5x2x8x6", "3x4x5x6", "cell of 8", "MiB", "portable"):
        assert word in ran.out
    for case in ("3x4x5x6 training", "cell of 8", "cell of 8 training", "GRU of 8, T = 1 training"):
        assert f"1 thread, {case}\n" in ran.err
    assert "GRU of 8, T = 1" in ran.out
    assert "<svg" in Path("out/all.svg").read_text()
    assert sorted(os.listdir("out")) == ["all.json", "all.svg"]

    document = json.loads(Path("out/all.json").read_text())
    assert document["schema_version"] == 1
    assert document["arguments"] == sys.argv[1:]
    assert {"python", "numpy", "gru-xp"} <= set(document["versions"])
    assert document["processor"]
    assert document["recurrence"] == accelerators.running("numpy")
    (part,) = document["threads"]
    assert part["threads"] == 1
    kinds = [(each["kind"], each["T"], each["H"]) for each in part["cases"]]
    assert kinds == [
        ("forward", 5, 6), ("training", 5, 6), ("forward", 3, 6), ("training", 3, 6),
        ("step", 1, 8), ("step training", 1, 8), ("single training", 1, 8),
    ]  # fmt: skip
    for each in part["cases"]:
        assert list(each["contestants"]) == ["gru_xp", "gru_xp portable"]
        for numbers in each["contestants"].values():
            assert numbers["us_per_step"] == pytest.approx(numbers["us_per_call"] / each["T"])
            assert len(numbers["us_per_call_samples"]) == 2
    assert [each["T"] for each in document["memory"]] == [3, 5]
    assert all(list(each["bytes"]) == ["gru_xp"] for each in document["memory"])


def test_random_sizes_are_the_seeds_within_bounds_and_evenly_spread_in_their_logarithm() -> None:
    sizes = cases.random_sizes(500, 3)
    assert sizes == cases.random_sizes(500, 3)
    assert sizes[:5] == cases.random_sizes(5, 3) != cases.random_sizes(5, 4)
    assert len(set(sizes)) == 500
    most, least = cases.RANDOM
    for place, (low, high) in enumerate(zip(least, most, strict=True)):
        drawn = [size[place] for size in sizes]
        assert low <= min(drawn)
        assert max(drawn) <= high
        half = sum(each < (low * high) ** 0.5 for each in drawn)
        assert 190 < half < 310  # 250 by the law; five standard deviations are 56


def test_random_sizes_are_shown_with_the_worst_first(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the least ratio to a peer, be it of the forward or of the training."""
    sizes = cases.random_sizes(3, 7)
    ratios = {sizes[0]: (1.5, 2.0), sizes[1]: (3.0, 0.8), sizes[2]: (0.9, 4.0)}

    def measured(job: Job) -> dict[str, Any]:
        assert (job.sizes, job.cells) == (sizes, ())
        return {
            "isa": None, "recurrence": "", "gpu": None, "notes": [], "peak_flops": None,
            "cases": [
                {"kind": kind, "size": size, "times": {
                    name: {"seconds": [seconds], "calls": 1}
                    for name, seconds in (
                        ("gru_xp", 1.0), ("gru_xp portable", 0.1), ("torch", ratio)
                    )
                }}
                for size in sizes
                for kind, ratio in zip(("forward", "training"), ratios[size], strict=True)
            ],
        }  # fmt: skip

    monkeypatch.setattr(parent, "run", measured)
    monkeypatch.setattr(peers, "choose", lambda asked, **_: (("torch",), []))
    arguments = ("--threads", "1", "--no-memory", "--plot", "map.svg")
    ran = run("--random", "3", "--seed", "7", *arguments)
    assert ran.status == 0, ran.err
    at = [ran.out.index(f" {sizes[place]} ") for place in (1, 2, 0)]
    assert at == sorted(at)
    drawn = Path("map.svg").read_text()
    assert "<svg" in drawn
    # Text is drawn as paths; matplotlib says in a comment which.
    for text in ("torch, forward, 1 thread", "torch, training, 1 thread", "0.80", "0.90"):
        assert f"<!-- {text} -->" in drawn
    assert "<!-- 1.50 -->" not in drawn


def test_each_peer_agrees_with_gru_xp_and_is_timed(run: Run, peer: str) -> None:
    ran = run(*TINY, "--peers", peer, "--json", "all.json", "--no-memory")
    assert ran.status == 0, ran.err
    document = json.loads(Path("all.json").read_text())
    assert document["memory"] == []
    assert peer in document["versions"]
    can = {
        "torch": set(cases.KINDS) - {"stream"},
        "jax": {"forward", "training", "single training"},
    }
    (part,) = document["threads"]
    timed = {each["kind"] for each in part["cases"] if peer in each["contestants"]}
    assert timed == set(part["summary"][peer]) == can.get(peer, {"forward"})
    in_torch = {each["kind"] for each in part["cases"] if IN_TORCH in each["contestants"]}
    has_one = peer == "torch" and accelerators.find("torch").module is not None
    assert in_torch == (timed if has_one else set())


def test_float64_agrees_too(peer: str) -> None:
    if reason := peers.unfit(peer, backend="numpy", dtype="float64"):
        pytest.skip(reason)
    answer = parent.run(
        Job((Size(5, 2, 8, 6),), (4,), 1, (peer,), True, "numpy", "float64", repeats=1)
    )
    assert peer in answer["cases"][0]["times"]


@pytest.mark.parametrize("name", ["array_api_strict", "jax", "torch"])
def test_gru_xp_runs_on_other_backends(name: str) -> None:
    if reason := libraries.unusable(name):
        pytest.skip(reason)
    answer = parent.run(Job((Size(5, 2, 8, 6),), (4,), 1, (), True, name, "float32", repeats=1))
    assert answer["recurrence"] == accelerators.running(name)
    assert [list(each["times"]) for each in answer["cases"]] == [["gru_xp", "gru_xp portable"]] * 5


def test_the_memory_of_torch_is_beside_that_of_gru_xp() -> None:
    skip_without_peak()
    if reason := peers.missing("torch"):
        pytest.skip(reason)
    job = Job((Size(64, 32, 64, 64),), (), 1, ("torch",), True, "numpy", "float32", 1)
    (row,) = parent.measure_memory(job, 1)
    states = 64 * 32 * 64 * 4  # bytes of y, which neither can do without
    assert row["bytes"]["gru_xp"] > states
    assert row["bytes"]["torch"] > states


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--sizes 1x2x3", "expected four integers TxNxIxH, such as 100x8x64x64, got '1x2x3'"),
        ("--sizes 1x2x3x4x5", "expected four integers"),
        ("--sizes 1x2x3x0", "expected an integer from 1 to 1000000, got '0'"),
        ("--sizes 1x2x3x4,", "expected four integers TxNxIxH, such as 100x8x64x64, got ''"),
        ("--sizes 1x2x3x-4", "expected an integer from 1 to 1000000, got '-4'"),
        ("--sizes 1x2x3x1.5", "expected an integer from 1 to 1000000, got '1.5'"),
        ("--steps 0", "expected an integer from 1 to 1000000, got '0'"),
        ("--steps x", "--steps"),
        ("--threads 0", "--threads"),
        ("--threads 999999", "--threads, the number of usable CPUs, got 999999"),
        ("--repeats 0", "--repeats"),
        ("--peers keras", "expected one of torch, onnxruntime, jax, none, got 'keras'"),
        ("--precision float8", "float8"),
        (
            "--precision tf32",
            "tf32 requires --backend cupy. With --backend numpy, use float32 or float64",
        ),
        ("--precision float16", "float16 requires --backend cupy"),
        (
            "--precision bfloat16 --backend array_api_strict",
            "With --backend array_api_strict, use float32",
        ),
        ("--backend wrong", "wrong"),
        ("--json folder", "folder"),
        ("--json absent/all.json", "the folder absent does not exist. Create it"),
        ("--json file/below", "the folder file does not exist"),
        ("--plot file/below.png", "the folder file does not exist"),
        ("--plot plot.txt", ".png, .svg"),
        ("--json a.svg --plot a.svg", "must not name the same file"),
        ("--json folder", "File 'folder' is a directory"),
        ("--random 0", "0 is not in the range 1<=x<=1000"),
        ("--random 5 --sizes 1x1x1x1", "--sizes and --random cannot be combined"),
        ("--seed 5", "--seed requires --random"),
    ],
)
def test_what_cannot_be_used_is_one_line_before_anything_is_measured(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: str, words: str
) -> None:
    monkeypatch.setattr(parent, "run", lambda job: pytest.fail("it has begun"))
    Path("folder").mkdir()
    Path("file").touch()
    ran = run(*arguments.split())
    assert (ran.status, ran.out) == (2, "")
    assert len(ran.err.splitlines()) == 1
    assert ran.err.startswith("gru-xp: error: ")
    assert words in ran.err


def test_times_are_shown_even_if_they_cannot_be_written(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, data: bytes, /) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("gru_xp.files.write_whole", fail)
    ran = run(*TINY, "--peers", "none", "--no-memory", "--json", "a.json")
    assert ran.status == 2
    assert "No space left on device: 'a.json'" in ran.err
    assert "5x2x8x6" in ran.out


def test_a_backend_that_is_not_here_is_told_with_the_reason(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "unusable", lambda name: f"{name} is not installed: why")
    assert run("--backend", "cupy") == (2, "", "gru-xp: error: cupy is not installed: why\n")


def test_a_peer_that_is_asked_for_and_missing_is_told_with_the_remedy(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        peers.PEERS, "torch", peers.PEERS["torch"]._replace(packages=("no_such_torch",))
    )
    ran = run(*TINY, "--peers", "torch")
    assert (ran.status, ran.out) == (2, "")
    assert (
        "torch requires no_such_torch, which is not installed. "
        "Install it with: pip install torch==2.13.0"
    ) in ran.err
    names, notes = peers.choose(None, backend="numpy", dtype="float32")
    assert "torch" not in names
    assert notes[0] == ran.err.removeprefix("gru-xp: error: ").rstrip()


def test_a_peer_that_does_not_start_is_an_error_where_it_was_asked_for_and_else_a_note(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = peers.Peer(("numpy",), "pip install it", "no_such_peer")
    monkeypatch.setitem(peers.PEERS, "jax", broken)
    asked = Job((), (), 1, ("jax",), True, "numpy", "float32", 1)
    with pytest.raises(UnavailableError, match="jax is installed but fails to start: ModuleNotF"):
        contestants(asked)
    made, notes = contestants(Job((), (), 1, ("jax",), False, "numpy", "float32", 1))
    assert [each.name for each in made] == ["gru_xp", "gru_xp portable"]
    assert "fails to start" in notes[0]


def test_peers_of_the_cpu_do_not_meet_a_gpu() -> None:
    names, notes = peers.choose(("onnxruntime", "jax"), backend="cupy", dtype="float32")
    assert names == ()
    assert [note.partition(" ")[0] for note in notes] == ["onnxruntime", "jax"]


def test_the_portable_row_has_the_accelerators_off() -> None:
    portable = Own("numpy", "float32", accelerated=False)
    work = cases.work(Size(2, 1, 3, 4), "float32")
    for call in (portable.forward(work), portable.training(work), portable.step(work)):
        with call.context():
            assert not accelerators.are_on()
