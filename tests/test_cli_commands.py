"""The commands: what they print, where, and with which exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

for name in ("click", "filelock", "matplotlib", "rich", "safetensors", "threadpoolctl"):
    pytest.importorskip(name, reason="the command line is the extra gru-xp[cli]")

import gru_xp  # noqa: E402
from gru_xp import checking, cli  # noqa: E402
from gru_xp.arrays import libraries  # noqa: E402
from gru_xp.core import accelerators  # noqa: E402
from gru_xp.training import checkpoint, session  # noqa: E402

TINY = ("--hidden-size", "8", "--steps", "10", "--batch-size", "3", "--seq-len", "5")


class Ran(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in an empty folder that has one text."""
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("the quick brown fox jumps over the lazy dog; " * 30)

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["gru-xp", *arguments])
        return Ran(cli.main(), *capsys.readouterr())

    return run


@pytest.fixture
def trained(run: Run) -> Run:
    assert run("train", "text", *TINY).status == 0
    return run


def test_train_ends_with_its_result_a_sample_and_the_files(run: Run) -> None:
    ran = run("train", "text", *TINY)
    assert ran.status == 0
    assert ran.out.startswith("backend numpy; ")
    assert "no GPU" not in ran.out  # which nobody has asked for
    for word in ("this GRU", "gzip", "bz2", "xz", "a sample", "held out", "gru-xp-model"):
        assert word in ran.out
    assert "step 10/10: " in ran.err
    for word in ("bits/character", "characters/s", "s left"):
        assert word in ran.err
    folder = Path("gru-xp-model")
    files = [".lock", "checkpoint.safetensors", "config.json", "loss.png"]
    assert sorted(os.listdir(folder)) == files
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((folder / "config.json").read_text())
    assert config["hidden_size"] == 8
    assert config["texts"] == [str(Path("text").resolve())]


def test_a_model_of_layers_with_dropout_trains_and_writes(run: Run) -> None:
    ran = run("train", "text", *TINY, "--layers", "2", "--dropout", "0.25")
    assert ran.status == 0
    assert "GRU with 2 x 8 units" in ran.out
    kept = checkpoint.load(Path("gru-xp-model"))
    assert (kept.config.layers, kept.config.dropout) == (2, 0.25)
    assert kept.arrays["model.gru.weight_ih_l1"].shape == (24, 8)
    assert len(run("sample", "--length", "20").out) == 21  # and a newline


def test_a_run_in_16_bits_trains_resumes_and_writes(run: Run) -> None:
    ran = run("train", "text", *TINY, "--dtype", "float16", "--backend", "numpy")
    assert ran.status == 0
    assert "weights in float16" in ran.out
    assert checkpoint.load(Path("gru-xp-model")).config.dtype == "float16"
    assert run("train", "--resume", "--dtype", "float16").status == 0
    refused = run("train", "--resume", "--dtype", "float32")
    assert refused.status == 2
    assert "dtype float16, not float32" in refused.err
    ran = run("sample", "--length", "20")
    assert ran.status == 0
    assert len(ran.out) == 21
    assert "lacks" not in ran.err


def test_sample_says_where_the_backend_lacks_the_runs_dtype(run: Run) -> None:
    if libraries.unusable("torch"):
        pytest.skip(libraries.unusable("torch"))
    assert run("train", "text", *TINY, "--dtype", "bfloat16", "--backend", "torch").status == 0
    ran = run("sample", "--length", "20", "--backend", "numpy")
    assert ran.status == 0
    assert len(ran.out) == 21
    assert "numpy has no bfloat16; float32 is used instead" in ran.err
    assert "lacks" not in run("sample", "--length", "20", "--backend", "torch").err


def test_the_reported_figure_is_the_models(trained: Run) -> None:
    kept = checkpoint.load(Path("gru-xp-model"))
    _, bits = kept.history("held_out", columns=2)
    assert f"this GRU  {bits[-1]:.3f}\n" in trained("train", "--resume").out


def test_a_folder_with_a_model_needs_resume_or_overwrite(trained: Run) -> None:
    refused = trained("train", "text", *TINY)
    assert refused.status == 2
    assert "--resume" in refused.err
    assert "--overwrite" in refused.err
    assert trained("train", "text", *TINY, "--seed", "1", "--overwrite").status == 0
    assert checkpoint.load(Path("gru-xp-model")).config.seed == 1


def test_resuming_a_finished_run_prints_its_end_again(run: Run) -> None:
    first = run("train", "text", *TINY)
    again = run("train", "--resume")
    assert again.status == 0
    end = first.out[first.out.index("\nbits per character") :]
    assert again.out.endswith(end)
    assert again.out.startswith("the run in gru-xp-model is complete after 10 steps\n")


def test_a_finished_run_is_not_written_again_nor_made_longer(trained: Run) -> None:
    folder = Path("gru-xp-model")
    before = {each: each.stat().st_mtime_ns for each in folder.iterdir() if each.name[0] != "."}
    assert trained("train", "--resume").status == 0
    longer = trained("train", "--resume", "--steps", "20")
    assert longer.status == 2
    assert "is complete: its learning rate has reached zero after 10 steps" in longer.err
    assert "start a new run with --steps 20" in longer.err
    after = {each: each.stat().st_mtime_ns for each in folder.iterdir() if each.name[0] != "."}
    assert after == before


def test_ctrl_c_saves_and_says_how_to_go_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    step = session.Trainer.step

    def interrupted_step(trainer: session.Trainer) -> float:
        if trainer.steps_done == 3:
            signal.raise_signal(signal.SIGINT)
        return step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(session.Trainer, "step", interrupted_step)
        stopped = run("train", "text", *TINY, "--out", "parts")
    assert stopped.status == 130
    assert "stopped after step 4 of 10" in stopped.out
    hint = "gru-xp train --resume --out parts"
    assert hint in stopped.out
    assert "loss.png" in os.listdir("parts")
    resumed = run(*hint.split()[1:])
    assert resumed.status == 0
    assert "(as in the run)" in resumed.out.splitlines()[0]


def test_options_of_a_resumed_run_must_be_its_own(trained: Run) -> None:
    assert trained("train", "text", *TINY, "--resume").status == 0
    refused = trained("train", "--resume", "--lr", "0.1")
    assert refused.status == 2
    assert "expected learning rate 0.012, as in the run in gru-xp-model, got 0.1" in refused.err


def test_sample_goes_on_from_the_prompt(trained: Run) -> None:
    ran = trained("sample", "--prompt", "the q", "--length", "20", "--seed", "3")
    assert ran.status == 0
    assert ran.out.startswith("the q")
    assert len(ran.out) == len("the q") + 20 + len("\n")
    assert ran.err.startswith("backend numpy; ")
    assert ran == trained("sample", "--prompt", "the q", "--length", "20", "--seed", "3")
    assert ran.out != trained("sample", "--prompt", "the q", "--length", "20", "--seed", "4").out


def test_sample_tells_which_characters_the_model_does_not_know(trained: Run) -> None:
    ran = trained("sample", "--prompt", "ж the", "--length", "5")
    assert ran.status == 0
    assert "characters not in the model's vocabulary: '\\u0436'" in ran.err


def test_sample_at_temperature_zero_needs_no_seed(trained: Run) -> None:
    assert trained("sample", "--temperature", "0") == trained("sample", "--temperature", "0")


def test_info_tells_versions_backends_devices_and_threads(run: Run) -> None:
    ran = run("info")
    assert ran.status == 0
    for each in gru_xp.backends():
        assert f"backend {each.name}" in ran.out
        assert all(device in ran.out for device in each.devices)
        assert each.reason in ran.out
    assert "None" not in ran.out
    for word in ("python 3", "gru-xp ", "threadpoolctl", "recurrence: ", "auto is", "threads"):
        assert word in ran.out


def test_info_tells_what_an_accelerator_explains(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    explaining = SimpleNamespace(explain=lambda: "small calls: this way\nlarge calls: that way")
    found = accelerators.Found(explaining, "made up")
    monkeypatch.setitem(accelerators._found, "numpy", found)
    with gru_xp.use_accelerators(True):
        told = run("info").out
    assert "recurrence: made up\n    small calls: this way\n    large calls: that way\n" in told
    with gru_xp.use_accelerators(False):
        assert "small calls" not in run("info").out


def test_info_tells_the_limits_of_threads(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert "OMP_NUM_THREADS=7" in run("info").out


def test_check_passes_here(run: Run) -> None:
    ran = run("check", "--backend", "numpy")
    assert ran.status == 0
    assert ran.out.startswith("backend numpy: asked for by name\n")
    rows = [line for line in ran.out.splitlines() if "float" in line]
    assert len(rows) >= 2
    assert all(row.startswith("numpy") and row.endswith("ok") for row in rows)


def test_check_tells_which_backends_it_checks_and_why_not_the_others(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(checking, "check_backends", lambda names: asked.append(names) or [])
    ran = run("check")
    assert asked == [None]
    for name in libraries.NAMESPACES:
        assert f"backend {name}: {libraries.unusable(name) or 'usable'}" in ran.out


def test_a_failed_check_has_status_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = float("nan")
    results = [
        checking.CheckResult("numpy", "cpu", "float64", "portable", 0, 0, 1e-9, True, ""),
        checking.CheckResult("cupy", "0", "float32", "fast", nan, nan, 1e-5, False, "Odd: no"),
    ]
    monkeypatch.setattr(checking, "check_backends", lambda names: results)
    ran = run("check")
    assert ran.status == 1
    assert ran.out.splitlines()[-1].endswith("FAILED Odd: no")


def test_help_and_version_are_no_errors(run: Run) -> None:
    for arguments in (["--help"], ["train", "--help"], ["--version"]):
        ran = run(*arguments)
        assert ran.status == 0
        assert not ran.err
    assert "gru-xp" in ran.out


def test_on_a_terminal_a_bar_shows_the_progress(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    ran = run("train", "text", *TINY)
    assert ran.status == 0
    assert "10/10" in ran.err
    for word in ("bits/character", "characters/s", "s left"):
        assert word in ran.err
    assert "step 10/10" not in ran.err


def test_the_reason_for_no_gpu_is_told_once_where_one_was_asked_for(run: Run) -> None:
    _, reason = libraries.resolve("auto")
    ran = run("train", "text", *TINY, "--backend", "auto")
    assert (ran.out + ran.err).count(reason) == 1
    ran = run("sample", "--length", "5", "--backend", "auto")
    assert (ran.out + ran.err).count(reason) == 1
    ran = run("sample", "--length", "5")
    assert reason not in ran.out + ran.err
    assert run("info").out.count(libraries.unusable("cupy") or "nonesuch") <= 1


def test_threads_are_limited_while_it_trains(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    step = session.Trainer.step

    def counted(trainer: session.Trainer) -> float:
        seen.append(gru_xp.get_num_threads())
        return step(trainer)

    before = gru_xp.get_num_threads()
    monkeypatch.setattr(session.Trainer, "step", counted)
    assert run("train", "text", *TINY, "--threads", "1").status == 0
    assert set(seen) == {1}
    assert gru_xp.get_num_threads() == before


def test_the_memory_is_told_and_a_model_too_large_for_it_refused_at_once(run: Run) -> None:
    start = time.monotonic()
    ran = run("train", "text", "--hidden-size", "1000000")
    assert time.monotonic() - start < 5
    assert ran.status == 2
    assert len(ran.err.splitlines()) == 1
    assert re.search(r"would need about \d+ TB of memory, but the machine has \d+ .B. ", ran.err)
    assert not Path("gru-xp-model").exists()
    assert re.search(r"; about \d+ .B of memory\n", run("train", "text", *TINY).out)


def test_the_time_left_is_not_that_of_the_first_step(run: Run) -> None:
    ran = run("train", "text", *TINY)
    first, *_, last = ran.err.splitlines()
    assert "s left" not in first
    assert "s left" in last


def test_a_clock_that_does_not_tick_ends_no_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: 1.0)
    assert run("train", "text", *TINY).status == 0


@pytest.mark.parametrize("arguments", [("--out", ""), ("--out", "text"), ("--out", "text/deeper")])
def test_a_folder_that_cannot_be_one_is_told_in_a_line(
    run: Run, arguments: tuple[str, ...]
) -> None:
    before = sorted(os.listdir())
    ran = run("train", "text", *TINY, *arguments)
    assert ran.status == 2
    assert len(ran.err.splitlines()) == 1
    assert (
        "expected a path, got an empty string" in ran.err
        or "expected a folder, got the file" in ran.err
    )
    assert sorted(os.listdir()) == before
