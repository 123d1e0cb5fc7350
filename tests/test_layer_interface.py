"""GRU as its users hold it: names, dropout, modes, and what it refuses."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp import functional
from gru_xp.arrays import dtypes, libraries, transfer
from gru_xp.arrays.place import Place
from tests.library import Library
from tests.test_cell_values import draw
from tests.test_layer_values import LENGTHS, H, I, N, T, host, make_gru, padding


def test_parameters_have_torchs_names_shapes_and_order(lib: Library) -> None:
    torch = pytest.importorskip("torch", reason="the names are torch.nn.GRU's")
    for options in ({}, {"num_layers": 2, "bidirectional": True}, {"num_layers": 2, "bias": False}):
        reverse = not options.get("bidirectional")  # whose names are those of forward
        ours = make_gru(lib, reverse=reverse, **options)
        theirs = torch.nn.GRU(I, H, **options)
        want = [(name, tuple(each.shape)) for name, each in theirs.named_parameters()]
        assert [(name, tuple(each.shape)) for name, each in ours.parameters().items()] == want


def test_weights_read_and_assign_by_name(lib: Library) -> None:
    gru = make_gru(lib, num_layers=2, bidirectional=True)
    value = draw(3 * H, 2 * H, seed=5)
    gru.weight_ih_l1_reverse = lib.array(value)
    lib.assert_close(gru.parameters()["weight_ih_l1_reverse"], value, atol=0)
    lib.assert_close(gru.params[3].weight_ih, value, atol=0)
    with pytest.raises(ValueError, match=r"bias_hh_l0: expected shape \(9,\), got \(8,\)"):
        gru.bias_hh_l0 = lib.array(draw(8, seed=0))
    with pytest.raises(AttributeError, match="this GRU has no weight 'weight_ih_l2'"):
        gru.weight_ih_l2 = lib.array(value)
    with pytest.raises(AttributeError, match="no attribute 'weight_ih_l2'"):
        _ = gru.weight_ih_l2
    without = make_gru(lib, bias=False)
    assert without.bias_ih_l0 is None
    with pytest.raises(AttributeError, match="no weight 'bias_ih_l0'"):
        without.bias_ih_l0 = lib.array(draw(3 * H, seed=0))


def test_a_change_in_place_shows_in_the_next_call(lib: Library) -> None:
    if not lib.mutable:
        pytest.skip("JAX arrays do not change")
    gru = make_gru(lib, num_layers=2)
    x = lib.array(draw(T, N, I, seed=0))
    before = lib.numpy(gru(x)[0])
    gru.weight_hh_l1[...] = 0.0
    assert (lib.numpy(gru(x)[0])[1:] != before[1:]).all()


def test_state_dict_loads_back_and_names_what_does_not_match(lib: Library) -> None:
    gru = make_gru(lib, num_layers=2)
    state = gru.state_dict()
    wanted = host(state)
    gru.reset_parameters(rng=8)
    assert (lib.numpy(gru.weight_ih_l0) != wanted["weight_ih_l0"]).all()
    gru.load_state_dict(state)
    for name, array in gru.parameters().items():
        lib.assert_close(array, wanted[name], atol=0)
    with pytest.raises(ValueError, match=r"missing \['bias_hh_l1'\]"):
        gru.load_state_dict({name: a for name, a in wanted.items() if name != "bias_hh_l1"})


def test_to_moves_all_weights(lib: Library) -> None:
    gru = make_gru(lib, num_layers=2, bidirectional=True)
    wanted = host(gru.parameters())
    assert gru.to(backend="numpy", dtype="float32") is gru
    assert (gru.backend, dtypes.dtype_name(gru.dtype)) == ("numpy", "float32")
    for name, array in gru.parameters().items():
        np.testing.assert_array_equal(array, wanted[name].astype("float32"))


def test_eval_keeps_no_tape_and_backward_names_train(lib: Library) -> None:
    gru = make_gru(lib).eval()
    y, _ = gru(lib.array(draw(T, N, I, seed=0)))
    with pytest.raises(
        RuntimeError, match=r"GRU.backward: no tape is kept in evaluation mode. Call train\(\)"
    ):
        gru.backward(y)
    with pytest.raises(RuntimeError, match="Call forward first"):
        gru.train().backward(y)


def test_backward_repeats_and_assigns_instead_of_accumulating(lib: Library) -> None:
    gru = make_gru(lib, num_layers=2)
    gru(lib.array(draw(T, N, I, seed=0)))
    gru.backward(lib.array(draw(T, N, H, seed=2)))
    first = host(gru.gradients())
    gru.backward(lib.array(draw(T, N, H, seed=2)))
    for name, gradient in gru.gradients().items():
        lib.assert_close(gradient, first[name], atol=0)


def test_what_the_caller_changes_after_the_call_does_not_reach_the_tape(lib: Library) -> None:
    if not lib.mutable or lib.read_only:
        pytest.skip("needs arguments that can be changed")
    for options in ({}, {"num_layers": 2}, {"batch_first": True}, {"bidirectional": True}):
        gru = make_gru(lib, **options)
        places, width = len(gru.params), H * (1 + gru.bidirectional)
        x, h0 = lib.array(draw(N, N, I, seed=0)), lib.array(draw(places, N, H, seed=1))
        lengths = lib.array([3, 1, 2], "int64")
        dy = lib.array(draw(N, N, width, seed=2))
        y, h_n = gru(x, h0, lengths=lengths)
        gru.backward(dy)
        wanted = host(gru.gradients())
        for array in (x, h0, y, h_n, lengths):
            array[...] = 0
        gru.backward(dy)
        for name, gradient in gru.gradients().items():
            lib.assert_close(gradient, wanted[name], atol=0)


def test_without_lengths_the_output_is_no_alias_of_the_tape(lib: Library) -> None:
    if not lib.mutable:
        pytest.skip("JAX arrays do not change")
    gru = make_gru(lib)
    y, _ = gru(lib.array(draw(T, N, I, seed=0)))
    dy = lib.array(draw(T, N, H, seed=2))
    gru.backward(dy)
    wanted = host(gru.gradients())
    y[...] = 0
    gru.backward(dy)
    for name, gradient in gru.gradients().items():
        lib.assert_close(gradient, wanted[name], atol=0)


class TestDropout:
    """Between layers, in training, the same on every backend."""

    def run(self, lib: Library, **options: Any) -> Any:
        gru = make_gru(lib, 2, 64, num_layers=2, dropout=0.25, **options)
        return gru, lib.array(draw(T, N, 2, seed=0))

    @pytest.mark.feature("dropout")
    def test_one_seed_gives_numpys_numbers(self, lib: Library) -> None:
        gru, x = self.run(lib)
        numpys = gru_xp.GRU(2, 64, 2, dropout=0.25, dtype="float64", rng=3)
        for _ in range(2):
            y, h_n = gru(x)
            want_y, want_h = numpys(draw(T, N, 2, seed=0))
            lib.assert_close(y, want_y, atol=1e-13)
            lib.assert_close(h_n, want_h, atol=1e-13)

    def test_calls_differ_and_the_share_is_that_asked_for(self, lib: Library) -> None:
        gru, x = self.run(lib)
        first = lib.numpy(gru(x)[0])
        assert (lib.numpy(gru(x)[0]) != first).any()
        masks = [lib.numpy(gru._dropout_masks(x)[0]) for _ in range(20)]
        assert set(np.unique(masks)) == {0, 1 / 0.75}
        assert np.mean(np.array(masks) == 0) == pytest.approx(0.25, abs=0.02)

    def test_eval_turns_it_off(self, lib: Library) -> None:
        gru, x = self.run(lib)
        plain = make_gru(lib, 2, 64, num_layers=2)
        wanted = lib.numpy(plain(x)[0])
        lib.assert_close(gru.eval()(x)[0], wanted, atol=0)
        # An accelerator's one call for all layers has no gates, and so does not run here.
        lib.assert_close(gru(x, return_gates=True)[0], wanted, atol=0)

    def test_the_first_layer_and_the_last_output_are_untouched(self, lib: Library) -> None:
        gru, x = self.run(lib)
        _, h_n = gru(x)
        _, plain = make_gru(lib, 2, 64, num_layers=2)(x)
        lib.assert_close(h_n[0, ...], lib.numpy(plain)[0], atol=0)
        assert (lib.numpy(h_n)[1] != lib.numpy(plain)[1]).any()
        single = make_gru(lib, 2, 64, dropout=0.25)
        lib.assert_close(single(x)[0], lib.numpy(make_gru(lib, 2, 64)(x)[0]), atol=0)

    @pytest.mark.parametrize("value", [-0.1, 1.0, float("nan"), True, "0.5", None])
    def test_what_is_no_share_is_refused(self, value: Any) -> None:
        with pytest.raises(ValueError, match="dropout must be at least 0 and less than 1, got"):
            gru_xp.GRU(2, 2, dropout=value)


BAD = {
    "input 1-D": ((I,), None, None, r"expected input to be 2-D \(time, 4\) or 3-D .* got 1-D"),
    "input 4-D": ((1, T, N, I), None, None, r"or 3-D \(time, batch, 4\), got 4-D"),
    "input size": ((T, N, I + 1), None, None, "input_size: expected 4, got 5"),
    "h0": ((T, N, I), (1, N, H), None, r"expected h0 of shape \(2, 3, 3\), got \(1, 3, 3\)"),
    "h0 batch": ((T, N, I), (2, 1, H), None, r"expected h0 of shape \(2, 3, 3\), got \(2, 1, 3\)"),
    "h0 rank": ((T, N, I), (2, H), None, r"expected h0 of shape \(2, 3, 3\), got \(2, 3\)"),
    "h0 unbatched": ((T, I), (2, 1, H), None, r"expected h0 of shape \(2, 3\), got \(2, 1, 3\)"),
    "lengths count": ((T, N, I), None, [5, 5], r"lengths of shape \(3,\), one per row"),
    "lengths above": (
        (T, N, I),
        None,
        [5, 6, 1],
        r"between 0 and 5, the number of steps .* got 6 for row 1",
    ),
    "lengths below": (
        (T, N, I),
        None,
        [5, 0, -1],
        r"between 0 and 5, the number of steps .* got -1 for row 2",
    ),
    "lengths unbatched": ((T, I), None, [5], "lengths require input with a batch axis"),
}


@pytest.mark.parametrize("case", BAD)
def test_shapes_that_do_not_fit_are_named(lib: Library, case: str) -> None:
    x_shape, h_shape, lengths, message = BAD[case]
    gru = make_gru(lib, num_layers=2)
    h0 = None if h_shape is None else lib.array(np.zeros(h_shape))
    with pytest.raises(ValueError, match=message):
        gru(lib.array(np.zeros(x_shape)), h0, lengths=lengths)


def test_batch_first_is_named_in_the_axes(lib: Library) -> None:
    with pytest.raises(ValueError, match=r"3-D \(batch, time, 4\)"):
        make_gru(lib, batch_first=True)(lib.array(np.zeros(I)))


@pytest.mark.parametrize("lengths", [[1.0, 2.0, 3.0], ["a", "b", "c"], [True, False, True]])
def test_lengths_that_are_no_integers_are_refused(lib: Library, lengths: Any) -> None:
    with pytest.raises(TypeError, match="expected lengths to be integers"):
        make_gru(lib)(lib.array(np.zeros((T, N, I))), lengths=lengths)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "uint32", "uint64"])
def test_lengths_may_be_an_array_of_any_integer_dtype(lib: Library, dtype: str) -> None:
    gru, x = make_gru(lib, bidirectional=True), lib.array(draw(T, N, I, seed=0))
    want, _ = gru(x, lengths=LENGTHS)
    lib.assert_close(gru(x, lengths=lib.array(LENGTHS, dtype))[0], lib.numpy(want), atol=0)
    assert not lib.numpy(want)[padding(LENGTHS)].any()


def test_lengths_beyond_255_steps_do_not_wrap_in_a_small_dtype(lib: Library) -> None:
    gru = make_gru(lib, 1, 1)
    x = lib.array(draw(300, 1, 1, seed=0))
    want, _ = gru(x, lengths=[200])
    got, _ = gru(x, lengths=lib.array([200], "uint8"))
    lib.assert_close(got, lib.numpy(want), atol=0)


@pytest.mark.parametrize("rows", [None, 3])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "batch_first": True}])
def test_without_dy_the_gradients_are_those_of_zeros(
    lib: Library, options: dict[str, Any], rows: int | None
) -> None:
    gru = make_gru(lib, num_layers=2, **options)
    shape = (T, I) if rows is None else (rows, T, I) if gru.batch_first else (T, rows, I)
    x = lib.array(draw(*shape, seed=0))
    lengths = None if rows is None else [T, 0, 2]
    y, h_n = gru(x, lengths=lengths)
    zeros, dh_n = lib.array(np.zeros(y.shape)), lib.array(draw(*h_n.shape, seed=1))
    wanted = [*gru.backward(zeros, dh_n), *gru.gradients().values()]
    got = [*gru.backward(dh_n=dh_n), *gru.gradients().values()]
    for one, other in zip(got, wanted, strict=True):
        lib.assert_close(one, lib.numpy(other), atol=0)
    functional_options = {**options, "lengths": lengths}
    _, _, tape = functional.gru(gru.params, x, **functional_options)
    _, dx, dh0 = functional.gru_backward(gru.params, tape, None, dh_n, **options)
    for one, other in zip((dx, dh0), wanted, strict=False):
        lib.assert_close(one, lib.numpy(other), atol=0)
    with pytest.raises(TypeError, match="GRU: expected dy, dh_n or both, got neither"):
        gru.backward()
    with pytest.raises(ValueError, match=r"only the last states, pass dh_n and omit dy"):
        gru.backward(dh_n)


@pytest.mark.parametrize("name", ["dy", "dh_n"])
def test_gradients_of_another_shape_are_refused(lib: Library, name: str) -> None:
    gru = make_gru(lib)
    y, h_n = gru(lib.array(draw(T, N, I, seed=0)))
    given = {"dy": y, "dh_n": h_n, name: lib.array(np.zeros((2, 2, 2)))}
    with pytest.raises(ValueError, match=rf"expected {name} of shape .* got \(2, 2, 2\)"):
        gru.backward(given["dy"], given["dh_n"])


def test_arrays_of_another_library_are_refused(lib: Library) -> None:
    other = "array_api_strict" if lib.name != "array_api_strict" else "numpy"
    foreign = transfer.from_numpy(np.zeros((T, N, I)), Place.named(other, dtype="float64"))
    gru = make_gru(lib)
    with pytest.raises(
        TypeError, match=rf"expected input .*, like the weights, got an array of {other}"
    ):
        gru(foreign)
    x = lib.array(np.zeros((T, N, I)))
    with pytest.raises(TypeError, match=rf"expected h0 .* got an array of {other}"):
        gru(x, foreign)
    gru(x)
    with pytest.raises(TypeError, match=rf"expected dy .* got an array of {other}"):
        gru.backward(foreign)


@pytest.mark.parametrize("name", ["input_size", "hidden_size", "num_layers"])
def test_sizes_must_be_greater_than_zero(name: str) -> None:
    sizes = {"input_size": 2, "hidden_size": 2, "num_layers": 1, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be greater than zero, got 0"):
        gru_xp.GRU(**sizes)


def test_dtypes_promote_as_in_the_cell(lib: Library) -> None:
    gru = make_gru(lib, dtype="float32", num_layers=2)
    x, h0 = lib.array(draw(T, N, I, seed=0), "float64"), lib.array(draw(2, N, H, seed=1), "float32")
    y, h_n = gru(x, h0)
    dx, dh0 = gru.backward(lib.xp.astype(y, lib.xp.float32))
    names = [dtypes.dtype_name(each.dtype) for each in (y, h_n, dx, dh0)]
    assert names == ["float64", "float64", "float64", "float32"]
    assert {dtypes.dtype_name(g.dtype) for g in gru.gradients().values()} == {"float32"}
    y, _ = gru(lib.array(np.ones((T, N, I)), "int32"))
    assert dtypes.dtype_name(y.dtype) == "float32"


def test_copies_are_independent(lib: Library) -> None:
    gru = make_gru(lib, num_layers=2)
    twin = copy.deepcopy(gru)
    twin.reset_parameters(rng=1)
    assert (lib.numpy(twin.weight_ih_l0) != lib.numpy(gru.weight_ih_l0)).all()


def test_pickle_keeps_weights_and_options() -> None:
    gru = gru_xp.GRU(2, 3, 2, dropout=0.5, bidirectional=True, reset_after=False, rng=0)
    twin = pickle.loads(pickle.dumps(gru))
    assert repr(twin) == repr(gru)
    x = np.ones((4, 1, 2), dtype=np.float32)
    np.testing.assert_array_equal(twin(x)[0], gru(x)[0])  # the masks too
    text = "GRU(2, 3, num_layers=2, dropout=0.5, bidirectional=True, reset_after=False, backend="
    assert repr(gru).startswith(text)
    gru = gru_xp.GRU(2, 3, reverse=True, rng=0)
    twin = pickle.loads(pickle.dumps(gru))
    np.testing.assert_array_equal(twin(x)[0], gru(x)[0])
    assert repr(twin) == repr(gru)
    assert repr(gru).startswith("GRU(2, 3, reverse=True, backend=")


def test_reverse_is_one_direction_alone() -> None:
    with pytest.raises(
        ValueError, match=r"bidirectional=True and reverse=True cannot be combined.*reverse=True"
    ):
        gru_xp.GRU(2, 3, bidirectional=True, reverse=True)
    positional: Any = (2, 3, 1, True, False, 0.0, False, True)
    with pytest.raises(TypeError, match="positional"):
        gru_xp.GRU(*positional)


def test_a_call_that_fails_draws_no_mask(lib: Library) -> None:
    x = lib.array(draw(T, N, I, seed=0))
    one, other = (make_gru(lib, num_layers=2, dropout=0.5) for _ in range(2))
    with pytest.raises(ValueError, match="expected h0 of shape"):
        one(x, lib.array(np.zeros((1, 1, 1))))
    lib.assert_close(one(x)[0], lib.numpy(other(x)[0]), atol=0)


def test_dropout_is_the_same_batch_first(lib: Library) -> None:
    x = draw(N, N + 1, I, seed=0)
    one = make_gru(lib, num_layers=2, dropout=0.5)
    other = make_gru(lib, num_layers=2, dropout=0.5, batch_first=True)
    y, _ = other(lib.array(x))
    lib.assert_close(one(lib.array(x.swapaxes(0, 1)))[0], lib.numpy(y).swapaxes(0, 1), atol=0)


def test_gates_are_the_same_batch_first(lib: Library) -> None:
    x = draw(N, N + 1, I, seed=0)
    _, _, ours = make_gru(lib, batch_first=True)(lib.array(x), return_gates=True)
    _, _, wanted = make_gru(lib)(lib.array(x.swapaxes(0, 1)), return_gates=True)
    for one, other in zip(ours, wanted, strict=True):
        lib.assert_close(one, lib.numpy(other).swapaxes(1, 2), atol=0)


def test_gates_in_eval_leave_no_tape(lib: Library) -> None:
    gru = make_gru(lib).eval()
    y, _, _ = gru(lib.array(draw(T, N, I, seed=0)), return_gates=True)
    with pytest.raises(RuntimeError, match="Call forward first"):
        gru.train().backward(y)


def test_a_wider_state_alone_widens_the_result(lib: Library) -> None:
    gru = make_gru(lib, dtype="float32")
    x, h0 = lib.array(draw(T, N, I, seed=0), "float32"), lib.array(draw(1, N, H, seed=1))
    y, _ = gru(x, h0)
    assert dtypes.dtype_name(y.dtype) == "float64"


def test_what_the_padding_of_a_mask_holds_never_matters(lib: Library) -> None:
    gru = make_gru(lib, num_layers=2)
    x, dy = lib.array(draw(T, N, I, seed=0)), lib.array(draw(T, N, H, seed=2))
    results = []
    for fill in (1.0, np.nan):
        mask = np.ones((T, N, H))
        mask[padding(LENGTHS)] = fill
        y, _, tape = functional.gru(gru.params, x, lengths=LENGTHS, masks=[lib.array(mask)])
        dparams, dx, _ = functional.gru_backward(gru.params, tape, dy)
        results.append([lib.numpy(a) for a in (y, dx, *(g for each in dparams for g in each))])
    for clean, dirty in zip(*results, strict=True):
        np.testing.assert_array_equal(clean, dirty)


@pytest.mark.parametrize(
    ("value", "dtype"), [(2**32 + 1, "int64"), (2**62, "int64"), (2**64 - 1, "uint64")]
)
def test_a_length_beyond_all_counting_means_all_steps(lib: Library, value: int, dtype: str) -> None:
    if lib.name == "numpy":
        pytest.skip("NumPy's lengths are checked")
    gru, x = make_gru(lib), lib.array(draw(T, 1, I, seed=0))
    y, _ = gru(x, lengths=lib.array(np.full(1, value, dtype), dtype))
    lib.assert_close(y, lib.numpy(gru(x)[0]), atol=0)


def test_lengths_that_are_ragged_themselves_are_refused(lib: Library) -> None:
    with pytest.raises(TypeError, match="lengths to be integers, one per row"):
        make_gru(lib)(lib.array(np.zeros((T, N, I))), lengths=[[1], [2, 3]])


def test_lengths_and_dh_n_of_another_library_are_refused(lib: Library) -> None:
    other = "torch_like" if lib.name == "array_api_strict" else "array_api_strict"
    if other == "torch_like":
        pytest.skip("needs a third library")
    xp = libraries.namespace(other)
    gru, x = make_gru(lib), lib.array(draw(T, N, I, seed=0))
    with pytest.raises(TypeError, match=r"expected lengths .* got an array of array_api_strict"):
        gru(x, lengths=xp.asarray([1, 2, 3]))
    y, h_n = gru(x)
    with pytest.raises(TypeError, match=r"expected dh_n .* got an array of array_api_strict"):
        gru.backward(y, transfer.from_numpy(lib.numpy(h_n), Place.named(other, dtype="float64")))


def test_weights_that_are_replaced_take_gradients_and_tape_with_them(lib: Library) -> None:
    gru = make_gru(lib)
    y, _ = gru(lib.array(draw(T, N, I, seed=0)))
    gru.backward(y)
    gru.to(dtype="float32")
    with pytest.raises(RuntimeError, match="no gradients are available"):
        gru.gradients()
    with pytest.raises(RuntimeError, match="Call forward first"):
        gru.backward(y)


def test_forward_is_the_call(lib: Library) -> None:
    gru, x = make_gru(lib), lib.array(draw(T, N, I, seed=0))
    lib.assert_close(gru.forward(x)[0], lib.numpy(gru(x)[0]), atol=0)
