"""Models in files: what is saved is loaded, also by torch, and a bad file is one clear error."""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import textwrap
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp.arrays import dtypes
from gru_xp.training import checkpoint
from tests.library import Library
from tests.test_training_checkpoint import KEPT

MODELS = {
    "GRU": lambda **where: gru_xp.GRU(3, 4, rng=0, **where),
    "all options": lambda **where: gru_xp.GRU(
        3, 4, 2, True, True, 0.25, True, reset_after=False, rng=0, **where
    ),
    "eleven layers": lambda **where: gru_xp.GRU(1, 2, num_layers=11, bias=False, rng=0, **where),
    "both directions": lambda **where: gru_xp.GRU(5, 1, bidirectional=True, rng=0, **where),
    "reverse": lambda **where: gru_xp.GRU(3, 4, 2, reverse=True, rng=0, **where),
    "GRUCell": lambda **where: gru_xp.GRUCell(3, 4, rng=0, **where),
    "GRUCell, other form": lambda **where: gru_xp.GRUCell(
        3, 4, bias=False, reset_after=False, rng=0, **where
    ),
}
MODEL = pytest.mark.parametrize("make", MODELS.values(), ids=list(MODELS))
ENDING = pytest.mark.parametrize("ending", ["safetensors", "npz"])


def weights_of(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {name: gru_xp.to_numpy(array) for name, array in model.parameters().items()}


def assert_same(loaded: Any, model: Any) -> None:
    assert type(loaded) is type(model)
    assert repr(loaded) == repr(model)
    expected, got = weights_of(model), weights_of(loaded)
    assert list(got) == list(expected)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        assert got[name].tobytes() == array.tobytes(), name


@pytest.mark.feature("files")
@MODEL
@ENDING
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_saved_is_loaded(
    lib: Library, tmp_path: Path, make: Callable[..., Any], ending: str, dtype: str
) -> None:
    where = {"backend": lib.name, "device": lib.device}
    model = make(**where, dtype=dtype)
    gru_xp.save(model, tmp_path / f"model.{ending}")
    loaded = gru_xp.load(tmp_path / f"model.{ending}", **where)
    assert_same(loaded, model)
    assert loaded.training
    x = lib.array(np.ones((2, loaded.input_size)))
    assert lib.numpy(loaded(x) if isinstance(model, gru_xp.GRUCell) else loaded(x)[0]).any()


@ENDING
def test_a_model_is_loaded_for_another_backend_and_dtype(
    lib: Library, tmp_path: Path, ending: str
) -> None:
    model = gru_xp.GRU(3, 4, rng=0)
    gru_xp.save(model, str(tmp_path / f"model.{ending}"))
    loaded = gru_xp.load(
        str(tmp_path / f"model.{ending}"), backend=lib.name, device=lib.device, dtype="float64"
    )
    assert loaded.backend == lib.name
    assert dtypes.dtype_name(loaded.dtype) == "float64"
    for name, array in weights_of(model).items():
        assert np.array_equal(weights_of(loaded)[name], array)


@ENDING
def test_bfloat16_comes_back_where_it_exists(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("torch")
    model = gru_xp.GRU(3, 4, rng=0, backend="torch", dtype="bfloat16")
    gru_xp.save(model, tmp_path / f"model.{ending}")
    assert_same(gru_xp.load(tmp_path / f"model.{ending}", backend="torch"), model)
    as_numpy = gru_xp.load(tmp_path / f"model.{ending}")
    assert as_numpy.dtype == np.float32
    kept = model.to(dtype="float32").state_dict()
    assert all(np.array_equal(weights_of(as_numpy)[name], kept[name]) for name in kept)


@ENDING
def test_equal_models_are_equal_bytes(tmp_path: Path, ending: str) -> None:
    for name in ("a", "b"):
        gru_xp.save(MODELS["all options"](), tmp_path / f"{name}.{ending}")
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_torch_reads_what_is_saved(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    model = gru_xp.GRU(3, 4, num_layers=2, bidirectional=True, rng=0)
    gru_xp.save(model, tmp_path / "model.safetensors")
    theirs = torch.nn.GRU(3, 4, num_layers=2, bidirectional=True)
    theirs.load_state_dict(load_file(tmp_path / "model.safetensors"))
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    expected = theirs(torch.from_numpy(x))[0].detach().numpy()
    np.testing.assert_allclose(model(x)[0], expected, rtol=1e-5, atol=1e-6)


@ENDING
@pytest.mark.parametrize("cell", [True, False])
def test_weights_of_torch_are_loaded(tmp_path: Path, ending: str, cell: bool) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    rnn = torch.nn.GRUCell(3, 4) if cell else torch.nn.GRU(3, 4, 2, bidirectional=True)
    whole = torch.nn.ModuleDict({"rnn": rnn, "head": torch.nn.Linear(4, 1)})
    path = tmp_path / f"model.{ending}"
    if ending == "npz":
        np.savez(path, **{name: value.numpy() for name, value in whole.state_dict().items()})
    else:
        save_file(whole.state_dict(), path)
    loaded = gru_xp.load(path, prefix="rnn.")
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    ours, theirs = loaded(x), rnn(torch.from_numpy(x))
    if not cell:
        ours, theirs = ours[0], theirs[0]
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(
        ValueError, match=r"expected weights with the names .*found none. Pass prefix='rnn\.'"
    ):
        gru_xp.load(path)


def test_the_model_of_gru_xp_train_is_loaded(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, KEPT)
    loaded = gru_xp.load(tmp_path)
    assert isinstance(loaded, gru_xp.GRU)
    assert loaded.num_layers == KEPT.config.layers
    for name, array in weights_of(loaded).items():
        assert np.array_equal(array, KEPT.arrays[f"model.gru.{name}"])


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"checkpoint\.safetensors"):
        gru_xp.load(tmp_path)


@ENDING
def test_a_failure_leaves_the_old_file(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"model.{ending}"
    gru_xp.save(gru_xp.GRU(3, 4, rng=0), path)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        gru_xp.save(gru_xp.GRU(3, 4, rng=1), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


# What is refused


@pytest.mark.parametrize("ending", [".pt", ".pth"])
def test_torchs_own_format_is_refused_with_the_way_out(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"m{ending}"
    with pytest.raises(ValueError, match="torch's own format, which can contain code") as refused:
        gru_xp.load(path)
    with pytest.raises(ValueError, match=r"expected a file name ending in \.safetensors or \.npz"):
        gru_xp.save(gru_xp.GRU(3, 4), path)
    torch: Any = pytest.importorskip("torch", reason="the way out is torch's")
    module = torch.nn.GRU(3, 4)
    torch.save(module.state_dict(), path)
    exec(textwrap.dedent(str(refused.value).partition("\n")[2]), {})
    weights = gru_xp.load(path.with_suffix(".safetensors")).state_dict()
    np.testing.assert_array_equal(weights["weight_ih_l0"], module.weight_ih_l0.detach().numpy())


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"expected a file .* has no checkpoint\.safetensors"
    ):
        gru_xp.load(tmp_path)


@pytest.mark.parametrize("name", ["model", "model.h5", "model.safetensors.gz"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"expected a file name ending in \.safetensors or \.npz"):
        gru_xp.save(gru_xp.GRU(3, 4), tmp_path / name)
    with pytest.raises(ValueError, match=r"expected a file name ending in"):
        gru_xp.load(tmp_path / name)


def test_options_assigned_after_the_construction_are_saved(tmp_path: Path) -> None:
    gru = gru_xp.GRU(3, 4, num_layers=2, rng=0)
    gru.dropout, gru.batch_first = 0, True
    gru_xp.save(gru, tmp_path / "model.npz")
    assert_same(gru_xp.load(tmp_path / "model.npz"), gru)


def test_a_subclass_of_a_cell_may_have_attributes_named_as_options_of_a_gru(tmp_path: Path) -> None:
    class Cell(gru_xp.GRUCell):
        dropout = 0.1

    gru_xp.save(Cell(3, 4, rng=0), tmp_path / "model.npz")
    assert type(gru_xp.load(tmp_path / "model.npz")) is gru_xp.GRUCell


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    model: Any = {"weight_ih": np.ones((3, 1))}
    with pytest.raises(TypeError, match="expected a GRU or a GRUCell, got dict"):
        gru_xp.save(model, tmp_path / "model.npz")


def test_without_safetensors_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gru_xp.save(gru_xp.GRU(3, 4), tmp_path / "model.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for call in (
        lambda: gru_xp.load(tmp_path / "model.safetensors"),
        lambda: gru_xp.save(gru_xp.GRU(3, 4), tmp_path / "model.safetensors"),
    ):
        with pytest.raises(ModuleNotFoundError, match=r"pip install safetensors\), or use a \.npz"):
            call()
    gru_xp.save(gru_xp.GRU(3, 4), tmp_path / "model.npz")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.npz")
    with pytest.raises(OSError, match="not a regular file"):
        gru_xp.load(tmp_path / "model.npz")


# Files that are damaged or lie


def content(model: Any, ending: str, tmp_path: Path) -> bytes:
    gru_xp.save(model, tmp_path / f"good.{ending}")
    return (tmp_path / f"good.{ending}").read_bytes()


@ENDING
def test_a_file_that_is_cut_off_is_an_error(tmp_path: Path, ending: str) -> None:
    data = content(gru_xp.GRU(2, 3, rng=0), ending, tmp_path)
    path = tmp_path / f"bad.{ending}"
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"cannot read a model from .*bad\.\w+: ."):
            gru_xp.load(path)


@ENDING
def test_the_names_in_a_file_cannot_break_the_line(tmp_path: Path, ending: str) -> None:
    from safetensors.numpy import save as serialised

    arrays = {**CELL, "bias_\n\x1b[2J": np.zeros(3, np.int32)}
    path = tmp_path / f"bad.{ending}"
    path.write_bytes(npz(arrays) if ending == "npz" else serialised(arrays))
    with pytest.raises(ValueError, match=r"expected bias_\\n\\x1b\[2J to have dtype"):
        gru_xp.load(path)


@ENDING
def test_damaged_bytes_are_an_error_or_numbers(tmp_path: Path, ending: str) -> None:
    data = content(gru_xp.GRU(2, 3, rng=0), ending, tmp_path)
    path = tmp_path / f"bad.{ending}"
    rng = np.random.default_rng(0)
    refused = 0
    tracemalloc.start()
    for _ in range(400):
        damaged = bytearray(data)
        for place in rng.integers(len(data), size=rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            assert isinstance(gru_xp.load(path), gru_xp.GRU)
        except ValueError:
            refused += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 20
    assert peak < 20 << 20


def npz(entries: dict[str, Any], *, compressed: bool = False) -> bytes:
    """Return a npz of arrays, and of entries that are bytes already."""
    buffer = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", how) as file:
        for name, value in entries.items():
            data = io.BytesIO()
            if isinstance(value, bytes):
                data.write(value)
            else:
                np.lib.format.write_array(data, np.asarray(value), allow_pickle=True)
            file.writestr(f"{name}.npy", data.getvalue())
    return buffer.getvalue()


def header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    """Return the beginning of a npy file, and a few bytes of its numbers."""
    data = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        data, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return data.getvalue() + bytes(16)


TRACES: list[str] = []


def leave_trace() -> None:
    TRACES.append("code has run")


class Unpickled:
    """Leaves a trace where it is unpickled."""

    def __reduce__(self) -> Any:
        return leave_trace, ()


CELL = {"weight_ih": np.ones((6, 3), np.float32), "weight_hh": np.ones((6, 2), np.float32)}
LIES = {
    "huge shape": {**CELL, "weight_ih": header((6 << 40, 3))},
    "huge shape, of an unused array": {**CELL, "other": header((6 << 40, 3))},
    "huge shapes that agree": {
        "weight_ih": header((3 << 21, 3)),
        "weight_hh": header((3 << 21, 1 << 21)),
    },
    "negative shape": {**CELL, "weight_hh": header((-6, -2))},
    "more numbers than it says": {**CELL, "weight_ih": header((1, 3))},
    "no npy": {**CELL, "weight_ih": b"no array"},
    "objects": {**CELL, "weight_ih": np.array([[Unpickled()]], dtype=object)},
    "integers": {**CELL, "weight_ih": np.ones((6, 3), np.int64)},
    "complex numbers": {**CELL, "weight_ih": np.ones((6, 3), np.complex64)},
    "one bias": {**CELL, "bias_ih": np.ones(6, np.float32)},
    "other hidden size": {**CELL, "weight_ih": np.ones((9, 3), np.float32)},
    "no matrix": {**CELL, "weight_hh": np.ones(6, np.float32)},
    "only a matrix": {"weight_hh": CELL["weight_hh"]},
    "no units": {"weight_ih": np.ones((0, 3), "f4"), "weight_hh": np.ones((0, 0), "f4")},
    "a layer left out": {f"{name}_l{k}": value for name, value in CELL.items() for k in (0, 2)},
    "another module's weights": {**CELL, "linear.weight": np.ones(3, np.float32)},
    "description that is no text": {**CELL, "gru_xp": np.ones(3, np.float32)},
    "nothing": {},
}


@pytest.mark.parametrize("entries", LIES.values(), ids=list(LIES))
def test_a_npz_that_lies_is_an_error_and_takes_no_memory(
    tmp_path: Path, entries: dict[str, Any]
) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(npz(entries))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"cannot read a model from .*bad\.npz: ."):
        gru_xp.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20
    assert not TRACES


def test_what_would_run_where_it_is_unpickled_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "TRACES", [])
    pickle.loads(pickle.dumps(Unpickled()))
    assert TRACES == ["code has run"]


def test_a_header_that_takes_a_parsers_memory_is_an_error(tmp_path: Path) -> None:
    shape = "-" * 9000 + "6, 3"
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}\n".encode()
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    (tmp_path / "bad.npz").write_bytes(npz({**CELL, "weight_ih": data}))
    with pytest.raises(ValueError, match=r"cannot read a model from .*bad\.npz"):
        gru_xp.load(tmp_path / "bad.npz")


def test_an_empty_prefix_keeps_the_options(tmp_path: Path) -> None:
    gru = gru_xp.GRU(3, 4, batch_first=True, reset_after=False, dropout=0.1, rng=0)
    gru_xp.save(gru, tmp_path / "model.npz")
    assert_same(gru_xp.load(tmp_path / "model.npz", prefix=""), gru)


def test_a_compressed_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(npz({**CELL, "weight_ih": np.zeros((6, 1 << 16))}, compressed=True))
    with pytest.raises(ValueError, match=r"got compressed ones. Write the file with numpy\.savez"):
        gru_xp.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"class": "GRU"},
        {"input_size": 4},
        {"hidden_size": True},
        {"reset_after": 1},
        {"reset_after": None},
        {"dtype": 32},
        {"dtype": "int32"},
        {"dtype": ""},
        {"dtype": "x" * 5000},
        {"more": 0},
    ],
    ids=lambda change: next(iter(change)),
)
@ENDING
def test_a_description_that_lies_is_an_error(
    tmp_path: Path, ending: str, change: dict[str, Any]
) -> None:
    from safetensors.numpy import save as serialised

    fields = {
        "version": 1,
        "class": "GRUCell",
        "dtype": "float32",
        "input_size": 3,
        "hidden_size": 2,
        "bias": False,
        "reset_after": False,
    }

    def write(fields: dict[str, Any]) -> None:
        text = json.dumps(fields)
        if ending == "npz":
            data = npz({**CELL, "gru_xp": np.frombuffer(text.encode(), np.uint8)})
        else:
            data = serialised(CELL, {"gru_xp": text})
        (tmp_path / f"model.{ending}").write_bytes(data)

    write(fields)
    assert not gru_xp.load(tmp_path / f"model.{ending}").reset_after
    write(fields | change)
    with pytest.raises(ValueError, match=r"cannot read a model from .*: ."):
        gru_xp.load(tmp_path / f"model.{ending}")


def test_a_description_of_reverse_alone_with_weights_of_both_directions_is_an_error(
    tmp_path: Path,
) -> None:
    gru = gru_xp.GRU(3, 4, bidirectional=True, rng=0)
    vars(gru)["reverse"] = True  # which cannot be assigned
    gru_xp.save(gru, tmp_path / "model.npz")
    with pytest.raises(
        ValueError, match=r"cannot read a model from .* reverse=True, but its weights are"
    ):
        gru_xp.load(tmp_path / "model.npz")


def test_a_safetensors_file_of_other_dtypes_is_an_error(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({**CELL, "weight_ih": np.ones((6, 3), np.int8)}, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="expected weight_ih to have dtype F16, F32, F64, got I8"):
        gru_xp.load(tmp_path / "bad.safetensors")


def test_a_long_header_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match=r"header is too long \(\d+ bytes\)"):
        gru_xp.load(tmp_path / "bad.safetensors")
