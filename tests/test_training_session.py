"""A run on disk: begun, saved, refused, stopped and continued."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gru_xp.bench.memory import peak
from gru_xp.core.accelerators import find
from gru_xp.training import checkpoint, session
from gru_xp.training.config import TrainingConfig
from gru_xp.training.errors import CheckpointError, SessionError, TextError

pytest.importorskip("safetensors", reason="checkpoints are safetensors files")


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    path = tmp_path / "text"
    path.write_text("the quick brown fox jumps over the lazy dog; " * 30)
    return TrainingConfig(
        hidden_size=8, steps=10, batch_size=3, seq_len=5, texts=(str(path),), seed=4
    )


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def stop_after(steps: int):  # type: ignore[no-untyped-def]
    """Make a callback that sends Ctrl-C to ourselves after some steps."""
    seen = []

    def on_step(bits: float) -> None:
        seen.append(bits)
        if len(seen) == steps:
            signal.raise_signal(signal.SIGINT)

    return on_step


def ignore(bits: float) -> None:
    pass


def test_ctrl_c_and_resume_reach_the_weights_of_an_uninterrupted_run(
    config: TrainingConfig, out: Path, tmp_path: Path
) -> None:
    whole = session.begin(config, tmp_path / "whole", overwrite=False)
    session.run(whole, tmp_path / "whole", on_step=ignore)
    assert whole.finished

    first = session.begin(config, out, overwrite=False)
    session.run(first, out, on_step=stop_after(4))
    assert first.steps_done == 4
    second = session.resume(out, {})
    assert second.steps_done == 4
    session.run(second, out, on_step=ignore)

    wanted = (tmp_path / "whole" / checkpoint.FILE).read_bytes()
    assert (out / checkpoint.FILE).read_bytes() == wanted


def test_a_second_ctrl_c_is_an_ordinary_one(config: TrainingConfig, out: Path) -> None:
    def twice(bits: float) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    trainer = session.begin(config, out, overwrite=False)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            session.run(trainer, out, on_step=twice)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_is_saved_as_it_goes(
    config: TrainingConfig, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "SAVE_SECONDS", 0.0)
    trainer = session.begin(config, out, overwrite=False)
    assert not checkpoint.exists(out)
    saved = []

    def note(bits: float) -> None:
        if checkpoint.exists(out):
            saved.append(len(checkpoint.load(out).arrays["losses"]))

    session.run(trainer, out, on_step=note)
    assert saved == list(range(1, 10))


def test_a_finished_run_is_left_as_it_is(config: TrainingConfig, out: Path) -> None:
    trainer = session.begin(config, out, overwrite=False)
    session.run(trainer, out, on_step=ignore)
    written = (out / checkpoint.FILE).stat().st_mtime_ns
    again = session.resume(out, {})
    assert again.finished
    assert again.held_out == trainer.held_out
    session.run(again, out, on_step=ignore)
    assert (out / checkpoint.FILE).stat().st_mtime_ns == written


def test_a_model_is_replaced_only_when_asked_and_only_by_another(
    config: TrainingConfig, out: Path
) -> None:
    session.run(session.begin(config, out, overwrite=False), out, on_step=ignore)
    old = (out / checkpoint.FILE).read_bytes()
    with pytest.raises(SessionError, match=r"already contains a model.*--resume.*--overwrite"):
        session.begin(config, out, overwrite=False)
    trainer = session.begin(replace(config, seed=5), out, overwrite=True)
    assert (out / checkpoint.FILE).read_bytes() == old
    session.run(trainer, out, on_step=ignore)
    assert checkpoint.load(out).config.seed == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", 9),
        ("steps", 20),
        ("batch_size", 2),
        ("seq_len", 6),
        ("learning_rate", 0.1),
        ("seed", 5),
        ("backend", "torch"),
        ("dtype", "float16"),
        ("texts", ("/elsewhere",)),
    ],
)
def test_an_option_that_contradicts_the_run_is_refused(
    config: TrainingConfig, out: Path, name: str, value: object
) -> None:
    session.run(session.begin(config, out, overwrite=False), out, on_step=stop_after(1))
    assert session.resume(out, {name: getattr(config, name)}).steps_done == 1
    with pytest.raises(SessionError, match=name.replace("_", " ")):
        session.resume(out, {name: value})


@pytest.mark.parametrize("name", ["config.json", "loss.png"])
def test_a_file_of_the_user_is_not_replaced(config: TrainingConfig, out: Path, name: str) -> None:
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(SessionError, match=f"already contains a file {name}, .*--overwrite"):
        session.begin(config, out, overwrite=False)
    assert (out / name).read_text() == "mine"
    session.run(session.begin(config, out, overwrite=True), out, on_step=ignore)
    assert checkpoint.load(out)


def test_a_run_that_is_stopped_before_its_first_step_leaves_the_old_model(
    config: TrainingConfig, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.run(session.begin(config, out, overwrite=False), out, on_step=ignore)
    old = (out / checkpoint.FILE).read_bytes()
    trainer = session.begin(replace(config, seed=5), out, overwrite=True)

    @contextmanager
    def stopped() -> Iterator[Callable[[], int]]:
        yield lambda: signal.SIGINT

    monkeypatch.setattr(session, "_signals", stopped)
    assert session.run(trainer, out, on_step=ignore) == signal.SIGINT
    assert (out / checkpoint.FILE).read_bytes() == old


def test_a_finished_run_needs_no_folder_that_can_be_written_to(
    config: TrainingConfig, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.run(session.begin(config, out, overwrite=False), out, on_step=ignore)

    def fail(path: Path, /) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(session, "make_writable_folder", fail)
    assert session.resume(out, {}).finished


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("hidden_size", 0, "an integer from 1 to"),
        ("batch_size", 2.0, "an integer from 1 to"),
        ("layers", True, "an integer from 1 to"),
        ("dropout", 1.0, "a number from 0 to less than 1"),
        ("dropout", "0.5", "a number from 0 to less than 1"),
        ("learning_rate", -0.1, "a positive number"),
        ("learning_rate", float("nan"), "a positive number"),
        ("seed", 1 << 200, "an integer below"),
        ("backend", "auto", "numpy or cupy"),
        ("dtype", "float8", "float16 or|float32 or"),
        ("text_sha256", None, "a string"),
        ("texts", "text", "a sequence of paths"),
        ("texts", ("a\0b",), "a sequence of paths"),
    ],
)
def test_a_configuration_is_checked_when_it_is_made(field: str, value: Any, expected: str) -> None:
    name = field.replace("_", " ")
    with pytest.raises(ValueError, match=f"an invalid {name}: expected {expected}.*, got "):
        TrainingConfig(**{field: value})


def test_a_configuration_holds_what_its_file_can_hold() -> None:
    config = TrainingConfig(
        hidden_size=np.int64(8),  # type: ignore[arg-type]
        dropout=0,
        learning_rate=1,
        texts=[Path("a"), "b"],  # type: ignore[arg-type]
    )
    assert TrainingConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_text_that_has_changed_is_refused(config: TrainingConfig, out: Path) -> None:
    session.run(session.begin(config, out, overwrite=False), out, on_step=stop_after(1))
    Path(config.texts[0]).write_text("something else " * 90)
    with pytest.raises(
        SessionError, match=r"expected the text with which the run .* got a different text"
    ):
        session.resume(out, {})


def test_there_must_be_a_run_to_resume(out: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a folder with a model"):
        session.resume(out, {})


def test_a_text_that_cannot_be_used_leaves_no_folder(config: TrainingConfig, out: Path) -> None:
    with pytest.raises(TextError):
        session.begin(replace(config, batch_size=10_000), out, overwrite=False)
    with pytest.raises(FileNotFoundError):
        session.begin(replace(config, texts=("/nowhere",)), out, overwrite=False)
    assert not out.exists()


def test_seeds_lead_to_different_weights(config: TrainingConfig, out: Path) -> None:
    one = session.begin(config, out, overwrite=False)
    two = session.begin(replace(config, seed=5), out, overwrite=False)
    assert np.any(one.model.params["output.weight"] != two.model.params["output.weight"])


MEASURED = """
from gru_xp.bench.memory import peak
from gru_xp.training import memory
from gru_xp.training.config import TrainingConfig
from gru_xp.training.text import Corpus
from gru_xp.training.trainer import Trainer

many = "".join(chr(0x4E00 + k) for k in range(6000))
config = TrainingConfig(**{**TrainingConfig().to_json(), "steps": 1, "texts": (), **CHANGES})
before = peak()
trainer = Trainer(config, Corpus(TEXT * 3, many[:5000]))
trainer.step()
trainer.checkpoint()
print((peak() - before) / memory.needed(config, len(trainer.vocabulary)))
"""


@pytest.mark.parametrize(
    ("text_", "changes"),
    [
        ("many", {"batch_size": 64, "seq_len": 128, "hidden_size": 32}),
        ("many", {"batch_size": 1, "seq_len": 16, "hidden_size": 128}),
        ("many[:90] * 300", {"hidden_size": 512, "batch_size": 128, "seq_len": 128}),
    ],
    ids=["many characters", "a small chunk", "many states"],
)
def test_the_memory_told_is_that_which_is_taken(text_: str, changes: dict[str, Any]) -> None:
    """In a process of its own, whose peak nothing else has raised."""
    if peak() is None:
        pytest.skip("this platform does not tell a process's peak memory")
    script = MEASURED.replace("CHANGES", repr(changes)).replace("TEXT", f"({text_})")
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
    )
    # The portable loop's intermediate results are not counted.
    most = 1.6 if find("numpy").module else 3
    assert 0.4 < float(done.stdout) < most, done.stdout
