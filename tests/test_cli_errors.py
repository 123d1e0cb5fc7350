"""Bad input: one clear line on stderr, exit status 2, no traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

for name in ("click", "filelock", "matplotlib", "rich", "safetensors", "threadpoolctl"):
    pytest.importorskip(name, reason="the command line is the extra gru-xp[cli]")

from gru_xp import cli  # noqa: E402
from gru_xp.arrays import libraries  # noqa: E402
from gru_xp.training import checkpoint  # noqa: E402
from gru_xp.training.model import CharModel  # noqa: E402

Refused = Callable[..., str]


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refused:
    """Run the command line in a folder of odd files; returns what its one error line says."""
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("the quick brown fox jumps over the lazy dog; " * 30)
    Path("empty").touch()
    Path("short").write_text("abc")
    Path("bytes").write_bytes(b"\xff\xfe\x00a" * 900)
    Path("zeros").write_bytes(b"\0" * 900)
    Path("folder").mkdir()
    if os.name != "nt":  # where links need a privilege
        Path("loop").symlink_to("loop")
    Path("odd").mkdir()
    Path("odd", checkpoint.FILE).write_bytes(b"no checkpoint")

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["gru-xp", *arguments])
        status = cli.main()
        captured = capsys.readouterr()
        assert status == 2
        assert captured.out == ""
        lines = captured.err.splitlines()
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("gru-xp: error: ")
        return lines[0].removeprefix("gru-xp: error: ")

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train nowhere", "nowhere"),
        ("train empty", "empty, got an empty or blank file"),
        ("train short", "expected a training text of at least"),
        ("train text --batch-size 300", "expected a training text of at least"),
        ("train bytes", "bytes, got invalid start byte at byte "),
        ("train zeros", "zeros, got NUL characters"),
        ("train folder", "folder is not a regular file"),
        ("train loop", "loop"),
        ("train text --out text", "text"),
        ("train text --out text/below", "text"),
        ("train text --resume", "got gru-xp-model, which"),
        ("train --resume --out odd", "not a valid checkpoint"),
        ("train --resume --overwrite", "cannot be combined"),
        ("sample", "got gru-xp-model, which"),
        ("sample --model odd", "not a valid checkpoint"),
        ("sample --model text", "got text, which has no"),
        ("train --hidden-size", "requires an argument"),
        ("train --wrong 1", "wrong"),
        ("wrong", "wrong"),
        ("", "Missing command"),
        ("info more", "more"),
        ("check --backend wrong", "wrong"),
        ("train --backend wrong", "wrong"),
        ("train --dtype wrong", "wrong"),
        (
            "train text --batch-size 3 --backend numpy --dtype bfloat16",
            "numpy has no dtype bfloat16",
        ),
    ],
)
def test_what_cannot_be_used_is_named(refused: Refused, arguments: str, words: str) -> None:
    assert words in refused(*arguments.split())


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x", "1.5", "", "9" * 400])
@pytest.mark.parametrize(
    "option",
    ["train --hidden-size", "train --layers", "train --steps", "train --batch-size",
     "train --seq-len", "sample --length"],
)  # fmt: skip
def test_a_size_must_be_a_positive_integer(refused: Refused, option: str, value: str) -> None:
    assert option.split()[1] in refused(*option.split(), value)


@pytest.mark.parametrize("value", ["0", "-0.1", "nan", "inf", "-inf", "x", "", "1e999"])
def test_a_learning_rate_must_be_a_positive_number(refused: Refused, value: str) -> None:
    assert "--lr" in refused("train", "--lr", value)


@pytest.mark.parametrize("value", ["-0.1", "1", "1.5", "nan", "inf", "x"])
def test_a_dropout_must_be_a_share(refused: Refused, value: str) -> None:
    assert "--dropout" in refused("train", "--dropout", value)


@pytest.mark.parametrize("value", ["-0.1", "nan", "inf", "x"])
def test_a_temperature_must_be_a_number_from_zero_on(refused: Refused, value: str) -> None:
    assert "--temperature" in refused("sample", "--temperature", value)


@pytest.mark.parametrize("command", ["train", "sample"])
@pytest.mark.parametrize("value", ["-1", "x", "0.5"])
def test_a_seed_must_be_an_integer_from_zero_on(refused: Refused, command: str, value: str) -> None:
    assert "--seed" in refused(command, "--seed", value)


@pytest.mark.parametrize("command", ["train", "sample", "check"])
def test_a_backend_that_is_not_here_is_told_with_the_reason(
    refused: Refused, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "unusable", lambda name: f"{name} is not\ninstalled: why")
    assert refused(command, "--backend", "cupy") == "cupy is not installed: why"


def test_too_large_a_model_for_the_memory_is_told(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*arguments: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(CharModel, "initial", too_large)
    assert "not enough memory" in refused("train", "text", "--batch-size", "3")


def test_a_loss_that_is_no_number_is_told(
    monkeypatch: pytest.MonkeyPatch, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ["--hidden-size", "8", "--steps", "50", "--batch-size", "3", "--seq-len", "5"]
    monkeypatch.setattr(sys, "argv", ["gru-xp", "train", "text", *tiny, "--lr", "1e38"])
    assert cli.main() == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "Try a smaller learning rate. No checkpoint has been saved" in last
    assert not Path("gru-xp-model").exists()


def test_a_chunk_longer_than_the_text_is_told_before_its_memory(refused: Refused) -> None:
    told = refused("train", "text", "--batch-size", "100000", "--seq-len", "1000000")
    assert told.startswith("expected a training text of at least 100000000001 characters")


def test_weights_that_are_not_finite_replace_no_checkpoint(
    monkeypatch: pytest.MonkeyPatch, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ["--hidden-size", "8", "--batch-size", "4", "--seq-len", "8"]
    good = ["gru-xp", "train", "text", *tiny, "--steps", "3"]
    monkeypatch.setattr(sys, "argv", good)
    assert cli.main() == 0
    before = (Path("gru-xp-model") / checkpoint.FILE).read_bytes()
    capsys.readouterr()
    for odd in (["--lr", "1e38", "--steps", "1"], ["--lr", "1e5", "--dtype", "float16"]):
        monkeypatch.setattr(sys, "argv", [*good, *odd, "--overwrite"])
        assert cli.main() == 2
        lines = capsys.readouterr().err.splitlines()
        assert "finite" in lines[-1]
        assert not any("Warning" in line for line in lines)
        assert (Path("gru-xp-model") / checkpoint.FILE).read_bytes() == before
