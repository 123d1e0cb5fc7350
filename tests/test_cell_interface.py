"""The two vocabularies of GRUCell, and that they name one storage."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp.arrays import dtypes
from gru_xp.checking import reference
from tests.library import Library
from tests.test_cell_values import H, I, N, draw, host, make_cell

GATE_NAMES = {
    name: (packed, index)
    for packed, suffix in (
        ("weight_ih", "W{}x"),
        ("weight_hh", "W{}h"),
        ("bias_ih", "b{}x"),
        ("bias_hh", "b{}h"),
    )
    for index, name in enumerate(suffix.format(gate) for gate in "rzn")
}


def rows(packed: Any, index: int) -> Any:
    return packed[index * H : (index + 1) * H, ...]


@pytest.mark.parametrize("name", GATE_NAMES)
def test_a_gates_name_reads_and_assigns_its_rows_of_the_packed_weight(
    lib: Library, name: str
) -> None:
    cell = make_cell(lib)
    packed, index = GATE_NAMES[name]
    before = host(cell.parameters())
    lib.assert_close(getattr(cell, name), rows(before[packed], index), atol=0)

    value = draw(*getattr(cell, name).shape, seed=5)
    setattr(cell, name, lib.array(value))

    rows(before[packed], index)[...] = value
    for key, array in cell.parameters().items():
        lib.assert_close(array, before[key], atol=0)


@pytest.mark.parametrize("name", GATE_NAMES)
def test_a_change_in_place_shows_in_the_packed_weight_and_the_next_call(
    lib: Library, name: str
) -> None:
    cell = make_cell(lib)
    packed, index = GATE_NAMES[name]
    x, h = lib.array(draw(N, I, seed=0)), lib.array(draw(N, H, seed=1))
    before = lib.numpy(cell(x, h))
    if not lib.mutable:
        with pytest.raises(TypeError, match="immutable"):
            getattr(cell, name)[0, ...] = 1.0
        return
    getattr(cell, name)[0, ...] = 1.0
    assert (lib.numpy(getattr(cell, packed))[index * H] == 1).all()
    assert (lib.numpy(cell(x, h))[:, 0] != before[:, 0]).all()


def test_the_assignment_that_the_docs_show_for_jax_works(lib: Library) -> None:
    if lib.name != "jax":
        pytest.skip("about arrays that do not change, which only JAX has")
    cell = make_cell(lib)
    cell.Wrx = cell.Wrx.at[0, 0].set(1)
    assert lib.numpy(cell.weight_ih)[0, 0] == 1


@pytest.mark.parametrize("name", GATE_NAMES)
def test_a_gates_gradient_is_a_view_of_the_packed_gradient(lib: Library, name: str) -> None:
    cell = make_cell(lib)
    cell(lib.array(draw(N, I, seed=0)), lib.array(draw(N, H, seed=1)))
    cell.backward(lib.array(draw(N, H, seed=2)))
    packed, index = GATE_NAMES[name]
    gradient = getattr(cell, f"d{name}")
    lib.assert_close(gradient, rows(lib.numpy(cell.gradients()[packed]), index), atol=0)
    if lib.mutable:
        gradient[0, ...] = 7.0
        assert (lib.numpy(cell.gradients()[packed])[index * H] == 7).all()


def test_packed_weights_assign_by_name_and_copy(lib: Library) -> None:
    cell = make_cell(lib)
    view = cell.Wzh
    value = draw(3 * H, H, seed=5)
    given = lib.array(value)
    cell.weight_hh = given
    lib.assert_close(cell.Wzh, value[H : 2 * H], atol=0)
    if lib.mutable:
        lib.assert_close(view, value[H : 2 * H], atol=0)  # an older view still looks at it
        cell.weight_hh[0, 0] = 9.0
        lib.assert_close(given, value, atol=0)


def test_teaching_interface_in_the_exercises_own_shapes(lib: Library) -> None:
    cell = make_cell(lib)
    h_t = cell.forward(lib.array(draw(I, seed=0)), lib.array(draw(H, seed=1)))
    assert h_t.shape == (H,)
    assert cell.x.shape == (I,)
    for name in ("hidden", "r", "z", "n"):
        assert getattr(cell, name).shape == (H,)
    dx, dh = cell.backward(lib.array(draw(1, H, seed=2)))
    assert (dx.shape, dh.shape) == ((1, I), (1, H))
    for name in GATE_NAMES:
        assert getattr(cell, f"d{name}").shape == getattr(cell, name).shape
    for name in ("dr", "dz", "dn"):
        assert getattr(cell, name).shape == (1, H)


@pytest.mark.parametrize("reset_after", [True, False])
def test_gradients_by_the_teaching_names_equal_the_scalar_reference(
    lib: Library, reset_after: bool
) -> None:
    cell = make_cell(lib, reset_after=reset_after)
    x, h, delta = draw(I, seed=0), draw(H, seed=1), draw(1, H, seed=2)
    cell.forward(lib.array(x), lib.array(h))
    dx, dh_prev_t = cell.backward(lib.array(delta))
    wanted = reference.gradients(
        host(cell.parameters()), x[None, None], h[None], delta[None], reset_after=reset_after
    )
    lib.assert_close(dx, wanted["x"][0], atol=1e-14)
    lib.assert_close(dh_prev_t, wanted["h0"], atol=1e-14)
    for name, (packed, index) in GATE_NAMES.items():
        lib.assert_close(getattr(cell, f"d{name}"), rows(wanted[packed], index), atol=1e-14)


@pytest.mark.parametrize(
    ("x_shape", "delta_shape", "lead"),
    [((I,), (H,), ()), ((I,), (1, H), (1,)), ((1, I), (H,), ()), ((1, I), (1, H), (1,))],
)
def test_gradients_have_the_rank_of_delta(
    lib: Library, x_shape: tuple[int, ...], delta_shape: tuple[int, ...], lead: tuple[int, ...]
) -> None:
    cell = make_cell(lib)
    x, delta = draw(*x_shape, seed=0), draw(*delta_shape, seed=2)
    cell(lib.array(x))
    dx, dh = cell.backward(lib.array(delta))
    assert (dx.shape, dh.shape) == ((*lead, I), (*lead, H))
    cell(lib.array(x.reshape(1, I)))
    expected, _ = cell.backward(lib.array(delta.reshape(1, H)))
    lib.assert_close(dx, lib.numpy(expected).reshape(dx.shape), atol=0)


def test_backward_repeats_and_assigns_instead_of_accumulating(lib: Library) -> None:
    cell = make_cell(lib)
    cell(lib.array(draw(N, I, seed=0)), lib.array(draw(N, H, seed=1)))
    delta = lib.array(draw(N, H, seed=2))
    cell.backward(delta)
    first = host(cell.gradients())
    cell.backward(lib.array(draw(N, H, seed=4)))
    second = host(cell.gradients())
    cell.backward(delta)
    for name, gradient in cell.gradients().items():
        lib.assert_close(gradient, first[name], atol=0)
        assert (first[name] != second[name]).any()


def test_what_the_caller_changes_after_the_call_reaches_neither_tape_nor_weights(
    lib: Library,
) -> None:
    if not lib.mutable or lib.read_only:
        pytest.skip("needs arguments that can be changed")
    cell = make_cell(lib)
    x, h, delta = (lib.array(draw(N, k, seed=s)) for s, k in enumerate((I, H, H)))
    h_t = cell(x, h)
    cell.backward(delta)
    wanted = host(cell.gradients())
    x[...] = 0.0
    h[...] = 0.0
    h_t[...] = 0.0
    cell.backward(delta)
    for name, gradient in cell.gradients().items():
        lib.assert_close(gradient, wanted[name], atol=0)


def test_no_argument_is_modified(lib: Library) -> None:
    cell = make_cell(lib)
    hosts = [draw(N, k, seed=s) for s, k in enumerate((I, H, H))]
    x, h, delta = (lib.array(each) for each in hosts)
    cell(x, h)
    cell.backward(delta)
    for array, wanted in zip((x, h, delta), hosts, strict=True):
        lib.assert_close(array, wanted, atol=0)


def test_arguments_that_are_not_contiguous_work(lib: Library) -> None:
    cell = make_cell(lib)
    x, h = draw(N, 2 * I, seed=0), draw(H, N, seed=1)
    strided = cell(lib.array(x)[:, ::2], lib.array(h).T)
    plain = cell(lib.array(x[:, ::2]), lib.array(np.ascontiguousarray(h.T)))
    lib.assert_close(strided, lib.numpy(plain), atol=1e-15)


def test_init_weights_replaces_all_twelve_and_takes_on_their_dtype(lib: Library) -> None:
    cell = make_cell(lib, dtype="float32")
    values = {
        name: draw(*getattr(cell, name).shape, seed=seed) for seed, name in enumerate(GATE_NAMES)
    }
    order = ["Wrx", "Wzx", "Wnx", "Wrh", "Wzh", "Wnh", "brx", "bzx", "bnx", "brh", "bzh", "bnh"]
    cell.init_weights(*(lib.array(values[name], "float64") for name in order))
    for name in order:
        lib.assert_close(getattr(cell, name), values[name], atol=0, dtype="float64")
    cell.init_weights(*(values[name].astype("float32") for name in order))  # NumPy's, anywhere
    for name in order:
        lib.assert_close(
            getattr(cell, name), values[name].astype("float32"), atol=0, dtype="float32"
        )


def test_without_bias_the_bias_names_are_none(lib: Library) -> None:
    cell = make_cell(lib, bias=False)
    cell(lib.array(draw(N, I, seed=0)))
    cell.backward(lib.array(draw(N, H, seed=2)))
    for name in ("bias_ih", "bias_hh", *(name for name in GATE_NAMES if name[0] == "b")):
        assert getattr(cell, name) is None
        if len(name) == 3:
            assert getattr(cell, f"d{name}") is None
    assert list(cell.parameters()) == list(cell.gradients()) == ["weight_ih", "weight_hh"]
    weights = [draw(H, I, seed=s) for s in range(3)] + [draw(H, H, seed=s) for s in range(3)]
    cell.init_weights(*weights)
    lib.assert_close(cell.Wnh, weights[5], atol=0)
    with pytest.raises(AttributeError, match="bias=False"):
        cell.brx = lib.array(draw(H, seed=0))
    with pytest.raises(AttributeError, match="bias=False"):
        cell.bias_ih = lib.array(draw(3 * H, seed=0))
    with pytest.raises(ValueError, match="bias=False"):
        cell.init_weights(*weights, *[draw(H, seed=0)] * 6)


def test_state_dict_is_a_snapshot_that_loads_back(lib: Library) -> None:
    cell = make_cell(lib)
    state = cell.state_dict()
    wanted = host(state)
    assert list(state) == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    cell.reset_parameters(rng=99)
    for name, array in cell.parameters().items():
        assert (lib.numpy(array) != wanted[name]).all()
        lib.assert_close(state[name], wanted[name], atol=0)
    assert cell.load_state_dict(state) == ([], [])
    for name, array in cell.parameters().items():
        lib.assert_close(array, wanted[name], atol=0)


def test_load_state_dict_takes_numpy_arrays_and_casts_to_the_cells_dtype(lib: Library) -> None:
    cell = make_cell(lib, dtype="float32")
    state = gru_xp.GRUCell(I, H, dtype="float64", rng=8).state_dict()
    cell.load_state_dict(state)
    for name, array in cell.parameters().items():
        lib.assert_close(array, state[name].astype("float32"), atol=0, dtype="float32")


def test_load_state_dict_names_what_does_not_match_and_then_changes_nothing(lib: Library) -> None:
    cell = make_cell(lib)
    before = host(cell.parameters())
    state = host(gru_xp.GRUCell(I, H, dtype="float64", rng=8).state_dict())
    renamed = {"bias": state.pop("bias_hh"), **state}
    with pytest.raises(ValueError, match=r"missing \['bias_hh'\]; unexpected \['bias'\]"):
        cell.load_state_dict(renamed)
    wrong = {**state, "bias_hh": np.zeros(3 * H + 1)}
    with pytest.raises(ValueError, match=r"bias_hh: expected shape \(12,\), got \(13,\)"):
        cell.load_state_dict(wrong)
    for name, array in cell.parameters().items():
        lib.assert_close(array, before[name], atol=0)
    keys = cell.load_state_dict(renamed, strict=False)
    assert keys.missing_keys == ["bias_hh"]
    assert keys.unexpected_keys == ["bias"]
    lib.assert_close(cell.weight_ih, state["weight_ih"], atol=0)
    lib.assert_close(cell.bias_hh, before["bias_hh"], atol=0)


@pytest.mark.parametrize("reset_after", [True, False])
def test_eval_keeps_no_tape_and_backward_names_train(lib: Library, reset_after: bool) -> None:
    cell = make_cell(lib, reset_after=reset_after)
    assert cell.training
    x, delta = lib.array(draw(N, I, seed=0)), lib.array(draw(N, H, seed=2))
    wanted = lib.numpy(cell(x))
    assert cell.eval() is cell
    assert not cell.training
    lib.assert_close(cell(x), wanted, atol=0)
    cell(lib.array(np.ones((N, I)), "int64"))  # integers take no accelerator's quick step
    with pytest.raises(RuntimeError, match=r"train\(\)"):
        cell.backward(delta)
    with pytest.raises(AttributeError, match=r"train\(\)"):
        _ = cell.r
    assert cell.train() is cell
    with pytest.raises(RuntimeError, match="Call forward first"):
        cell.backward(delta)
    cell(x)
    cell.backward(delta)


def test_what_has_not_been_computed_yet_says_so(lib: Library) -> None:
    cell = make_cell(lib)
    with pytest.raises(RuntimeError, match="forward"):
        cell.backward(lib.array(draw(N, H, seed=2)))
    with pytest.raises(RuntimeError, match="backward"):
        cell.gradients()
    for name in ("x", "hidden", "r", "z", "n", "dWrx", "dbnh", "dr", "dn"):
        assert not hasattr(cell, name)


def test_to_changes_dtype_and_device_in_place(lib: Library) -> None:
    cell = make_cell(lib)
    wanted = host(cell.parameters())
    assert cell.to(dtype="float32") is cell
    assert dtypes.dtype_name(cell.dtype) == "float32"
    for name, array in cell.parameters().items():
        lib.assert_close(array, wanted[name].astype("float32"), atol=0, dtype="float32")
    cell.to(device=lib.other_device, dtype=getattr(lib.xp, "float64"))  # noqa: B009
    assert cell.device == lib.other_device
    assert dtypes.dtype_name(cell.dtype) == "float64"


def test_to_numpy_and_back_keeps_the_numbers(lib: Library) -> None:
    cell = make_cell(lib)
    wanted = host(cell.parameters())
    cell.to(backend="numpy")
    assert cell.backend == "numpy"
    assert isinstance(cell.weight_ih, np.ndarray)
    cell.to(backend=lib.name, device=lib.device)
    assert cell.backend == lib.name
    for name, array in cell.parameters().items():
        lib.assert_close(array, wanted[name], atol=0, dtype="float64")


def test_a_to_that_fails_leaves_the_cell_as_it_was(lib: Library) -> None:
    cell = make_cell(lib)
    wanted = host(cell.parameters())
    for request in ({"backend": "nonesuch"}, {"device": "nonesuch"}, {"dtype": "int32"}):
        with pytest.raises((gru_xp.BackendError, TypeError)):
            cell.to(**request)
    for name, array in cell.parameters().items():
        lib.assert_close(array, wanted[name], atol=0, dtype="float64")


def test_copies_are_independent(lib: Library) -> None:
    cell = make_cell(lib)
    twin = copy.deepcopy(cell)
    twin.reset_parameters(rng=1)
    assert (lib.numpy(twin.weight_ih) != lib.numpy(cell.weight_ih)).all()


def pickled(cell: Any) -> Any:
    return pickle.loads(pickle.dumps(cell))


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled])
def test_a_copy_goes_on_where_the_cell_is(lib: Library, copied: Any, reset_after: bool) -> None:
    if lib.name == "jax" and copied is pickled:
        pytest.skip("JAX unpickles arrays onto its default device")
    cell = make_cell(lib, reset_after=reset_after)
    cell(lib.array(draw(N, I, seed=0)), lib.array(draw(N, H, seed=1)))
    twin = copied(cell)
    assert repr(twin) == repr(cell)
    wanted = cell.backward(lib.array(draw(N, H, seed=2)))
    got = twin.backward(lib.array(draw(N, H, seed=2)))  # of the forward before
    of_gates = copied(cell)  # and of the backward before
    for one, other in zip(
        (*got, twin.dWnh, twin.dz, of_gates.dr, of_gates.dn),
        (*wanted, cell.dWnh, cell.dz, cell.dr, cell.dn),
        strict=True,
    ):
        lib.assert_close(one, lib.numpy(other), atol=0)


class Slotted(gru_xp.GRUCell):
    """A subclass with a slot, which `copy` and `pickle` handle apart from the rest."""

    __slots__ = ("extra",)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled])
def test_a_subclass_with_slots_is_copied_whole(copied: Any) -> None:
    cell = Slotted(I, H, rng=0)
    cell.extra = [1, 2]
    twin = copied(cell)
    assert twin.extra == [1, 2]
    np.testing.assert_array_equal(twin(np.ones(I, np.float32)), cell(np.ones(I, np.float32)))


def test_a_shallow_copy_keeps_its_weights_together(lib: Library) -> None:
    cell = make_cell(lib).eval()
    twin = copy.copy(cell)
    before = lib.numpy(cell(lib.array(draw(N, I, seed=0))))
    twin.Wnx = np.zeros((H, I))
    shared = lib.mutable  # where it is written in place, for both
    assert bool(lib.numpy(cell.Wnx).any()) != shared
    after = lib.numpy(cell(lib.array(draw(N, I, seed=0))))
    assert np.array_equal(before, after) != shared
    assert not lib.numpy(twin.Wnx).any()


@pytest.mark.parametrize("reset_after", [True, False])
def test_a_gates_gradient_is_computed_once(lib: Library, reset_after: bool) -> None:
    cell = make_cell(lib, reset_after=reset_after)
    cell(lib.array(draw(N, I, seed=0)))
    cell.backward(lib.array(draw(N, H, seed=2)))
    first = cell.dr
    assert cell.dr is first
    cell.backward(lib.array(draw(N, H, seed=3)))
    assert cell.dr is not first


@pytest.mark.parametrize("reset_after", [True, False])
def test_a_gates_gradient_is_of_the_weights_that_the_backward_saw(
    lib: Library, reset_after: bool
) -> None:
    asked_at_once, asked_later = (make_cell(lib, reset_after=reset_after) for _ in range(2))
    x, h, delta = (lib.array(draw(N, k, seed=seed)) for seed, k in enumerate((I, H, H)))
    for cell in (asked_at_once, asked_later):
        cell(x, h)
        cell.backward(delta)
    wanted = lib.numpy(asked_at_once.dr)
    asked_later.Wnh = 0  # as a step of training would change them
    lib.assert_close(asked_later.dr, wanted, atol=0)


def test_a_cell_computes_where_its_weights_are_now(lib: Library) -> None:
    cell, x = make_cell(lib), lib.array(draw(N, I, seed=0), "float32")
    weights = {name: getattr(cell, name) for name in GATE_NAMES}
    cell.to(dtype="float32")
    lib.assert_close(cell(x), lib.numpy(cell(x)), atol=0, dtype="float32")
    cell.init_weights(**weights)  # of float64
    lib.assert_close(cell(x), lib.numpy(cell(x)), atol=0, dtype="float64")
    cell.to(backend="numpy")
    assert type(cell(lib.numpy(x))) is np.ndarray


def test_where_the_reset_gate_acts_is_no_part_of_the_state(lib: Library) -> None:
    after, before = make_cell(lib, rng=1), make_cell(lib, rng=2, reset_after=False)
    assert list(before.state_dict()) == list(after.state_dict())
    before.load_state_dict(after.state_dict())
    assert (after.reset_after, before.reset_after) == (True, False)
    x, h = lib.array(draw(N, I, seed=0)), lib.array(draw(N, H, seed=1))
    assert (lib.numpy(before(x, h)) != lib.numpy(after(x, h))).all()


def test_a_form_that_is_changed_after_the_forward_is_refused(lib: Library) -> None:
    cell, delta = make_cell(lib), lib.array(draw(N, H, seed=2))
    cell(lib.array(draw(N, I, seed=0)))
    cell.reset_after = False
    with pytest.raises(ValueError, match="GRUCell: expected reset_after=True, as in the forward"):
        cell.backward(delta)


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, ""),
        ({"bias": False}, "bias=False, "),
        ({"reset_after": False}, "reset_after=False, "),
        ({"bias": False, "reset_after": False}, "bias=False, reset_after=False, "),
    ],
)
def test_repr_says_what_it_is(lib: Library, options: dict[str, bool], shown: str) -> None:
    text = repr(make_cell(lib, **options))
    assert text.startswith(f"GRUCell(5, 4, {shown}backend=")
    assert f"backend={lib.name!r}" in text
    assert "dtype='float64'" in text


def test_parameters_are_the_weights_themselves(lib: Library) -> None:
    cell = make_cell(lib)
    assert cell.parameters()["weight_ih"] is cell.weight_ih
    assert cell.params.bias_hh is cell.bias_hh


@pytest.mark.parametrize("name", GATE_NAMES)
def test_a_gates_gradient_assigns_into_the_packed_gradient(lib: Library, name: str) -> None:
    cell = make_cell(lib)
    with pytest.raises(AttributeError, match=f"d{name} is not available before the first backward"):
        setattr(cell, f"d{name}", lib.array(draw(*getattr(cell, name).shape, seed=5)))
    cell(lib.array(draw(N, I, seed=0)))
    cell.backward(lib.array(draw(N, H, seed=2)))
    packed, index = GATE_NAMES[name]
    value = draw(*getattr(cell, name).shape, seed=5)
    setattr(cell, f"d{name}", lib.array(value))
    lib.assert_close(rows(cell.gradients()[packed], index), value, atol=0)
    cell.backward(lib.array(draw(N, H, seed=2)))
    assert (lib.numpy(getattr(cell, f"d{name}")) != value).all()


def test_what_a_call_stored_cannot_be_assigned(lib: Library) -> None:
    cell = make_cell(lib)
    for name in ("x", "hidden", "r", "z", "n", "dr", "dz", "dn"):
        with pytest.raises(AttributeError, match=f"{name} cannot be assigned: it is the stored"):
            setattr(cell, name, lib.array(draw(N, H, seed=0)))


def test_weights_that_are_replaced_take_gradients_and_tape_with_them(lib: Library) -> None:
    twelve = [lib.array(draw(H, k, seed=0)) for k in (I, I, I, H, H, H)]
    twelve += [lib.array(draw(H, seed=0))] * 6
    for replace in (lambda cell: cell.init_weights(*twelve), lambda cell: cell.to(dtype="float32")):
        cell = make_cell(lib)
        cell(lib.array(draw(N, I, seed=0)))
        delta = lib.array(draw(N, H, seed=2))
        cell.backward(delta)
        replace(cell)
        with pytest.raises(RuntimeError, match="no gradients are available"):
            cell.gradients()
        with pytest.raises(RuntimeError, match="Call forward first"):
            cell.backward(delta)


def test_torch_graphs_stay_outside_but_go_through(lib: Library) -> None:
    if lib.name != "torch":
        pytest.skip("about tensors that require grad")
    torch = pytest.importorskip("torch", reason="about torch")
    cell = make_cell(lib)
    cell.load_state_dict(dict(torch.nn.GRUCell(I, H, dtype=torch.float64).named_parameters()))
    cell.Wrx = torch.ones(H, I, dtype=torch.float64, requires_grad=True)
    assert not any(array.requires_grad for array in cell.parameters().values())
    x = lib.array(draw(N, I, seed=0)).requires_grad_()
    h_t = cell(x)
    dx, _ = cell.backward(torch.ones_like(h_t).detach())
    assert not dx.requires_grad
    assert not any(array.requires_grad for array in (cell.x, cell.r, *cell.gradients().values()))
    copy.deepcopy(cell)
    h_t.sum().backward()  # torch's own way back is open, for what stands before the cell
    lib.assert_close(x.grad, lib.numpy(dx), atol=1e-14)


@pytest.mark.parametrize("make", [lambda a: a[::-1], lambda a: a.astype(">f8"), np.asfortranarray])
def test_numpy_arrays_of_any_layout_load(lib: Library, make: Any) -> None:
    cell = gru_xp.GRUCell(1, H, backend=lib.name, device=lib.device, dtype="float64")
    value = make(draw(3 * H, 1, seed=0))
    cell.weight_ih = value
    lib.assert_close(cell.weight_ih, value.astype("float64"), atol=0)
    cell.weight_ih = value[:, ::-1]
    lib.assert_close(cell.weight_ih, value.astype("float64"), atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_the_state_has_a_name_in_each_vocabulary(lib: Library, training: bool) -> None:
    cell = make_cell(lib).train(training)
    x, h = lib.array(draw(N, I, seed=0)), lib.array(draw(N, H, seed=1))
    called, forwarded = cell(x, h=h), cell.forward(x, h_prev_t=h)
    lib.assert_close(called, lib.numpy(forwarded), atol=0)
