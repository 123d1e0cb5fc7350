"""The command as a process: signals, kills, pipes, and what it imports."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

for name in ("click", "filelock", "matplotlib", "rich", "safetensors", "threadpoolctl"):
    pytest.importorskip(name, reason="the command line is the extra gru-xp[cli]")

from gru_xp.training import checkpoint  # noqa: E402

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and pipes")

# nohup has children ignore SIGHUP.
MAIN = (
    "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); "
    "from gru_xp.cli import main; sys.exit(main())"
)
KILLS = int(os.environ.get("GRU_XP_KILLS", "12"))
"""Of one run, one after another; GRU_XP_KILLS=1000 takes an hour."""
SMALL = ("--hidden-size", "16", "--batch-size", "3", "--seq-len", "5")


def start(*arguments: str, code: str = MAIN, **options: Any) -> subprocess.Popen[str]:
    # Unbuffered, a missing flush would not show.
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"}
    # An accelerator that cannot be loaded is told of elsewhere; stderr is looked at here.
    environment["PYTHONWARNINGS"] = "ignore:gru_xp:RuntimeWarning"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text"
    path.write_text("the quick brown fox jumps over the lazy dog; " * 30)
    return str(path)


def test_ctrl_c_keeps_a_checkpoint_that_resume_ends_as_if_never_stopped(
    text: str, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    steps = ("--steps", "2500")
    running = start("train", text, *SMALL, *steps, "--out", str(parts))
    assert running.stderr is not None
    running.stderr.readline()  # the first step is made
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "Traceback" not in err
    assert f"gru-xp train --resume --out {parts}" in out
    made = len(checkpoint.load(parts).arrays["losses"])
    assert 0 < made < 2500

    resumed = start("train", "--resume", "--out", str(parts))
    straight = start("train", text, *SMALL, *steps, "--out", str(whole))
    for each in (resumed, straight):
        _, err = each.communicate(timeout=60)
        assert each.returncode == 0, err
    one, other = ((out / checkpoint.FILE).read_bytes() for out in (whole, parts))
    assert one == other


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(text: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    # Saved after every step, so that a kill is likely to come in the middle of a save.
    code = f"from gru_xp.training import session; session.SAVE_SECONDS = 0.0; {MAIN}"
    seed = random.randrange(10**6)
    moments = random.Random(seed)
    made = []
    for kill in range(KILLS):
        arguments = ("train", "--resume") if made else ("train", text, *SMALL, "--steps", "100000")
        running = start(*arguments, "--out", str(out), code=code)
        assert running.stderr is not None
        if kill % 4:  # some come before the first step
            running.stderr.readline()
        time.sleep(moments.uniform(0, 0.2))
        # Python itself, and NumPy, may make something else of a Ctrl-C while they start.
        signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[: 3 if kill % 4 else 2]
        number = moments.choice(signals)
        running.send_signal(number)
        _, err = running.communicate(timeout=60)
        assert running.returncode in (-number, 128 + number), (seed, err)
        if checkpoint.exists(out):
            made.append(len(checkpoint.load(out).arrays["losses"]))
    assert made, f"seed {seed}"
    assert made == sorted(made), f"seed {seed}"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_saves_and_stops_with_its_status(text: str, tmp_path: Path, name: str) -> None:
    number, out = getattr(signal, name), tmp_path / "out"
    running = start("train", text, *SMALL, "--steps", "100000", "--out", str(out))
    assert running.stderr is not None
    running.stderr.readline()
    running.send_signal(number)
    told, err = running.communicate(timeout=60)
    assert running.returncode == 128 + number, err
    assert "Traceback" not in err
    assert ("gru-xp train --resume" in told) == (name != "SIGHUP")  # whose terminal is gone
    assert len(checkpoint.load(out).arrays["losses"]) > 0


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_that_comes_twice_does_not_end_the_save(
    text: str, tmp_path: Path, name: str
) -> None:
    """As when a terminal is closed: the shell sends one, and the kernel another."""
    number, out = getattr(signal, name), tmp_path / "out"
    running = start("train", text, *SMALL, "--steps", "100000", "--out", str(out))
    assert running.stderr is not None
    running.stderr.readline()
    for _ in range(3):
        running.send_signal(number)
        time.sleep(0.0005)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 128 + number, err
    assert len(checkpoint.load(out).arrays["losses"]) > 0


def test_a_hangup_that_is_ignored_stays_so(text: str, tmp_path: Path) -> None:
    code = MAIN.replace("SIG_DFL", "SIG_IGN")
    arguments = ("train", text, *SMALL, "--steps", "5000", "--out", str(tmp_path / "out"))
    running = start(*arguments, code=code)
    assert running.stderr is not None
    running.stderr.readline()
    running.send_signal(signal.SIGHUP)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 0, err


def test_two_trainings_into_one_folder_the_second_is_told(text: str, tmp_path: Path) -> None:
    arguments = ("train", text, *SMALL, "--steps", "1000000", "--out", str(tmp_path / "out"))
    first = start(*arguments)
    assert first.stderr is not None
    first.stderr.readline()
    for more in ((), ("--overwrite",)):
        second = start(*arguments, *more)
        out, err = second.communicate(timeout=60)
        assert (second.returncode, out) == (2, "")
        assert err.startswith("gru-xp: error: another process is writing to ")
        assert len(err.splitlines()) == 1
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert first.returncode == 128 + signal.SIGTERM


@pytest.fixture
def model(text: str, tmp_path: Path) -> str:
    out = str(tmp_path / "model")
    _, err = start("train", text, *SMALL, "--steps", "5", "--out", out).communicate(timeout=60)
    assert checkpoint.exists(Path(out)), err
    return out


def test_each_character_of_a_sample_is_shown_at_once(model: str) -> None:
    code = (
        "import sys\n"
        "from gru_xp.training import sampling\n"
        "def sample(*arguments, **options):\n"
        "    yield 'a'\n"
        "    sys.stdin.read()\n"  # until the parent closes it, having seen the a
        "    yield 'b'\n"
        f"sampling.sample = sample\n{MAIN}"
    )
    with start("sample", "--model", model, code=code, stdin=subprocess.PIPE) as running:
        assert running.stdout is not None
        ready, _, _ = select.select([running.stdout], [], [], 60)
        first = os.read(running.stdout.fileno(), 9) if ready else b""
        rest, _ = running.communicate(timeout=60)
    assert (first, rest) == (b"a", "b\n")


def test_a_reader_that_has_seen_enough_ends_the_sample_quietly(model: str) -> None:
    with start("sample", "--model", model, "--length", "1000000") as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.read(10)  # all of it would take minutes
        running.stdout.close()
        lines = running.stderr.read().splitlines()
    assert running.returncode == 1
    assert len(lines) == 1, lines
    assert lines[0].startswith("backend ")


def test_a_reader_that_is_gone_before_the_first_line_is_no_error() -> None:
    with start("check", "--backend", "numpy") as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        err = running.stderr.read()
    assert (running.returncode, err) == (1, "")


def test_importing_the_package_imports_nothing_of_the_command_line() -> None:
    code = (
        "import sys, gru_xp, gru_xp.training.trainer; "
        "print([name for name in ('click', 'rich', 'matplotlib', 'safetensors', 'threadpoolctl', "
        "'torch', 'jax', 'cupy') if name in sys.modules])"
    )
    out, err = start(code=code).communicate(timeout=60)
    assert out == "[]\n", err


@pytest.mark.parametrize("name", ["click", "safetensors"])
def test_without_the_extra_the_command_says_what_to_install(name: str) -> None:
    code = f"import sys; sys.modules['{name}'] = None; {MAIN}"
    running = start("info", code=code)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 2
    assert out == ""
    assert (
        err == "gru-xp: error: the command line requires more packages: pip install 'gru-xp[cli]'\n"
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full stands for a full disk")
def test_a_full_disk_is_told_in_one_line() -> None:
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-c", MAIN, "--version"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert ran.returncode == 2
    assert ran.stderr == "gru-xp: error: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("redirected", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_error(redirected: str) -> None:
    ran = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -c "$0" --version {redirected}', MAIN],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("unbuffered", [False, True])
def test_ctrl_c_has_its_status_even_if_the_reader_of_the_output_has_gone(
    text: str, tmp_path: Path, unbuffered: bool
) -> None:
    """As in ``gru-xp train | tee``, where Ctrl-C ends tee first."""
    out = tmp_path / "out"
    code = MAIN
    if unbuffered:
        code = f"import os, sys; sys.stdout = os.fdopen(os.dup(1), 'w', buffering=1); {MAIN}"
    arguments = ("train", text, *SMALL, "--steps", "1000000", "--out", str(out))
    with start(*arguments, code=code) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stderr.readline()
        running.stdout.close()
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=60) == 130
        assert "Traceback" not in running.stderr.read()
    assert checkpoint.exists(out)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full stands for a full disk")
def test_a_run_goes_on_if_its_progress_cannot_be_written(text: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-c", MAIN, "train", text, *SMALL, "--steps", "5", "--out", str(out)],
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            check=False,
            timeout=60,
        )
    assert ran.returncode == 0
    assert "files in" in ran.stdout
    assert len(checkpoint.load(out).arrays["losses"]) == 5


def test_a_plot_that_fails_is_told_after_the_training(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    out = tmp_path / "my model"
    running = start("train", text, *SMALL, "--steps", "5", "--out", str(out))
    told, err = running.communicate(timeout=60)
    assert running.returncode == 0
    assert "the loss curve was not plotted: " in err
    assert "'nonsense' is not a valid value for backend" in err
    assert "Traceback" not in err
    assert "loss.png" not in told
    assert told.endswith(f"gru-xp sample --model '{out}'\n")


def test_a_library_that_breaks_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jax.py").write_text("raise SystemExit('one\\n\\x1b[31mtwo')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told, err = start("info").communicate(timeout=60)
    assert r"fails to start: SystemExit: one\n\x1b[31mtwo" in told, err
    assert "processors: " in told


def command_of(process: str) -> str:
    """Return the command line of a process; empty if it has ended."""
    try:
        return Path("/proc", process, "cmdline").read_text()
    except OSError:
        return ""


@pytest.mark.skipif(
    not os.path.exists(f"/proc/self/task/{os.getpid()}/children"), reason="Linux tells the children"
)
def test_a_terminated_benchmark_leaves_no_process() -> None:
    arguments = ("bench", "--sizes", "1000x64x512x512", "--threads", "1", "--peers", "none")
    running = start(*arguments, start_new_session=True)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")

    def measuring() -> list[str]:  # there may be other children, such as one of platform's
        listed = children.read_text().split()
        return [each for each in listed if "gru_xp.bench.child" in command_of(each)]

    until = time.monotonic() + 60
    try:
        while not (listed := measuring()) and time.monotonic() < until:
            time.sleep(0.01)
        running.terminate()
        running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 143
    assert listed
    assert not any(Path("/proc", each).exists() for each in listed)
