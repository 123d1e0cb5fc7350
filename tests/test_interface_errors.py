"""What a user gets wrong: flags, names, containers of other libraries, calls under JAX."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp import functional
from gru_xp.arrays import libraries
from gru_xp.arrays.place import Place
from gru_xp.arrays.transfer import from_numpy
from gru_xp.functional import (
    GRUParams,
    gru,
    gru_backward,
    gru_cell,
    gru_cell_backward,
    gru_gates,
)
from tests.library import Library
from tests.test_cell_values import draw, make_cell
from tests.test_layer_values import I, N, T, make_gru

NOT_FLAGS = ["False", 0, 1.0, None, np.ones(1)]


@pytest.mark.parametrize("value", NOT_FLAGS, ids=repr)
@pytest.mark.parametrize("name", ["bias", "batch_first", "bidirectional", "reverse", "reset_after"])
def test_a_grus_flags_are_booleans(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be True or False, got"):
        gru_xp.GRU(3, 5, **{name: value})


@pytest.mark.parametrize("value", NOT_FLAGS, ids=repr)
@pytest.mark.parametrize("name", ["bias", "reset_after"])
def test_a_cells_flags_are_booleans(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be True or False, got"):
        gru_xp.GRUCell(3, 5, **{name: value})


@pytest.mark.parametrize("value", NOT_FLAGS, ids=repr)
def test_the_flags_of_calls_are_booleans(value: Any) -> None:
    layer, x = gru_xp.GRU(3, 5, rng=0), np.ones((2, 1, 3), dtype=np.float32)
    _, _, tape = gru(layer.params, x)
    assert tape is not None
    calls = {
        "mode": lambda: layer.train(value),
        "return_gates": lambda: layer(x, return_gates=value),
        "strict": lambda: layer.load_state_dict(layer.state_dict(), value),
        "keep_tape": lambda: gru(layer.params, x, keep_tape=value),
        "batch_first": lambda: gru_gates(tape, batch_first=value),
        "bidirectional": lambda: gru(layer.params, x, bidirectional=value),
        "reverse": lambda: gru(layer.params, x, reverse=value),
        "reset_after": lambda: gru_backward(layer.params, tape, x, reset_after=value),
    }
    for name, call in calls.items():
        with pytest.raises(TypeError, match=f"{name} must be True or False, got"):
            call()
    params = layer.params[0]
    _, of_step = gru_cell(params, x[0])
    assert of_step is not None
    with pytest.raises(TypeError, match="keep_tape must be True or False"):
        gru_cell(params, x[0], keep_tape=value)
    for call in (
        lambda: gru_cell(params, x[0], reset_after=value),
        lambda: gru_cell_backward(params, of_step, x[0], reset_after=value),
    ):
        with pytest.raises(TypeError, match="reset_after must be True or False, got"):
            call()
    with (
        pytest.raises(TypeError, match="use_accelerators: expected True or False"),
        gru_xp.use_accelerators(value),
    ):
        pass


def test_numpys_booleans_are_flags() -> None:
    assert gru_xp.GRU(3, 5, batch_first=np.True_).batch_first is True  # type: ignore[arg-type]


@pytest.mark.parametrize("other", list(libraries.NAMESPACES))
def test_a_state_dict_of_any_library_is_loaded(lib: Library, other: str) -> None:
    if libraries.unusable(other):
        pytest.skip(libraries.unusable(other))
    wanted = make_gru(lib, rng=1)
    place = Place.named(other, dtype="float32")
    state = {
        f"rnn.{name}": from_numpy(lib.numpy(array), place)
        for name, array in wanted.state_dict().items()
    }
    state["head.weight"] = from_numpy(np.ones((2, 2)), place)  # another module's
    gru = make_gru(lib, rng=2)
    assert gru.load_state_dict(state, prefix="rnn.") == ([], [])
    for name, array in gru.parameters().items():
        rounded = lib.numpy(wanted.parameters()[name]).astype("float32")
        lib.assert_close(array, rounded, atol=0, dtype="float64")


def test_a_torch_modules_state_goes_into_a_numpy_gru() -> None:
    torch = pytest.importorskip("torch", reason="about torch")
    theirs = torch.nn.GRU(3, 5, 2, bidirectional=True)
    ours = gru_xp.GRU(3, 5, 2, bidirectional=True)
    ours.load_state_dict(theirs.state_dict())
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    wanted = theirs(torch.tensor(x))[0].detach().numpy()
    np.testing.assert_allclose(ours(x)[0], wanted, rtol=0, atol=1e-6)


def test_a_prefix_that_nothing_has_is_told() -> None:
    gru = gru_xp.GRU(3, 5, rng=0)
    with pytest.raises(
        ValueError, match=r"expected the names .*, each with the prefix 'rnn\.', got \[\]"
    ):
        gru.load_state_dict(gru.state_dict(), prefix="rnn.")
    inside = {f"rnn.{name}": value for name, value in gru.state_dict().items()}
    with pytest.raises(ValueError, match=r"\. Pass prefix='rnn\.'$"):
        gru.load_state_dict(inside)
    assert not any(gru.load_state_dict(inside, prefix="rnn."))


def test_a_packed_sequence_is_refused_with_the_remedy() -> None:
    torch = pytest.importorskip("torch", reason="about torch")
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.ones(4, 2, 3), [4, 2])
    gru = gru_xp.GRU(3, 5, backend="torch")
    with pytest.raises(TypeError, match=r"a PackedSequence\. .*pad_packed_sequence.* lengths="):
        gru(packed)


@pytest.mark.parametrize("name", ["bzx", "Wnh", "weight_ih", "bias_hh"])
@pytest.mark.parametrize("value", [3, -0.5, np.float32(0.25), np.int64(2)])
def test_a_number_fills_the_weights_that_it_is_assigned_to(
    lib: Library, name: str, value: float
) -> None:
    cell = make_cell(lib)
    setattr(cell, name, value)
    array = getattr(cell, name)
    lib.assert_close(array, np.full(array.shape, value), atol=0, dtype="float64")


@pytest.mark.parametrize("name", ["Wrxx", "weights_ih", "num_layers"])
def test_an_attribute_that_a_cell_does_not_know_cannot_be_assigned(lib: Library, name: str) -> None:
    cell = make_cell(lib)
    with pytest.raises(AttributeError, match=f"GRUCell has no attribute '{name}' that can be"):
        setattr(cell, name, 3)
    assert not hasattr(cell, name)


def test_the_attribute_that_was_meant_is_told() -> None:
    with pytest.raises(AttributeError, match=r"Did you mean .*Wrx"):
        gru_xp.GRUCell(2, 3).Wrxx = 1  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"Did you mean .*batch_first"):
        gru_xp.GRU(2, 3).batchfirst = True  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["training", "batch_first", "reverse", "reset_after"])
def test_a_flag_is_checked_when_it_is_assigned(name: str) -> None:
    gru = gru_xp.GRU(3, 5, rng=0)
    with pytest.raises(TypeError, match=f"{name} must be True or False, got 'no'"):
        setattr(gru, name, "no")
    setattr(gru, name, np.True_)
    assert getattr(gru, name) is True


def test_options_are_checked_when_they_are_assigned() -> None:
    gru = gru_xp.GRU(3, 5, num_layers=2, bidirectional=True, rng=0)
    for value in (-1, 1.5, float("nan"), "no"):
        with pytest.raises(ValueError, match="dropout must be at least 0 and less than 1"):
            gru.dropout = value  # type: ignore[assignment]
    with pytest.raises(ValueError, match="bidirectional=True and reverse=True cannot be combined"):
        gru.reverse = True
    for name in ("input_size", "hidden_size", "num_layers", "bias", "bidirectional"):
        before = getattr(gru, name)
        setattr(gru, name, before)  # as a subclass may do
        other = not before if isinstance(before, bool) else 7
        with pytest.raises(AttributeError, match=rf"GRU\.{name} cannot be changed, .* a new GRU"):
            setattr(gru, name, other)
        assert getattr(gru, name) == before
    assert (gru.dropout, gru.reverse) == (0, False)


def test_a_subclass_may_have_attributes_of_its_own() -> None:
    class Named(gru_xp.GRU):
        def __init__(self, name: str) -> None:
            super().__init__(2, 3, rng=0)
            self.name = name
            self.later = None

    named = Named("one")
    named.later = 1
    assert (named.name, named.later) == ("one", 1)


def test_a_subclass_may_assign_options_before_the_construction() -> None:
    class Reversed(gru_xp.GRU):
        def __init__(self, hidden_size: int) -> None:
            self.hidden_size = hidden_size
            self.reverse = True
            super().__init__(2, 2 * hidden_size, reverse=True, rng=0)

    assert (Reversed(3).hidden_size, Reversed(3).reverse) == (6, True)


@pytest.mark.parametrize(("rng", "error"), [("a", TypeError), (-1, ValueError)])
@pytest.mark.parametrize("kind", [gru_xp.GRU, gru_xp.GRUCell])
def test_a_seed_that_is_none_is_named(kind: Any, rng: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="rng must be a non-negative integer or a "):
        kind(2, 3, rng=rng)


@pytest.mark.parametrize("name", [None, ["numpy"], "nonesuch"])
def test_what_names_no_backend_is_refused_with_those_there_are(name: Any) -> None:
    with pytest.raises(gru_xp.BackendError, match=r"unknown backend .*: gru_xp supports numpy, "):
        gru_xp.GRU(2, 3, backend=name)


def test_dir_lists_the_weights() -> None:
    assert {"weight_ih_l0", "bias_hh_l1_reverse"} <= set(
        dir(gru_xp.GRU(2, 3, 2, bidirectional=True))
    )
    assert {"Wrx", "dbnh", "weight_ih"} <= set(dir(gru_xp.GRUCell(2, 3)))


def test_gate_values_show_their_shapes(lib: Library) -> None:
    gru = make_gru(lib)
    _, _, gates = gru(lib.array(draw(T, N, I, seed=0)), return_gates=True)
    assert repr(gates).startswith("GateValues(r, z, n: arrays of shape (1, 5, 3, 3), ")
    assert "float64" in repr(gates)


@pytest.mark.parametrize("enabled", [True, False])
def test_masked_arrays_are_refused_by_name(enabled: bool) -> None:
    cell, layer = gru_xp.GRUCell(3, 5, rng=0), gru_xp.GRU(3, 5, rng=0)
    masked = np.ma.masked_array(np.ones((2, 3), np.float32), mask=False)
    with gru_xp.use_accelerators(enabled):
        for call in (
            lambda: cell(masked),
            lambda: cell.eval()(masked),
            lambda: layer(masked[None]),
            lambda: layer.stream().step(masked),
            lambda: gru_cell(GRUParams(masked, masked), masked),
            lambda: layer(np.ones((2, 1, 3), np.float32), lengths=np.ma.masked_array([2])),
            lambda: layer.eval()(np.ones((2, 1, 3), np.float32), lengths=np.ma.masked_array([2])),
            lambda: setattr(cell, "Wrx", np.ma.masked_array(np.ones((5, 3)), mask=False)),
        ):
            with pytest.raises(TypeError, match=r"numpy\.ma\.MaskedArray.*filled\(0\)"):
                call()


class Named(np.ndarray):  # type: ignore[type-arg]
    """A subclass whose operations mean something else."""

    def __getitem__(self, key: Any) -> Any:
        raise AssertionError("indexed as one of its own")


@pytest.mark.parametrize("enabled", [True, False])
def test_a_subclass_of_numpys_array_gives_plain_arrays(enabled: bool) -> None:
    def make(*shape: int) -> Any:
        return draw(*shape, seed=0).view(Named)

    cell, layer = (kind(3, 5, dtype="float64", rng=0) for kind in (gru_xp.GRUCell, gru_xp.GRU))
    with gru_xp.use_accelerators(enabled):
        results = [
            cell.eval()(make(2, 3), make(2, 5)),
            cell.train()(make(2, 3), make(2, 5)),
            *cell.backward(make(2, 5)),
            *layer(make(4, 2, 3), make(1, 2, 5)),
            *layer.backward(make(4, 2, 5)),
            cell.dWrx,
            cell.dz,
            cell.x,
        ]
    assert {type(each) for each in results} == {np.ndarray}


def test_none_is_no_array_where_one_is_needed(lib: Library) -> None:
    gru, cell = make_gru(lib, num_layers=2), make_cell(lib)
    x = lib.array(draw(T, N, I, seed=0))
    y, _ = gru(x)
    cell(lib.array(draw(N, 5, seed=0)))
    params = gru.params
    calls = {
        "GRU: expected input": lambda: gru(None),
        "GRU: expected dy": lambda: gru.backward(None),
        "GRUCell: expected delta": lambda: cell.backward(None),
        "GRU.stream: expected input": lambda: gru.stream()(None),
        "Stream.step: expected input": lambda: gru.stream().step(None),
        r"gru: expected masks\[0\]": lambda: functional.gru(params, x, masks=[None]),
        r"gru: params\[0\]: weight_ih must": lambda: functional.gru([GRUParams(None, None)], x),
        "gru_cell: weight_hh must": lambda: gru_cell(params[0]._replace(weight_hh=None), x),
        "gru_backward: expected the GRUTape": lambda: gru_backward(params, None, y),
        "gru_gates: expected the GRUTape": lambda: gru_gates(None),
        "gru_cell_backward: expected the CellTape": lambda: functional.gru_cell_backward(
            params[0], None, x
        ),
        "gru: expected params to be a sequence": lambda: functional.gru(None, x),
    }
    for words, call in calls.items():
        with pytest.raises(TypeError, match=words):
            call()


def test_one_thing_is_no_sequence_of_them(lib: Library) -> None:
    gru, x = make_gru(lib, num_layers=2), lib.array(draw(T, N, I, seed=0))
    with pytest.raises(TypeError, match="params to be a sequence of GRUParams, got a single"):
        functional.gru(gru.params[0], x)
    with pytest.raises(TypeError, match="masks to be a sequence of arrays, got a single"):
        functional.gru(gru.params, x, masks=x)
    mask = lib.array(np.ones((T, N, 3)))
    functional.gru(gru.params, x, masks=(each for each in [mask]))
    y, _, tape = functional.gru(gru.params, x)
    with pytest.raises(ValueError, match="forward with 1 GRUParams, got one of a forward with 2"):
        gru_backward(gru.params[:1], tape, y)


@pytest.mark.parametrize("training", [True, False])
def test_none_for_an_input_gets_our_words(training: bool) -> None:
    cell = gru_xp.GRUCell(3, 5).train(training)
    with pytest.raises(TypeError, match="GRUCell: expected input to be an array of numpy"):
        cell(None)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_backward_after_a_forward_under_jit_names_what_to_use(enabled: bool) -> None:
    jax = pytest.importorskip("jax", reason="about JAX")
    layer, cell = (kind(3, 5, backend="jax", rng=0) for kind in (gru_xp.GRU, gru_xp.GRUCell))
    x = jax.numpy.ones((4, 2, 3))
    with gru_xp.use_accelerators(enabled):
        y = jax.jit(lambda x: layer(x)[0])(x)
        with pytest.raises(RuntimeError, match=r"GRU.backward: .*JAX transformation.*functional"):
            layer.backward(y)
        h = jax.jit(cell)(x[0])
        with pytest.raises(
            RuntimeError, match=r"GRUCell.backward: .*JAX transformation.*functional"
        ):
            cell.backward(h)


def test_backends_name_no_accelerator_where_they_are_off() -> None:
    on = gru_xp.backends()[0]
    with gru_xp.use_accelerators(False):
        off = gru_xp.backends()[0]
    assert off.accelerator is None
    assert off.accelerator_reason.endswith(" is switched off") == (on.accelerator is not None)


def test_the_package_runs_as_the_command_line() -> None:
    pytest.importorskip("click", reason="the command line needs click")
    done = subprocess.run(
        [sys.executable, "-m", "gru_xp", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: gru-xp ")
