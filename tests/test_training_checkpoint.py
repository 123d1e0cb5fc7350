"""The checkpoint's file: whole at any moment, read back exactly, refused in one line when odd."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from gru_xp import files
from gru_xp.training import checkpoint
from gru_xp.training.checkpoint import Checkpoint
from gru_xp.training.config import TrainingConfig
from gru_xp.training.errors import CheckpointError

pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

KEPT = Checkpoint(
    TrainingConfig(hidden_size=3, learning_rate=0.1 + 0.2, texts=("/a b", "/é")),
    '\n "x\\é𝛑',
    {
        "matrix": np.arange(6, dtype=np.float32).reshape(2, 3).T / 7,
        "losses": np.asarray([[1 / 3]], dtype=np.float64),
    },
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path, KEPT)
    return tmp_path / checkpoint.FILE


def test_what_is_saved_is_loaded(saved: Path) -> None:
    loaded = checkpoint.load(saved.parent)
    assert loaded.config == KEPT.config
    assert loaded.characters == KEPT.characters
    assert list(loaded.arrays) == sorted(KEPT.arrays)
    for name, array in KEPT.arrays.items():
        np.testing.assert_array_equal(loaded.arrays[name], array)
        assert loaded.arrays[name].dtype == array.dtype


def test_the_folder_holds_the_checkpoint_and_a_readable_configuration(saved: Path) -> None:
    assert sorted(os.listdir(saved.parent)) == [checkpoint.FILE, checkpoint.CONFIG_FILE]
    config = json.loads((saved.parent / checkpoint.CONFIG_FILE).read_text())
    assert TrainingConfig.from_json(config) == KEPT.config


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    assert not checkpoint.exists(tmp_path)
    with pytest.raises(CheckpointError, match="holds no model"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_file_that_is_cut_off_is_refused(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="no readable checkpoint") as error:
        checkpoint.load(saved.parent)
    assert str(saved) in str(error.value)


@pytest.mark.parametrize("data", [b"\x80\x04K\x01.", b"PK\x03\x04" * 50, b"{}" * 50])
def test_a_file_of_another_kind_is_refused(saved: Path, data: bytes) -> None:
    saved.write_bytes(data)
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        checkpoint.load(saved.parent)


def test_another_programs_safetensors_file_is_refused(saved: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(2)}, saved)
    with pytest.raises(CheckpointError, match="not a checkpoint of this version"):
        checkpoint.load(saved.parent)


@pytest.mark.parametrize(
    "config",
    [
        "{}",
        "[]",
        "{",
        json.dumps(TrainingConfig().to_json() | {"hidden_size": "3"}),
        json.dumps(TrainingConfig().to_json() | {"dtype": "float8"}),
    ],
    ids=["empty", "a list", "cut off", "a size in quotes", "an unknown dtype"],
)
def test_an_odd_configuration_is_refused(saved: Path, config: str) -> None:
    from safetensors.numpy import save_file

    metadata = {checkpoint._FORMAT: f'{{"config": {config}, "characters": "ab"}}'}
    save_file({"weight": np.zeros(2)}, saved, metadata)
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        checkpoint.load(saved.parent)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_on_the_way_leaves_the_old_file(
    saved: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(saved.parent, KEPT._replace(characters="new"))
    assert checkpoint.load(saved.parent).characters == KEPT.characters


def test_data_is_on_the_disk_before_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        calls.append("fsync")
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        calls.append(f"replace of {Path(source).read_bytes()!r}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    files.write_whole(tmp_path / "file", b"data")
    assert calls[:2] == ["fsync", "replace of b'data'"]
    assert os.name == "nt" or calls[2:] == ["fsync"]
    assert os.listdir(tmp_path) == ["file"]


def test_a_part_left_by_a_kill_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".file.part").write_bytes(b"much longer than what comes")
    files.write_whole(tmp_path / "file", b"data")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"data"


def test_a_folder_that_is_a_file_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        files.make_writable_folder(tmp_path / "file")
    files.make_writable_folder(tmp_path / "new" / "folder")
    assert os.listdir(tmp_path / "new" / "folder") == []
