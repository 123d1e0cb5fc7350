"""One step, forward and backward, against oracles that share no code with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp.arrays import transfer
from gru_xp.checking import reference
from tests.library import Library

I, H, N = 5, 4, 3  # noqa: E741
GOLDEN = np.load(Path(__file__).parent / "golden" / "gru_cell.npz")
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def make_cell(
    lib: Library,
    *,
    bias: bool = True,
    reset_after: bool = True,
    dtype: str = "float64",
    rng: int = 3,
) -> Any:
    return gru_xp.GRUCell(
        I,
        H,
        bias,
        reset_after=reset_after,
        backend=lib.name,
        device=lib.device,
        dtype=dtype,
        rng=rng,
    )


def draw(*shape: int, seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=shape)


def host(arrays: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    return {name: transfer.to_numpy(array) for name, array in arrays.items()}


@pytest.mark.feature("cell")
@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, N])
def test_states_and_gradients_equal_the_scalar_reference(
    lib: Library, reset_after: bool, bias: bool, rows: int
) -> None:
    cell = make_cell(lib, bias=bias, reset_after=reset_after)
    x, h, delta = draw(rows, I, seed=0), draw(rows, H, seed=1), draw(rows, H, seed=2)
    weights = host(cell.parameters())

    h_t = cell(lib.array(x), lib.array(h))
    dx, dh = cell.backward(lib.array(delta))

    states = reference.states(weights, x[None], h, reset_after=reset_after)
    lib.assert_close(h_t, states[0], atol=1e-14)
    wanted = reference.gradients(weights, x[None], h, delta[None], reset_after=reset_after)
    lib.assert_close(dx, wanted["x"][0], atol=1e-14)
    lib.assert_close(dh, wanted["h0"], atol=1e-14)
    assert set(cell.gradients()) == set(weights)
    for name, gradient in cell.gradients().items():
        lib.assert_close(gradient, wanted[name], atol=1e-14)


@pytest.mark.feature("cell")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [None, N])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("with_state", [True, False])
def test_everything_equals_torch(
    lib: Library, dtype: str, rows: int | None, bias: bool, with_state: bool
) -> None:
    torch = pytest.importorskip("torch", reason="the oracle is torch.nn.GRUCell")
    theirs = torch.nn.GRUCell(I, H, bias=bias, dtype=torch.float64)
    ours = make_cell(lib, bias=bias, dtype=dtype)
    shape = () if rows is None else (rows,)
    # Rounded to the dtype under test before the float64 oracle sees them, as the weights are.
    x, h, delta = (
        draw(*shape, size, seed=seed).astype(dtype).astype("float64")
        for seed, size in enumerate((I, H, H))
    )
    theirs.load_state_dict({k: torch.tensor(v) for k, v in host(ours.parameters()).items()})
    xt = torch.tensor(x, requires_grad=True)
    ht = torch.tensor(h, requires_grad=True)
    out = theirs(xt, ht if with_state else None)
    out.backward(torch.tensor(delta))

    h_t = ours(lib.array(x, dtype), lib.array(h, dtype) if with_state else None)
    dx, dh = ours.backward(lib.array(delta, dtype))

    atol = {"float32": 2e-6, "float64": 1e-14}[dtype]
    lib.assert_close(h_t, out.detach().numpy(), atol=atol, dtype=dtype)
    lib.assert_close(dx, xt.grad.numpy(), atol=atol, dtype=dtype)
    if with_state:
        lib.assert_close(dh, ht.grad.numpy(), atol=atol, dtype=dtype)
    for name, gradient in ours.gradients().items():
        lib.assert_close(gradient, getattr(theirs, name).grad.numpy(), atol=atol, dtype=dtype)


@pytest.mark.parametrize("case", ["batched", "unbatched", "nobias", "wide"])
def test_everything_equals_what_torch_gave_when_the_golden_vectors_were_made(
    lib: Library, case: str
) -> None:
    def golden(name: str) -> np.ndarray[Any, Any]:
        return GOLDEN[f"{case}.{name}"]

    weights = {name: golden(name) for name in NAMES if f"{case}.{name}" in GOLDEN}
    cell = gru_xp.GRUCell(
        golden("x").shape[-1],
        golden("h").shape[-1],
        "bias_ih" in weights,
        backend=lib.name,
        device=lib.device,
        dtype="float64",
    )
    cell.load_state_dict(weights)

    h_t = cell(lib.array(golden("x")), lib.array(golden("h")))
    dx, dh = cell.backward(lib.array(golden("delta")))

    lib.assert_close(h_t, golden("h_t"), atol=1e-14)
    lib.assert_close(dx, golden("dx"), atol=1e-14)
    lib.assert_close(dh, golden("dh"), atol=1e-14)
    for name in weights:
        lib.assert_close(cell.gradients()[name], golden(f"d{name}"), atol=1e-13)


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("rows", [None, N])
def test_gradients_equal_finite_differences(
    lib: Library, reset_after: bool, rows: int | None
) -> None:
    cell = make_cell(lib, reset_after=reset_after)
    shape = () if rows is None else (rows,)
    values = {"x": draw(*shape, I, seed=0), "h": draw(*shape, H, seed=1), **host(cell.parameters())}
    delta = draw(*shape, H, seed=2)
    cell(lib.array(values["x"]), lib.array(values["h"]))
    gradients = dict(zip("xh", cell.backward(lib.array(delta)), strict=True)) | cell.gradients()

    def loss(values: dict[str, Any]) -> float:
        other = make_cell(lib, reset_after=reset_after).eval()  # where an accelerator has its step
        other.load_state_dict({name: values[name] for name in NAMES})
        return float(
            np.sum(delta * lib.numpy(other(lib.array(values["x"]), lib.array(values["h"]))))
        )

    step = 1e-5
    for seed, (name, gradient) in enumerate(gradients.items()):
        direction = draw(*values[name].shape, seed=20 + seed)
        up, down = (loss(values | {name: values[name] + s * step * direction}) for s in (1, -1))
        slope = float(np.sum(lib.numpy(gradient) * direction))
        assert slope == pytest.approx((up - down) / (2 * step), rel=1e-7, abs=1e-9), name


@pytest.mark.parametrize("reset_after", [True, False])
def test_gate_gradients_equal_finite_differences_of_the_state_equation(
    lib: Library, reset_after: bool
) -> None:
    cell = make_cell(lib, reset_after=reset_after)
    x, h, delta = draw(N, I, seed=0), draw(N, H, seed=1), draw(N, H, seed=2)
    cell(lib.array(x), lib.array(h))
    cell.backward(lib.array(delta))
    r, z, n = (lib.numpy(gate) for gate in (cell.r, cell.z, cell.n))
    # n as a function of r, with everything else of the step held
    w = host(cell.parameters())
    weight, bias = w["weight_hh"][2 * H :], w["bias_hh"][2 * H :]
    gx_n = x @ w["weight_ih"][2 * H :].T + w["bias_ih"][2 * H :]

    def loss(r: Any, z: Any, n: Any | None = None) -> Any:
        gh_n = r * (h @ weight.T + bias) if reset_after else (r * h) @ weight.T + bias
        n = np.tanh(gx_n + gh_n) if n is None else n
        return np.sum(delta * ((1 - z) * n + z * h), axis=-1)

    def slopes(loss: Any) -> Any:
        # Unit by unit, as the reset gate of one may act on the candidates of all
        step = 1e-6
        return np.stack(
            [(loss(each) - loss(-each)) / (2 * step) for each in step * np.eye(H)], axis=-1
        )

    lib.assert_close(cell.dr, slopes(lambda each: loss(r + each, z)), atol=1e-9)
    lib.assert_close(cell.dz, slopes(lambda each: loss(r, z + each, n)), atol=1e-9)
    lib.assert_close(cell.dn, slopes(lambda each: loss(r, z, n + each)), atol=1e-9)


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("with_state", [True, False])
def test_a_cell_is_a_gru_of_one_step(
    lib: Library, reset_after: bool, training: bool, with_state: bool
) -> None:
    cell = make_cell(lib, reset_after=reset_after).train(training)
    gru = gru_xp.GRU(
        I, H, reset_after=reset_after, backend=lib.name, device=lib.device, dtype="float64"
    ).train(training)
    gru.load_state_dict({f"{name}_l0": array for name, array in cell.state_dict().items()})
    x, h, delta = (lib.array(draw(N, k, seed=seed)) for seed, k in enumerate((I, H, H)))
    h_t = cell(x, h if with_state else None)
    y, h_n = gru(x[None, ...], h[None, ...] if with_state else None)
    for one in (y, h_n):
        lib.assert_close(one[0, ...], lib.numpy(h_t), atol=1e-15)
    if training:
        dx, dh = cell.backward(delta)
        dxs, dh0 = gru.backward(delta[None, ...])
        for one, other in zip(
            (dxs[0, ...], dh0[0, ...], *gru.gradients().values()),
            (dx, dh, *cell.gradients().values()),
            strict=True,
        ):
            lib.assert_close(one, lib.numpy(other), atol=1e-15)


@pytest.mark.parametrize("reset_after", [True, False])
def test_stored_gates_are_those_of_the_equations(lib: Library, reset_after: bool) -> None:
    cell = make_cell(lib, reset_after=reset_after)
    x, h = draw(N, I, seed=0), draw(N, H, seed=1)
    h_t = cell.forward(lib.array(x), lib.array(h))
    w = {
        name: lib.numpy(getattr(cell, name))
        for name in [
            "Wrx",
            "Wzx",
            "Wnx",
            "Wrh",
            "Wzh",
            "Wnh",
            "brx",
            "bzx",
            "bnx",
            "brh",
            "bzh",
            "bnh",
        ]
    }
    r = 1 / (1 + np.exp(-(x @ w["Wrx"].T + w["brx"] + h @ w["Wrh"].T + w["brh"])))
    z = 1 / (1 + np.exp(-(x @ w["Wzx"].T + w["bzx"] + h @ w["Wzh"].T + w["bzh"])))
    gx_n = x @ w["Wnx"].T + w["bnx"]
    if reset_after:
        n = np.tanh(gx_n + r * (h @ w["Wnh"].T + w["bnh"]))
    else:
        n = np.tanh(gx_n + (r * h) @ w["Wnh"].T + w["bnh"])
    lib.assert_close(cell.r, r, atol=1e-14)
    lib.assert_close(cell.z, z, atol=1e-14)
    lib.assert_close(cell.n, n, atol=1e-14)
    lib.assert_close(cell.x, x, atol=0)
    lib.assert_close(cell.hidden, h, atol=0)
    lib.assert_close(h_t, (1 - z) * n + z * h, atol=1e-14)


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("value", [0.0, -0.0, 1e30, -1e30])
def test_extreme_inputs_saturate_without_warning_or_nan(
    lib: Library, reset_after: bool, value: float
) -> None:
    cell = make_cell(lib, dtype="float32", reset_after=reset_after)
    x = lib.array(np.full((N, I), value), "float32")
    h_t = lib.numpy(cell(x, lib.array(draw(N, H, seed=1), "float32")))
    dx, dh = cell.backward(lib.array(np.ones((N, H)), "float32"))
    assert np.isfinite(h_t).all()
    assert np.isfinite(lib.numpy(dx)).all()
    assert np.isfinite(lib.numpy(dh)).all()
    assert np.isfinite(lib.numpy(cell.dr)).all()


def test_nan_in_one_row_stays_in_that_row(lib: Library) -> None:
    cell = make_cell(lib)
    x = draw(N, I, seed=0)
    clean = lib.numpy(cell(lib.array(x)))
    x[1, 2] = np.nan
    h_t = lib.numpy(cell(lib.array(x)))
    assert np.isnan(h_t[1]).all()
    np.testing.assert_array_equal(h_t[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("reset_after", [True, False])
def test_no_state_is_exactly_a_state_of_zeros(lib: Library, reset_after: bool) -> None:
    cell = make_cell(
        lib, reset_after=reset_after
    )  # with biases, that b_hn would show if it were left out
    x, delta = lib.array(draw(N, I, seed=0)), lib.array(draw(N, H, seed=2))
    without = lib.numpy(cell(x))
    dx_without, dh_without = map(lib.numpy, cell.backward(delta))
    with_zeros = lib.numpy(cell(x, lib.array(np.zeros((N, H)))))
    dx_with, dh_with = map(lib.numpy, cell.backward(delta))
    np.testing.assert_array_equal(without, with_zeros)
    np.testing.assert_array_equal(dx_without, dx_with)
    np.testing.assert_array_equal(dh_without, dh_with)


@pytest.mark.parametrize("reset_after", [True, False])
def test_an_empty_batch_gives_empty_outputs_and_zero_weight_gradients(
    lib: Library, reset_after: bool
) -> None:
    cell = make_cell(lib, reset_after=reset_after)
    h_t = cell(lib.array(np.zeros((0, I))))
    dx, dh = cell.backward(h_t)
    assert (h_t.shape, dx.shape, dh.shape, cell.dr.shape) == ((0, H), (0, I), (0, H), (0, H))
    for gradient in cell.gradients().values():
        assert not lib.numpy(gradient).any()


def test_the_same_call_gives_the_same_bits(lib: Library) -> None:
    runs = []
    for _ in range(2):
        cell = make_cell(lib, dtype="float32")
        h_t = cell(lib.array(draw(N, I, seed=0), "float32"))
        dx, _ = cell.backward(lib.array(draw(N, H, seed=1), "float32"))
        runs.append([lib.numpy(each) for each in (h_t, dx, *cell.gradients().values())])
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(first, second)


def test_one_seed_gives_the_same_weights_on_every_backend_within_the_bound(lib: Library) -> None:
    ours = host(make_cell(lib, rng=11).parameters())
    numpys = host(gru_xp.GRUCell(I, H, dtype="float64", rng=11).parameters())
    for name, array in ours.items():
        np.testing.assert_array_equal(array, numpys[name])
        assert np.abs(array).max() <= 1 / np.sqrt(H)
        assert np.abs(array).max() > 0.8 / np.sqrt(H)
    other = host(make_cell(lib, rng=12).parameters())
    assert (other["weight_ih"] != ours["weight_ih"]).all()
