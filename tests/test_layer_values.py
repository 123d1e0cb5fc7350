"""Whole sequences through layers and directions, against oracles that share no code with ours."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp.arrays import transfer
from gru_xp.checking import reference
from tests.library import Library
from tests.test_cell_values import draw

T, N, I, H = 5, 3, 4, 3  # noqa: E741
LENGTHS = [5, 0, 2]


def make_gru(
    lib: Library, *sizes: int, dtype: str = "float64", rng: int = 3, **options: Any
) -> Any:
    input_size, hidden_size = sizes or (I, H)
    return gru_xp.GRU(
        input_size,
        hidden_size,
        backend=lib.name,
        device=lib.device,
        dtype=dtype,
        rng=rng,
        **options,
    )


def host(arrays: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    return {name: transfer.to_numpy(array) for name, array in arrays.items()}


DIRECTIONS: dict[str, dict[str, bool]] = {
    "forward": {},
    "reverse": {"reverse": True},
    "both": {"bidirectional": True},
}


def padding(lengths: list[int], *, batch_first: bool = False) -> np.ndarray[Any, Any]:
    mask = np.arange(T)[:, None] >= np.array(lengths)
    return mask.T if batch_first else mask


GRID = list(
    itertools.product(
        (1, 3),  # layers
        (True, False),  # bias
        (False, True),  # batch_first
        ("forward", "both"),
        (None, LENGTHS),
        (True, False),  # h0 given
    )
)
GRID += itertools.product(
    (1, 3), (True,), (False, True), ("reverse",), (None, LENGTHS), (True, False)
)


def grid_id(case: tuple[Any, ...]) -> str:
    layers, bias, batch_first, direction, lengths, with_h0 = case
    names = [f"{layers}l", "bias" * bias, "nf" * batch_first, direction]
    return "-".join(filter(None, [*names, "ragged" * (lengths is not None), "h0" * with_h0]))


def flipped(array: Any, lengths: Any, batch_first: bool) -> Any:
    """Each row's steps from its last to its first, padding where it was."""
    axes = (1, 0, 2) if batch_first else (0, 1, 2)
    result = array.transpose(axes).copy()
    for row, length in enumerate([T] * N if lengths is None else lengths):
        result[:length, row] = result[:length, row][::-1].copy()
    return result.transpose(axes)


def torch_run(torch: Any, theirs: Any, arrays: Any, lengths: Any, batch_first: bool) -> Any:
    """Run torch.nn.GRU and its autograd; ragged rows through a PackedSequence."""
    x, h0, dy, dh_n = arrays
    xt = torch.tensor(x, requires_grad=True)
    ht = None if h0 is None else torch.tensor(h0, requires_grad=True)
    if lengths is None:
        y, h_n = theirs(xt, ht)
    else:
        # A PackedSequence refuses length 0: such a row is left out, and its results are known.
        rows = [row for row, length in enumerate(lengths) if length]
        axis = 0 if batch_first else 1
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            torch.index_select(torch.nan_to_num(xt), axis, torch.tensor(rows)),
            [lengths[row] for row in rows],
            batch_first=batch_first,
            enforce_sorted=False,
        )
        start = torch.zeros(dh_n.shape, dtype=torch.float64) if ht is None else ht
        packed_y, last = theirs(packed, start[:, rows])
        unpacked, _ = torch.nn.utils.rnn.pad_packed_sequence(
            packed_y, batch_first=batch_first, total_length=T
        )
        y = torch.zeros(dy.shape, dtype=torch.float64).index_copy(
            axis, torch.tensor(rows), unpacked
        )
        h_n = start.index_copy(1, torch.tensor(rows), last)
    ((y * torch.tensor(np.nan_to_num(dy))).sum() + (h_n * torch.tensor(dh_n)).sum()).backward()
    dx = xt.grad.numpy()
    dh0 = None if ht is None else ht.grad.numpy()
    gradients = {name: each.grad.numpy() for name, each in theirs.named_parameters()}
    return y.detach().numpy(), h_n.detach().numpy(), dx, dh0, gradients


@pytest.mark.feature("layers")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", GRID, ids=grid_id)
def test_everything_equals_torch(lib: Library, case: tuple[Any, ...], dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="the oracle is torch.nn.GRU")
    layers, bias, batch_first, direction, lengths, with_h0 = case
    options = {
        "num_layers": layers,
        "bias": bias,
        "batch_first": batch_first,
        "bidirectional": direction == "both",
    }
    reverse = direction == "reverse"
    ours = make_gru(lib, dtype=dtype, reverse=reverse, **options)
    theirs = torch.nn.GRU(I, H, dtype=torch.float64, **options)
    theirs.load_state_dict({k: torch.tensor(v) for k, v in host(ours.parameters()).items()})

    lead, directions = (N, T) if batch_first else (T, N), 1 + (direction == "both")
    shapes = ((*lead, I), (layers * directions, N, H), (*lead, directions * H))
    x, h0, dy = (draw(*s, seed=k).astype(dtype).astype("float64") for k, s in enumerate(shapes))
    dh_n = draw(*h0.shape, seed=9).astype(dtype).astype("float64")
    if lengths is not None:
        x[padding(lengths, batch_first=batch_first)] = np.nan
        dy[padding(lengths, batch_first=batch_first)] = np.nan

    def turned(array: Any) -> Any:  # torch runs forward alone
        return flipped(array, lengths, batch_first) if reverse else array

    given = (turned(x), h0 if with_h0 else None, turned(dy), dh_n)
    want_y, want_h, want_dx, want_dh0, want = torch_run(torch, theirs, given, lengths, batch_first)

    y, h_n = ours(lib.array(x, dtype), lib.array(h0, dtype) if with_h0 else None, lengths=lengths)
    dx, dh0 = ours.backward(lib.array(dy, dtype), lib.array(dh_n, dtype))

    atol = {"float32": 1e-5, "float64": 1e-13}[dtype]
    lib.assert_close(y, turned(want_y), atol=atol, dtype=dtype)
    lib.assert_close(h_n, want_h, atol=atol, dtype=dtype)
    lib.assert_close(dx, turned(want_dx), atol=atol, dtype=dtype)
    if with_h0:
        lib.assert_close(dh0, want_dh0, atol=atol, dtype=dtype)
    assert list(ours.gradients()) == [name for name, _ in theirs.named_parameters()]
    for name, gradient in ours.gradients().items():
        lib.assert_close(gradient, want[name], atol=4 * atol, dtype=dtype)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_reverse_is_the_reverse_half_of_torchs_both(lib: Library, lengths: Any) -> None:
    torch = pytest.importorskip("torch", reason="the oracle is torch.nn.GRU")
    torch.manual_seed(0)
    theirs = torch.nn.GRU(I, H, bidirectional=True, dtype=torch.float64)
    ours = make_gru(lib, reverse=True)
    names = list(ours.parameters())
    state = theirs.state_dict()
    ours.load_state_dict({name: state[f"{name}_reverse"] for name in names})
    x, h0 = draw(T, N, I, seed=0), draw(2, N, H, seed=1)
    dy, dh_n = draw(T, N, 2 * H, seed=2), draw(2, N, H, seed=3)
    dy[..., :H] = dh_n[0] = 0  # so that the other half has no gradients
    want_y, want_h, want_dx, want_dh0, want = torch_run(
        torch, theirs, (x, h0, dy, dh_n), lengths, False
    )
    for mode in (False, True):
        y, h_n = ours.train(mode)(lib.array(x), lib.array(h0[1:]), lengths=lengths)
        lib.assert_close(y, want_y[..., H:], atol=1e-13)
        lib.assert_close(h_n, want_h[1:], atol=1e-13)
    dx, dh0 = ours.backward(lib.array(dy[..., H:]), lib.array(dh_n[1:]))
    lib.assert_close(dx, want_dx, atol=1e-13)
    lib.assert_close(dh0, want_dh0[1:], atol=1e-13)
    for name, gradient in ours.gradients().items():
        lib.assert_close(gradient, want[f"{name}_reverse"], atol=1e-12)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_outputs_equal_onnx_runtime(
    lib: Library, reset_after: bool, direction: str, lengths: list[int] | None, mode: str
) -> None:
    run = pytest.importorskip("tests.onnx_oracle", reason="the oracle is onnxruntime").run
    options = {**DIRECTIONS[direction], "reset_after": reset_after}
    ours = make_gru(lib, dtype="float32", **options).train(mode == "train")
    x, h0 = draw(T, N, I, seed=0), draw(1 + (direction == "both"), N, H, seed=1)
    weights, reverse = host(ours.parameters()), direction == "reverse"
    want_y, want_h = run(weights, x, h0, lengths, reset_after=reset_after, reverse=reverse)

    y, h_n = ours(lib.array(x, "float32"), lib.array(h0, "float32"), lengths=lengths)

    lib.assert_close(y, want_y, atol=2e-6)
    if lengths is not None:
        want_h[:, 1] = h0[:, 1]  # ONNX gives zeros after no step, where we keep the initial state
    lib.assert_close(h_n, want_h, atol=2e-6)


@pytest.mark.feature("layers")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("reset_after", [True, False])
def test_one_direction_equals_the_scalar_reference(
    lib: Library, reset_after: bool, reverse: bool
) -> None:
    """Without torch or ONNX Runtime too."""
    gru = make_gru(lib, reset_after=reset_after, reverse=reverse)
    x, h0, dy, dh_n = (
        draw(T, N, I, seed=0),
        draw(N, H, seed=1),
        draw(T, N, H, seed=2),
        draw(N, H, seed=3),
    )
    outside = padding(LENGTHS)
    y, h_n = gru(lib.array(x), lib.array(h0[None]), lengths=LENGTHS)
    dx, dh0 = gru.backward(lib.array(dy), lib.array(dh_n[None]))

    weights = {name.removesuffix("_l0"): a for name, a in host(gru.parameters()).items()}
    options: dict[str, Any] = {
        "lengths": LENGTHS,
        "reset_after": reset_after,
        "reverse": reverse,
    }
    states = reference.states(weights, x, h0, **options)
    dy = np.where(outside[..., None], 0, dy)
    wanted = reference.gradients(weights, x, h0, dy, dh_n, **options)
    lib.assert_close(y, np.where(outside[..., None], 0, states), atol=1e-14)
    lib.assert_close(h_n, states[None, 0 if reverse else -1], atol=1e-14)
    lib.assert_close(dx, wanted["x"], atol=1e-13)
    lib.assert_close(dh0, wanted["h0"][None], atol=1e-13)
    for name, gradient in gru.gradients().items():
        lib.assert_close(gradient, wanted[name.removesuffix("_l0")], atol=1e-13)


OPTIONS = {
    "plain": {},
    "layers": {"num_layers": 3},
    "bidirectional": {"num_layers": 2, "bidirectional": True},
    "batch_first": {"batch_first": True},
    "no bias": {"bias": False},
    "reset before": {"num_layers": 2, "reset_after": False, "bidirectional": True},
    "dropout": {"num_layers": 3, "dropout": 0.5},
    "reverse": {"num_layers": 2, "reverse": True, "batch_first": True},
    "reverse, reset before": {"num_layers": 2, "reverse": True, "reset_after": False},
}


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("case", OPTIONS)
def test_gradients_equal_finite_differences(lib: Library, case: str, ragged: bool) -> None:
    options = OPTIONS[case]
    lengths = LENGTHS if ragged else None
    width = H * (1 + bool(options.get("bidirectional")))
    lead = (N, T) if options.get("batch_first") else (T, N)
    x, dy = draw(*lead, I, seed=0), draw(*lead, width, seed=1)
    places = int(options.get("num_layers", 1)) * width // H
    h0, dh_n = draw(places, N, H, seed=2), draw(places, N, H, seed=3)

    def fresh() -> Any:  # from the seed: the same weights, and the same masks in its first call
        return make_gru(lib, **options)

    gru = fresh()
    gru(lib.array(x), lib.array(h0), lengths=lengths)
    dx, dh0 = gru.backward(lib.array(dy), lib.array(dh_n))
    gradients = {"x": dx, "h0": dh0, **gru.gradients()}
    values = {"x": x, "h0": h0, **host(gru.parameters())}

    def loss(values: dict[str, Any]) -> float:
        other = fresh()
        other.load_state_dict({name: values[name] for name in other.parameters()})
        y, h_n = other(lib.array(values["x"]), lib.array(values["h0"]), lengths=lengths)
        return float(np.sum(lib.numpy(y) * dy) + np.sum(lib.numpy(h_n) * dh_n))

    step = 1e-5
    for seed, (name, gradient) in enumerate(gradients.items()):
        direction = draw(*values[name].shape, seed=20 + seed)
        up, down = (loss(values | {name: values[name] + s * step * direction}) for s in (1, -1))
        slope = float(np.sum(lib.numpy(gradient) * direction))
        assert slope == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-7), name


@pytest.mark.feature("lengths")
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_each_ragged_row_agrees_with_its_sequence_run_alone(
    lib: Library, direction: str, dtype: str
) -> None:
    gru = make_gru(lib, num_layers=2, dtype=dtype, **DIRECTIONS[direction])
    x, h0 = draw(T, N, I, seed=0), draw(len(gru.params), N, H, seed=1)
    dy, dh_n = draw(T, N, H * len(h0) // 2, seed=2), draw(*h0.shape, seed=3)
    x[padding(LENGTHS)] = np.nan
    y, h_n = gru(lib.array(x, dtype), lib.array(h0, dtype), lengths=LENGTHS)
    dx, dh0 = gru.backward(lib.array(dy, dtype), lib.array(dh_n, dtype))
    together = [lib.numpy(each) for each in (y, h_n, dx, dh0)]
    total = {name: np.zeros(a.shape) for name, a in host(gru.gradients()).items()}
    tolerance = 4 * np.sqrt(T) * np.finfo(dtype).eps
    for row, length in enumerate(LENGTHS):
        alone_y, alone_h = gru(lib.array(x[:length, [row]], dtype), lib.array(h0[:, [row]], dtype))
        alone_dx, alone_dh0 = gru.backward(
            lib.array(dy[:length, [row]], dtype), lib.array(dh_n[:, [row]], dtype)
        )
        for name, array in host(gru.gradients()).items():
            total[name] += array
        alone = [lib.numpy(each) for each in (alone_y, alone_h, alone_dx, alone_dh0)]
        for index, (one, whole) in enumerate(zip(alone, together, strict=True)):
            time_axis = index in (0, 2)
            part = whole[:length, [row]] if time_axis else whole[:, [row]]
            np.testing.assert_allclose(part, one, rtol=0, atol=tolerance * np.abs(whole).max())
            if time_axis:
                assert not whole[length:, row].any()
    gru(lib.array(x, dtype), lib.array(h0, dtype), lengths=LENGTHS)
    gru.backward(lib.array(dy, dtype), lib.array(dh_n, dtype))
    for name, gradient in host(gru.gradients()).items():
        np.testing.assert_allclose(
            gradient, total[name], rtol=0, atol=4 * tolerance * np.abs(total[name]).max()
        )


@pytest.mark.feature("gates")
def test_gates_are_those_of_the_equations(lib: Library) -> None:
    gru = make_gru(lib, num_layers=2, bidirectional=True)
    x, h0 = draw(T, N, I, seed=0), draw(4, N, H, seed=1)
    y, _, gates = gru(lib.array(x), lib.array(h0), lengths=LENGTHS, return_gates=True)
    plain, _ = gru(lib.array(x), lib.array(h0), lengths=LENGTHS)
    lib.assert_close(y, lib.numpy(plain), atol=0)
    r, z, n = (lib.numpy(gate) for gate in gates)
    assert r.shape == z.shape == n.shape == (4, T, N, H)
    for gate in (r, z, n):
        assert not gate[:, padding(LENGTHS)].any()
    w = host(gru.parameters())
    # the first layer's reverse direction, row 0, at its last time step, where h0 comes in
    wx = w["weight_ih_l0_reverse"] @ x[T - 1, 0] + w["bias_ih_l0_reverse"]
    wh = w["weight_hh_l0_reverse"] @ h0[1, 0] + w["bias_hh_l0_reverse"]
    want_r = 1 / (1 + np.exp(-(wx + wh)[:H]))
    want_z = 1 / (1 + np.exp(-(wx + wh)[H : 2 * H]))
    np.testing.assert_allclose(r[1, T - 1, 0], want_r, atol=1e-14)
    np.testing.assert_allclose(z[1, T - 1, 0], want_z, atol=1e-14)
    want_n = np.tanh(wx[2 * H :] + want_r * wh[2 * H :])
    np.testing.assert_allclose(n[1, T - 1, 0], want_n, atol=1e-14)


def test_gates_in_reverse_are_of_their_own_step(lib: Library) -> None:
    both = make_gru(lib, bidirectional=True)
    gru = make_gru(lib, reverse=True)
    weights = host(both.parameters())
    gru.load_state_dict({name: weights[f"{name}_reverse"] for name in gru.parameters()})
    x = lib.array(draw(T, N, I, seed=0))
    _, _, wanted = both(x, lengths=LENGTHS, return_gates=True)
    _, _, gates = gru(x, lengths=LENGTHS, return_gates=True)
    for ours, theirs in zip(gates, wanted, strict=True):
        lib.assert_close(ours, lib.numpy(theirs)[1:], atol=1e-14)


@pytest.mark.parametrize("batch_first", [False, True])
def test_gates_have_the_axes_of_the_input(lib: Library, batch_first: bool) -> None:
    gru = make_gru(lib, batch_first=batch_first).eval()
    x = lib.array(draw(T, N, I, seed=0))
    _, _, gates = gru(x, return_gates=True)
    assert gates.r.shape == (1, T, N, H)
    _, _, gates = gru(x[0, ...], return_gates=True)
    assert gates.z.shape == (1, N, H)  # there N is the time


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("rows", [0, N])
@pytest.mark.parametrize("steps", [0, 1])
def test_no_step_and_no_row(lib: Library, steps: int, rows: int, direction: str) -> None:
    gru = make_gru(lib, num_layers=2, **DIRECTIONS[direction])
    x, h0 = draw(steps, rows, I, seed=0), draw(len(gru.params), rows, H, seed=1)
    y, h_n = gru(lib.array(x), lib.array(h0), lengths=[steps] * rows)
    assert y.shape == (steps, rows, H * len(h0) // 2)
    dx, dh0 = gru.backward(y, lib.array(h0))
    assert dx.shape == x.shape
    if steps == 0:
        lib.assert_close(h_n, h0, atol=0)
        lib.assert_close(dh0, h0, atol=0)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_unbatched_equals_a_batch_of_one(lib: Library, direction: str) -> None:
    for batch_first in (False, True):
        gru = make_gru(lib, num_layers=2, batch_first=batch_first, **DIRECTIONS[direction])
        x, h0 = draw(T, I, seed=0), draw(len(gru.params), H, seed=1)
        dy = draw(T, H * len(h0) // 2, seed=2)
        y, h_n = gru(lib.array(x), lib.array(h0))
        dx, dh0 = gru.backward(lib.array(dy), lib.array(h0))
        axis = 0 if batch_first else 1
        one = [np.expand_dims(each, axis) for each in (x, dy)]
        want_y, want_h = gru(lib.array(one[0]), lib.array(h0[:, None]))
        want_dx, want_dh0 = gru.backward(lib.array(one[1]), lib.array(h0[:, None]))
        lib.assert_close(y, lib.numpy(want_y).squeeze(axis), atol=0)
        lib.assert_close(h_n, lib.numpy(want_h)[:, 0], atol=0)
        lib.assert_close(dx, lib.numpy(want_dx).squeeze(axis), atol=0)
        lib.assert_close(dh0, lib.numpy(want_dh0)[:, 0], atol=0)


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["dy", "dh_n", "h0", "weight_ih_l0", "weight_hh_l1_reverse"])
def test_what_is_not_finite_stays_out_of_padding_and_of_empty_rows(
    lib: Library, where: str, value: float, reset_after: bool
) -> None:
    gru = make_gru(lib, num_layers=2, bidirectional=True, reset_after=reset_after)
    given = {
        "x": draw(T, N, I, seed=0),
        "h0": draw(4, N, H, seed=1),
        "dy": draw(T, N, 2 * H, seed=2),
        "dh_n": draw(4, N, H, seed=3),
    }
    empty = LENGTHS.index(0)
    if where in given:
        given[where][..., 0, 0] = value  # of a row that is not empty
    else:
        weight = host(gru.parameters())[where]
        weight[0, 0] = value
        gru.load_state_dict({where: weight}, strict=False)
    x, h0, dy, dh_n = (lib.array(each) for each in given.values())
    with np.errstate(invalid="ignore", over="ignore"):
        gru(x, h0, lengths=LENGTHS)
        dx, dh0 = gru.backward(dy, dh_n)
    assert not lib.numpy(dx)[padding(LENGTHS)].any()  # not NaN either
    np.testing.assert_allclose(lib.numpy(dh0)[:, empty], given["dh_n"][:, empty], rtol=0, atol=0)


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_empty_rows_state_that_is_not_finite_reaches_no_gradient(
    lib: Library, value: float, reset_after: bool
) -> None:
    gru = make_gru(lib, reset_after=reset_after)
    states = draw(1, N, H, seed=1)
    x, dy = lib.array(draw(T, N, I, seed=0)), lib.array(draw(T, N, H, seed=2))
    gradients = []
    for each in (states[0, LENGTHS.index(0)], value):
        states[0, LENGTHS.index(0)] = each
        with np.errstate(invalid="ignore", over="ignore"):
            gru(x, lib.array(states), lengths=LENGTHS)
            dx, _ = gru.backward(dy)
        gradients.append([lib.numpy(array) for array in (dx, *gru.gradients().values())])
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_array_equal(one, other)
