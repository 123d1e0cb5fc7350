"""The checkpoint's file: whole at any moment, read back exactly, refused in one line when odd."""

from __future__ import annotations

import json
import os
import random
import re
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from gru_xp import files
from gru_xp.training import checkpoint
from gru_xp.training.checkpoint import Checkpoint
from gru_xp.training.config import TrainingConfig
from gru_xp.training.errors import CheckpointError, DivergenceError

pytest.importorskip("safetensors", reason="checkpoints are safetensors files")


def sample(config: TrainingConfig, characters: str) -> Checkpoint:
    """Make a checkpoint of a run that has made one step."""
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(size=[abs(size) for size in shape]).astype(np.float32)
        for name, shape in checkpoint.shapes(config, characters).items()
    }
    counts = {"adam.steps": [1], "loss_scale": [1, 1], "losses": [[1 / 3]], "held_out": [[1, 2.5]]}
    arrays |= {name: np.asarray(each, dtype=np.float64) for name, each in counts.items()}
    return Checkpoint(config, characters, arrays)


CONFIG = TrainingConfig(
    hidden_size=3, layers=2, batch_size=2, learning_rate=0.1 + 0.2, texts=("/a b", "/[{é}]")
)
KEPT = sample(CONFIG, '\n "\\xé𝛑')


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
    with pytest.raises(CheckpointError, match="expected a folder with a model"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_file_that_is_cut_off_is_refused(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="not a valid checkpoint") as error:
        checkpoint.load(saved.parent)
    assert str(saved) in str(error.value)


@pytest.mark.parametrize("data", [b"\x80\x04K\x01.", b"PK\x03\x04" * 50, b"{}" * 50])
def test_a_file_of_another_kind_is_refused(saved: Path, data: bytes) -> None:
    saved.write_bytes(data)
    with pytest.raises(CheckpointError, match="not a valid checkpoint"):
        checkpoint.load(saved.parent)


def test_another_programs_safetensors_file_is_refused(saved: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(2)}, saved)
    with pytest.raises(CheckpointError, match="not a checkpoint of this version"):
        checkpoint.load(saved.parent)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("odd\nname", r"an unknown array odd\\nname$"),
        ("\x1b[2J\u2028", r"an unknown array \\x1b\[2J\\u2028$"),
        ("\x1b" * 99, r"an unknown array (\\x1b){60,80}.{0,3}\.\.\.$"),
    ],
    ids=["line break", "terminal", "too long"],
)
def test_the_names_in_a_file_cannot_break_the_line(saved: Path, name: str, told: str) -> None:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(saved, framework="numpy") as file:
        metadata = file.metadata()
    save_file({**KEPT.arrays, name: np.zeros(2)}, saved, metadata)
    with pytest.raises(CheckpointError, match=f"is not a valid checkpoint: (it has )?{told}"):
        checkpoint.load(saved.parent)


@pytest.mark.parametrize(
    "config",
    [
        "{}",
        "[]",
        "{",
        json.dumps(TrainingConfig().to_json() | {"hidden_size": "3"}),
        *(
            json.dumps(TrainingConfig().to_json() | odd)
            for odd in (
                {"dtype": "float8"},
                {"hidden_size": 0},
                {"layers": -6},
                {"layers": 10**9},
                {"seed": -1},
                {"steps": 10**400},
                {"texts": [1]},
                {"texts": "text"},
                {"texts": ["a\0b"]},
                *([{"texts": ["\ud800"]}] if os.name != "nt" else []),
                {"backend": "tensorflow"},
                {"learning_rate": float("inf")},
                {"dropout": float("nan")},
                {"another": 1},
            )
        ),
        json.dumps(TrainingConfig().to_json()).replace('"seed": 0', f'"seed": {"9" * 5000}'),
        json.dumps(TrainingConfig().to_json()).replace('"seed": 0', f'"seed": {"[" * 10**5}'),
    ],
    ids=lambda text: text[-40:],
)
def test_an_odd_configuration_is_refused(saved: Path, config: str) -> None:
    from safetensors.numpy import save_file

    metadata = {checkpoint._FORMAT: f'{{"config": {config}, "characters": "ab"}}'}
    save_file({"weight": np.zeros(2)}, saved, metadata)
    with pytest.raises(
        CheckpointError,
        match=r"not a valid checkpoint: .*(config|Expect|digits)",
    ):
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


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions and links")
def test_a_file_keeps_its_permissions_and_a_link_its_target(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file").chmod(0o640)
    (tmp_path / "link").symlink_to("file")
    files.write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_file_system_that_refuses_permissions_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some network file systems do, where all files have the same."""

    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    files.write_whole(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "chmod", refuse)
    files.write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe is not a regular file"):
        files.write_whole(tmp_path / "pipe", b"data")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_folder_that_is_a_file_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        files.make_writable_folder(tmp_path / "file")
    files.make_writable_folder(tmp_path / "new" / "folder")
    assert os.listdir(tmp_path / "new" / "folder") == []


def test_the_check_of_a_folder_leaves_its_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trial").write_bytes(b"mine")
    files.make_writable_folder(tmp_path)
    assert os.listdir(tmp_path) == ["trial"]
    assert (tmp_path / "trial").read_bytes() == b"mine"

    def fail(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", f"{tmp_path}/tmp1234")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", fail)
    with pytest.raises(PermissionError, match=re.escape(f"Permission denied: {str(tmp_path)!r}")):
        files.make_writable_folder(tmp_path)


def spoilt(saved: Path, **arrays: object) -> None:
    """Write the checkpoint again with other arrays; None leaves one out."""
    from safetensors.numpy import load_file, save_file

    kept = load_file(saved)
    for name, array in arrays.items():
        if array is None:
            del kept[name]
        else:
            kept[name] = np.asarray(array)
    config = {"config": CONFIG.to_json(), "characters": KEPT.characters}
    save_file(kept, saved, {checkpoint._FORMAT: json.dumps(config)})


@pytest.mark.parametrize(
    ("name", "array", "why"),
    [
        ("model.output.bias", None, "it has no array model.output.bias"),
        ("another", np.zeros(1), "an unknown array another"),
        ("model.output.bias", np.zeros(1, np.float32), r"got shape \(1,\)"),
        ("state", np.zeros((2, 2, 3), np.float16), "F16"),
        ("state", np.full((2, 2, 3), np.nan), "state contains numbers that are not finite"),
        ("adam.mean.output.bias", np.full(8, np.inf), "adam.mean.output.bias contains numbers"),
        ("adam.steps", np.asarray([np.nan]), "adam.steps contains numbers"),
        (
            "adam.steps",
            np.asarray([0.5]),
            "its counts of steps and updates or its loss scale are invalid",
        ),
        (
            "adam.steps",
            np.asarray([2.0]),
            "its counts of steps and updates or its loss scale are invalid",
        ),
        (
            "loss_scale",
            np.asarray([0.0, 0.0]),
            "its counts of steps and updates or its loss scale are invalid",
        ),
        (
            "losses",
            np.zeros((5000, 1)),
            "its counts of steps and updates or its loss scale are invalid",
        ),
        ("losses", np.zeros((2300, 1)), None),
        ("held_out", np.zeros((0, 2)), None),
    ],
)
def test_arrays_that_no_run_has_are_refused(
    saved: Path, name: str, array: object, why: str | None
) -> None:
    spoilt(saved, **{name: array})
    if why is None:
        checkpoint.load(saved.parent)
        return
    with pytest.raises(CheckpointError, match=f"not a valid checkpoint: .*{why}"):
        checkpoint.load(saved.parent)


def test_a_finished_run_without_a_figure_is_refused(saved: Path) -> None:
    spoilt(saved, losses=np.zeros((2300, 1)), held_out=np.zeros((0, 2)))
    with pytest.raises(
        CheckpointError, match="its counts of steps and updates or its loss scale are invalid"
    ):
        checkpoint.load(saved.parent)


@pytest.mark.parametrize("name", ["model.output.bias", "state", "adam.square.output.weight"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_never_replaces_a_checkpoint(
    saved: Path, name: str, value: float
) -> None:
    before = saved.read_bytes()
    arrays = dict(KEPT.arrays)
    arrays[name] = np.full_like(arrays[name], value)
    with pytest.raises(
        DivergenceError, match=f"{name} is not finite after step 1, so the checkpoint was not"
    ):
        checkpoint.save(saved.parent, KEPT._replace(arrays=arrays))
    assert saved.read_bytes() == before


def test_a_pipe_in_place_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no named pipes")
    os.mkfifo(tmp_path / checkpoint.FILE)
    with pytest.raises(OSError, match="is not a regular file"):
        checkpoint.load(tmp_path)


def test_a_link_in_the_temporary_files_place_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".file.part").symlink_to(victim)
    files.write_whole(tmp_path / "file", b"data")
    assert victim.read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["file", "victim"]


def test_a_failure_leaves_no_part_and_names_the_file(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=f"No space left on device: '{saved}'"):
        checkpoint.save(saved.parent, KEPT)
    assert sorted(os.listdir(saved.parent)) == [checkpoint.FILE, checkpoint.CONFIG_FILE]


def test_a_folder_is_locked_once_and_left_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with files.locked(folder):
        with (
            pytest.raises(files.LockedError, match=r"another process is writing to .*folder"),
            files.locked(folder),
        ):
            pass
        assert folder.is_dir()
    assert os.listdir(tmp_path) == []  # as nothing was written there
    with files.locked(folder):
        files.write_whole(folder / "file", b"data")
        (folder / ".other.part").touch()  # as a kill leaves one
        (folder / ".foreign.part").touch()  # of another program
    with files.locked(folder, "other"):
        assert not (folder / ".other.part").exists()
        assert (folder / ".foreign.part").exists()
    assert (folder / "file").read_bytes() == b"data"


def test_a_lock_is_released_at_the_end_of_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when the lock is collected, which on other Pythons than CPython may be much later."""
    import filelock

    class Kept(filelock.FileLock):
        all: ClassVar[list[Any]] = []

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.all.append(self)

    monkeypatch.setattr(filelock, "FileLock", Kept)
    with files.locked(tmp_path):
        assert [lock.is_locked for lock in Kept.all] == [True]
    assert [lock.is_locked for lock in Kept.all] == [False]
    with pytest.raises(KeyboardInterrupt), files.locked(tmp_path):
        raise KeyboardInterrupt
    assert [lock.is_locked for lock in Kept.all] == [False, False]


FUZZ = """
import pickle, sys
from pathlib import Path
from gru_xp.training import checkpoint
from gru_xp.training.errors import CheckpointError, DivergenceError

folder, cases = Path(sys.argv[1]), pickle.loads(sys.stdin.buffer.read())
path = folder / checkpoint.FILE
def largest():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])
path.write_bytes(cases[0])
checkpoint.load(folder)  # which loads what it needs
before = largest()
for data in cases:
    path.write_bytes(data)
    try:
        checkpoint.load(folder)
    except CheckpointError as error:
        assert len(str(error)) < 500 and "\\n" not in str(error), str(error)
assert largest() - before < 2 * max(map(len, cases)) + (64 << 20), (largest(), before)
print(len(cases))
"""


def mad(data: bytes, rng: random.Random) -> list[bytes]:
    """Bytes flipped, cut off, and headers of well-formed JSON that say mad things."""
    cases = [data]
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length]
    for _ in range(300):
        flipped = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 8, 64))):
            # Most of them in the header, where they matter.
            place = rng.randrange(8 + length if rng.random() < 0.8 else len(data))
            flipped[place] = rng.choice(
                (flipped[place] ^ (1 << rng.randrange(8)), rng.randrange(256))
            )
        cases.append(bytes(flipped))
    cases += [data[: rng.randrange(len(data))] for _ in range(60)]
    for old, new in (
        (b'\\"hidden_size\\": 3', b'\\"hidden_size\\": 8000'),
        (b'\\"layers\\": 2', b'\\"layers\\": 1000000'),
        (b'\\"layers\\": 2', b'\\"layers\\": 999999999'),
        (b'\\"steps\\": 2300', b'\\"steps\\": 1' + b"0" * 400),
        (b'\\"seed\\": 0', b'\\"seed\\": ' + b"7" * 5000),
        (b'\\"seed\\": 0', b'\\"seed\\": ' + b"[" * 50_000),
        (b'\\"seed\\": 0', b'\\"seed\\": 1e999'),
        (b'\\"texts\\": [', b'\\"texts\\": [' + b"0," * 200_000),
        (b'"F32"', b'"I64"'),
        (b'"shape":[', b'"shape":[9999999999999,'),
        (b'"shape":[', b'"shape":[-1,'),
        (b'"data_offsets":[', b'"data_offsets":[99999999999,'),
    ):
        assert old in header, old
        changed = header.replace(old, new)
        cases.append(len(changed).to_bytes(8, "little") + changed + data[8 + length :])
    cases += [(1 << 62).to_bytes(8, "little") + data[8:], b"\xff" * 8 + data[8:], b"", b"\0" * 64]
    return cases


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux tells resident memory")
def test_no_file_is_mad_enough_for_another_error_much_memory_or_a_hang(saved: Path) -> None:
    import pickle

    cases = mad(saved.read_bytes(), random.Random(203006))  # one that found a fault
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(saved.parent)],
        input=pickle.dumps(cases),
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert int(done.stdout) == len(cases)
    assert time.monotonic() - start < 60


def test_a_run_of_many_texts_and_layers_is_loaded(tmp_path: Path) -> None:
    texts = tuple(f'/[{number}] {{Каталог}} "\\ .txt' for number in range(3000))
    kept = sample(TrainingConfig(hidden_size=1, layers=500, batch_size=1, texts=texts), '"[]{}')
    checkpoint.save(tmp_path, kept)
    assert checkpoint.load(tmp_path).config == kept.config


def test_a_header_that_could_not_be_read_again_is_not_written(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()
    monkeypatch.setattr(checkpoint, "LARGEST_HEADER", 1000)
    with pytest.raises(CheckpointError, match=r"was not saved: .* 2 texts and 2 l"):
        checkpoint.save(saved.parent, KEPT)
    assert saved.read_bytes() == before


def test_where_no_file_can_be_locked_a_warning_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", fail)
    with (
        pytest.warns(RuntimeWarning, match=r"cannot be locked .*No locks available"),
        files.locked(tmp_path / "folder"),
    ):
        files.write_whole(tmp_path / "folder" / "file", b"data")
    assert (tmp_path / "folder" / "file").read_bytes() == b"data"
