"""``gru-xp bench --backend cupy`` with stand-ins for the GPU: clocks, the floor, what it writes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

for name in ("click", "filelock", "matplotlib", "rich", "safetensors", "threadpoolctl"):
    pytest.importorskip(name, reason="the command line is the extra gru-xp[cli]")

from gru_xp import cli  # noqa: E402
from gru_xp.arrays import libraries  # noqa: E402
from gru_xp.bench import (  # noqa: E402
    cases,
    child,
    clocks,
    contestants,
    floor,
    gpu,
    parent,
    peers,
    timing,
)
from gru_xp.bench.cases import GPU_SIZES, Case, Job, Size  # noqa: E402
from gru_xp.bench.contestant import Call, Contestant  # noqa: E402
from gru_xp.bench.errors import FailedError  # noqa: E402
from gru_xp.core import accelerators  # noqa: E402
from tests.cuda import Machine  # noqa: E402

H100 = {
    "MemoryClockRate": 2_619_000,
    "GlobalMemoryBusWidth": 5120,
    "ClockRate": 1_980_000,
    "MultiProcessorCount": 132,
    "L2CacheSize": 50 << 20,
}
DENSE = {"float32": 67e12, "tf32": 495e12, "float16": 989e12, "bfloat16": 989e12}
CASE = Case("forward", Size(5, 2, 8, 6))


def job(precision: str = "float32", peers: tuple[str, ...] = ()) -> Job:
    return Job((CASE.size,), (), 1, peers, True, "cupy", precision, 1)


class Event:
    """Events of a stream on which a microsecond passes with each call."""

    now = 0.0

    def __init__(self, enable_timing: bool = True) -> None:
        assert enable_timing
        self.at: float | None = None
        self.waited = False

    def record(self) -> None:
        self.at = Event.now

    def synchronize(self) -> None:
        self.waited = True

    def elapsed_time(self, end: Event) -> float:
        assert end.waited
        assert end.at is not None
        assert self.at is not None
        return (end.at - self.at) * 1e3


@pytest.fixture
def fake_cupy(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The few names of CuPy that are called here, on an H100."""
    device = SimpleNamespace(id=0, attributes=dict(H100), compute_capability="90")
    runtime = SimpleNamespace(
        getDeviceProperties=lambda index: {"name": b"NVIDIA H100"},
        driverGetVersion=lambda: 13010,
        runtimeGetVersion=lambda: 13000,
    )
    module = SimpleNamespace(
        __version__="14.2.0",
        device=device,
        freed=0,
        cuda=SimpleNamespace(
            Device=lambda: device,
            Event=Event,
            get_elapsed_time=Event.elapsed_time,
            runtime=runtime,
        ),
    )

    def free_all_blocks() -> None:
        module.freed += 1

    module.get_default_memory_pool = lambda: SimpleNamespace(free_all_blocks=free_all_blocks)
    monkeypatch.setitem(sys.modules, "cupy", module)  # type: ignore[arg-type]
    monkeypatch.setitem(libraries._namespaces, "cupy", libraries.namespace("numpy"))
    monkeypatch.setitem(accelerators._found, "cupy", accelerators.Found(None, "none"))
    return module


@pytest.mark.parametrize(
    ("hidden", "precision", "l2_bytes", "microseconds"),
    [
        (1024, "float32", 0, 3.8),
        (1024, "float16", 0, 1.9),
        (2048, "float32", 0, 15),
        (2048, "bfloat16", 0, 7.5),
        (1024, "tf32", 50e6, 2.3),
        (1024, "bfloat16", 50e6, 1.1),
        (2048, "float32", 50e6, 9.2),
        (2048, "float16", 50e6, 4.6),
        (4096, "tf32", 50e6, (12 * 4096**2 - 50e6) / 3350e3),  # the rest from memory
    ],
)
def test_the_floor_of_one_row_is_the_time_of_reading_the_weights(
    hidden: int, precision: str, l2_bytes: int, microseconds: float
) -> None:
    chip = floor.Chip(3350e9, 5500e9 if l2_bytes else 1e18, l2_bytes, DENSE[precision])
    found = 1e6 * floor.step_seconds(Size(512, 1, 1, hidden), precision, chip)
    assert found == pytest.approx(microseconds, rel=0.05)


@pytest.mark.parametrize(
    ("rows", "hidden", "precision", "microseconds"),
    [
        (256, 1024, "tf32", 3.3),
        (64, 2048, "tf32", 3.3),
        (256, 2048, "tf32", 13),
        (256, 1024, "bfloat16", 1.6),
        (256, 2048, "float16", 6.5),
        (256, 2048, "float32", 96),
    ],
)
def test_the_floor_of_many_rows_is_the_time_of_their_arithmetic(
    rows: int, hidden: int, precision: str, microseconds: float
) -> None:
    chip = floor.Chip(1e18, 1e18, 0, DENSE[precision])
    found = 1e6 * floor.step_seconds(Size(512, rows, 1, hidden), precision, chip)
    assert found == pytest.approx(microseconds, rel=0.03)
    slow = chip._replace(memory_bandwidth=1e9)
    assert floor.step_seconds(Size(512, rows, 1, hidden), precision, slow) > 10 * found / 1e6


@pytest.mark.parametrize("precision", list(DENSE))
def test_the_bounds_of_an_h100_are_derived_from_its_attributes(precision: str) -> None:
    chip = floor.chip(H100, "90", precision)
    assert chip is not None
    assert chip.memory_bandwidth == pytest.approx(3350e9, rel=0.01)
    assert chip.l2_bandwidth == pytest.approx(5500e9, rel=0.01)
    assert chip.l2_bytes == 50 << 20
    assert chip.flops == pytest.approx(DENSE[precision], rel=0.1)  # peaks are told at lower clocks
    assert chip.flops > 0.99 * DENSE[precision]


def test_there_is_no_floor_where_too_little_is_known() -> None:
    assert floor.chip(H100, "75", "float16") is None
    for name in ("ClockRate", "MemoryClockRate", "L2CacheSize"):
        assert floor.chip({key: H100[key] for key in H100 if key != name}, "90", "tf32") is None
    assert floor.chip({**H100, "ClockRate": 0}, "90", "tf32") is None


def test_both_libraries_are_timed_by_events(
    fake_cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        sys.modules,
        "torch",
        SimpleNamespace(cuda=SimpleNamespace(Event=Event)),  # type: ignore[arg-type]
    )

    def run() -> None:
        Event.now += 1e-6

    assert clocks.cupy(run, 5) == pytest.approx(1e-6)
    assert clocks.torch(run, 5) == pytest.approx(1e-6)


@pytest.mark.parametrize("precision", ["float32", "tf32", "float16"])
def test_both_libraries_round_to_tf32_where_it_is_asked_for(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = precision == "tf32"
    assert parent.environment(job(precision))["CUPY_TF32"] == str(int(wanted))
    if reason := peers.missing("torch"):
        pytest.skip(reason)
    import torch

    switches: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [each.allow_tf32 for each in switches]
    try:
        for each in switches:
            each.allow_tf32 = not wanted
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        peer: Any = peers.make("torch", job(precision, ("torch",)))
        assert [each.allow_tf32 for each in switches] == [wanted, wanted]
    finally:  # monkeypatch cannot take such an attribute back
        for each, was in zip(switches, before, strict=True):
            each.allow_tf32 = was
    assert peer._seconds is clocks.torch
    assert peer._dtype == getattr(torch, cases.dtype_of(precision))


@contextmanager
def switch() -> Any:
    yield


def found(*, runs: bool) -> accelerators.Found:
    module: Any = SimpleNamespace(
        use_persistent_kernel=switch,
        describe=lambda: "CUDA",
        persistent_kernel_runs=lambda rows, hidden, dtype, training: (
            runs and (rows, hidden, dtype) == (2, 6, "float32")
        ),
        forward=lambda *_, **__: NotImplemented,
        backward=lambda *_, **__: NotImplemented,
    )
    return accelerators.Found(module, "CUDA")


def test_the_persistent_kernel_is_a_contestant_where_it_runs(
    fake_cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = cases.work(CASE.size, "float32")
    for runs in (True, False):
        monkeypatch.setitem(accelerators._found, "cupy", found(runs=runs))
        made, notes = contestants.contestants(job())
        assert [each.name for each in made] == ["gru_xp", "gru_xp persistent", "gru_xp portable"]
        assert notes == []
        calls = [each.forward(work) for each in made]
        assert [call is not None for call in calls] == [True, runs, True]
        assert [each.training(work) is not None for each in made] == [True, runs, True]
        assert [each.step(work) is not None for each in made] == [True, runs, True]
        assert all(call.seconds is clocks.cupy for call in calls if call is not None)
        own = calls[int(runs)]
        assert own is not None
        assert own.context is (switch if runs else nullcontext)


def test_there_is_no_persistent_kernel_without_the_accelerator_nor_for_float64(
    fake_cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(accelerators._found, "cupy", found(runs=True))
    made, _ = contestants.contestants(job("float64"))
    assert [each.name for each in made] == ["gru_xp", "gru_xp portable"]
    monkeypatch.setitem(accelerators._found, "cupy", accelerators.Found(None, "it is broken"))
    made, notes = contestants.contestants(job())
    assert [each.name for each in made] == ["gru_xp", "gru_xp portable"]
    assert notes == ["gru_xp persistent is left out: it is broken"]


class OutOfMemoryError(RuntimeError):
    """As CuPy's and torch's are called."""


class Guest(Contestant):
    """Raises what it is told to, where more than `room` are there."""

    def __init__(self, name: str, error: Exception | None = None, room: int = 0) -> None:
        self.name, self._error, self._room = name, error, room

    def forward(self, work: cases.Work, /) -> Call:
        def results() -> Any:
            if self._error is not None and len(Guest.there) > self._room:
                raise self._error
            return {"y": work.x}

        Guest.there.append(self.name)
        return Call(results, results)

    there: list[str] = []  # noqa: RUF012


@pytest.mark.parametrize(
    ("made", "left", "words"),
    [
        ([("gru_xp", None), ("b", None)], ["gru_xp", "b"], []),
        ([("gru_xp", OutOfMemoryError("x")), ("b", None)], ["gru_xp"], ["without b, not enough"]),
        (
            [("gru_xp", None), ("b", TypeError("odd")), ("c", None)],
            ["gru_xp", "c"],
            ["TypeError: odd"],
        ),
    ],
)
def test_who_cannot_run_a_case_is_left_out_of_it_with_the_reason(
    fake_cupy: Any,
    monkeypatch: pytest.MonkeyPatch,
    made: list[tuple[str, Exception | None]],
    left: list[str],
    words: list[str],
) -> None:
    def measure(*arguments: Any) -> Any:
        Guest.there = []
        return once(*arguments)

    once = child._measure
    monkeypatch.setattr(child, "_measure", measure)
    notes: list[str] = []
    guests: list[Contestant] = [Guest(name, error, room=1) for name, error in made]
    (measured,) = child.measure_on_gpu(CASE, guests, job(), notes)
    assert list(measured["times"]) == left
    assert len(notes) == len(words)
    assert all(word in note for word, note in zip(words, notes, strict=True))
    assert fake_cupy.freed == 1 + len(words)


def test_a_case_without_memory_for_gru_xp_alone_is_left_out_and_its_failure_an_error(
    fake_cupy: Any,
) -> None:
    Guest.there, notes = [], []  # type: ignore[var-annotated]
    assert child.measure_on_gpu(CASE, [Guest("gru_xp", OutOfMemoryError())], job(), notes) == []
    assert notes == ["5x2x8x6 forward: without gru_xp, not enough memory together with the others"]
    with pytest.raises(FailedError, match="gru_xp fails with TypeError: odd"):
        child.measure_on_gpu(CASE, [Guest("gru_xp", TypeError("odd"))], job(), notes)


def test_the_gpu_and_its_versions_are_told(
    fake_cupy: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX Module  580.65\nGCC version: 1\n")
    monkeypatch.setattr(gpu, "_DRIVER", driver)
    torch = SimpleNamespace(
        version=SimpleNamespace(cuda="13.0"),
        backends=SimpleNamespace(cudnn=SimpleNamespace(version=lambda: 91002)),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)  # type: ignore[arg-type]
    told = gpu.describe("tf32")
    bounds = told.pop("bounds")
    assert told == {
        "name": "NVIDIA H100",
        "compute_capability": "90",
        "driver": "NVIDIA UNIX Module  580.65",
        "driver_cuda": "13.1",
        "cuda_runtime": "13.0",
        "torch_cuda": "13.0",
        "cudnn": 91002,
    }
    assert floor.Chip(**bounds) == floor.chip(H100, "90", "tf32")
    monkeypatch.delitem(sys.modules, "torch")
    driver.unlink()
    fake_cupy.device.compute_capability = "75"
    told = gpu.describe("tf32")
    assert [told[key] for key in ("driver", "torch_cuda", "cudnn", "bounds")] == [None] * 4


@pytest.fixture
def ran_jobs(
    fake_cupy: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., list[Job]]:
    """Run the command in an empty folder, with a measuring process that makes numbers up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.accelerators, "find", lambda name: accelerators.Found(None, "none"))

    def answer(job: Job) -> dict[str, Any]:
        times = {
            name: {"calls": 1, "seconds": [size * 1e-3]}
            for size, name in enumerate(("gru_xp", "gru_xp persistent", "torch"), 1)
        }
        measured = [
            {"kind": each.kind, "size": each.size, "times": times, "expected_us_per_step": 4.25}
            for each in cases.cases(job.sizes, job.cells)
        ]
        told = {"peak_flops": None, "isa": None, "recurrence": "CUDA", "notes": []}
        jobs.append(job)
        return {"cases": measured, **told, "gpu": gpu.describe(job.precision)}

    def run(*arguments: str) -> list[Job]:
        monkeypatch.setattr(sys, "argv", ["gru-xp", "bench", "--backend", "cupy", *arguments])
        assert cli.main() == 0
        return jobs

    jobs: list[Job] = []
    monkeypatch.setattr(parent, "run", answer)
    return run


def test_the_floor_and_the_gpu_are_in_the_tables_and_in_the_document(
    ran_jobs: Callable[..., list[Job]], capsys: pytest.CaptureFixture[str]
) -> None:
    (job,) = ran_jobs("--peers", "none", "--precision", "tf32", "--json", "all.json")
    assert (job.sizes, job.cells, job.threads, job.dtype) == (GPU_SIZES, (), 1, "float32")
    assert len(GPU_SIZES) == 20
    out = capsys.readouterr().out
    words = ("tf32", "NVIDIA H100", "floor µs", "lower bound", "gru_xp persistent (experimental)")
    for word in words:
        assert word in out
    document = json.loads(Path("all.json").read_text())
    assert (document["precision"], document["gpu"]["name"]) == ("tf32", "NVIDIA H100")
    assert document["versions"]["cupy"] == "14.2.0"
    assert document["memory"] == []
    chip = floor.Chip(**document["gpu"]["bounds"])
    for each in document["threads"][0]["cases"]:
        size = Size(*(each[letter] for letter in "TNIH"))
        assert (size.steps, size.inputs) == (512, size.hidden)
        if each["kind"] == "forward":
            assert each["floor_us_per_step"] == 1e6 * floor.step_seconds(size, "tf32", chip)
        else:
            assert "floor_us_per_step" not in each
        assert each["expected_us_per_step"] == 4.25
    assert out.count("4.25") == len(GPU_SIZES)  # beside the floor, of the forward
    assert "expected: time of the loop" in out


def test_without_bounds_there_is_no_floor(
    ran_jobs: Callable[..., list[Job]], fake_cupy: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_cupy.device.compute_capability = "75"
    (job,) = ran_jobs("--peers", "none", "--sizes", "3x1x4x4", "--steps", "8")
    assert (job.sizes, job.cells) == ((Size(3, 1, 4, 4),), (8,))
    out = capsys.readouterr().out
    assert "floor" not in out
    assert "expected µs" in out
    assert "cell of 8" in out


@pytest.mark.parametrize("capability", ["90", "80"])
@pytest.mark.parametrize("precision", ["float32", "tf32", "float16"])
def test_the_measuring_process_does_all_of_it_with_kernels_that_run_on_the_cpu(
    machine: Machine,
    fake_cupy: Any,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    capability: str,
) -> None:
    cupy: Any = machine.cupy()
    machine.compute_capability = fake_cupy.device.compute_capability = capability
    fake_cupy.device.attributes |= machine.attributes
    cupy.cuda.__dict__.update(fake_cupy.cuda.__dict__)
    cupy.get_default_memory_pool = fake_cupy.get_default_memory_pool
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    machine.tf32 = precision == "tf32"
    import gru_xp_cupy

    for name in ("numpy", "cupy"):  # the arrays are NumPy's
        monkeypatch.setitem(accelerators._found, name, accelerators.Found(gru_xp_cupy, "CUDA"))
    monkeypatch.setattr(timing, "_SAMPLE_SECONDS", 1e-9)
    monkeypatch.setattr(Event, "record", lambda self: setattr(self, "at", time.perf_counter()))
    sizes = (Size(3, 2, 8, 8), Size(2, 2, 6, 6 + 1))
    answer = child.run(Job(sizes, (), 1, (), True, "cupy", precision, 1))
    timed = [(each["kind"], each["size"].hidden, list(each["times"])) for each in answer["cases"]]
    without = ["gru_xp", "gru_xp portable"]
    names = without
    if capability == "80":  # where it is not on by itself; 7 numbers are no multiple of 16 bytes
        names = ["gru_xp", "gru_xp persistent", "gru_xp portable"]
    assert timed == [
        *(("forward", 8, names), ("training", 8, names)),
        *(("forward", 7, without), ("training", 7, without)),
    ]
    assert answer["notes"] == []
    expected = [each.get("expected_us_per_step") for each in answer["cases"]]
    by_model = gru_xp_cupy.expected_step(2, 8, "float16" if precision == "float16" else "float32")
    assert expected[:2] == [by_model["forward"], by_model["forward"] + by_model["backward"]]
    launched = [each.split(",")[0].split("<")[0] for each in machine.launched]
    tile = "Scalar" if precision == "float32" else "Tensor"
    assert {f"persistent_forward {tile}", f"persistent_backward {tile}"} <= set(launched)
    assert any(each.startswith("forward_gates") for each in launched)
