"""The model and one whole training step against torch and finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gru_xp import GRUCell
from gru_xp.arrays import dtypes, transfer
from gru_xp.arrays.place import Place
from gru_xp.training import optimizer, projection
from gru_xp.training.model import CharModel
from gru_xp.training.projection import Projection
from gru_xp.training.trainer import loss_and_gradients
from tests.library import Library

V, H, T, N, LAYERS = 5, 4, 6, 3, 2
HOST = Place.named("numpy")


def build(lib: Library, dtype: str = "float64", seed: int = 0) -> CharModel:
    """Make a model whose every weight is drawn, the output's bias too."""
    rng = np.random.default_rng(seed)
    like = CharModel.initial(V, H, LAYERS, rng=0, place=HOST).params
    shapes = {name: tuple(array.shape) for name, array in like.items()}
    return CharModel(
        {name: lib.array(rng.normal(size=shape) * 0.5, dtype) for name, shape in shapes.items()}
    )


def chunk(seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    inputs, targets = rng.integers(0, V, size=(2, T, N))
    return inputs, targets, rng.uniform(-1, 1, size=(LAYERS, N, H))


def drawn_masks() -> Any:
    return np.random.default_rng(2).integers(0, 2, (LAYERS, T, N, H)) * 2.0


def on(lib: Library, inputs: Any, targets: Any, h0: Any, dtype: str = "float64") -> Any:
    return lib.array(inputs, "int32"), lib.array(targets, "int32"), lib.array(h0, dtype)


def torch_loss(
    params: dict[str, Any], inputs: Any, targets: Any, h0: Any, masks: Any
) -> tuple[Any, Any]:
    """Mean loss and last states of the same model made of torch's own parts."""
    import torch

    h = torch.nn.functional.one_hot(torch.tensor(inputs), V).to(torch.float64)
    last = []
    for layer in range(LAYERS):
        gru = torch.nn.GRU(h.shape[-1], H, dtype=torch.float64)
        names = GRUCell(1, 1).parameters()
        weights = {f"{name}_l0": params[f"gru.{name}_l{layer}"] for name in names}
        h, h_last = torch.func.functional_call(gru, weights, (h, torch.tensor(h0[layer])[None]))
        h = h * torch.tensor(masks[layer])
        last.append(h_last)
    logits = h @ params["output.weight"].T + params["output.bias"]
    loss = torch.nn.functional.cross_entropy(
        logits.reshape(-1, V), torch.tensor(targets).reshape(-1)
    )
    return loss, torch.cat(last)


def test_forward_is_cell_steps_and_a_projection(lib: Library) -> None:
    model = build(lib)
    inputs, targets, h0 = chunk()
    states, h_last, tape = model.forward(*on(lib, inputs, targets, h0)[::2])
    logits = model.logits(states)
    host = {name: lib.numpy(array) for name, array in model.params.items()}
    cells = [GRUCell(V, H, dtype="float64"), GRUCell(H, H, dtype="float64")]
    for layer, cell in enumerate(cells):
        cell.load_state_dict({name: host[f"gru.{name}_l{layer}"] for name in cell.parameters()})
    states = list(h0)
    for t in range(T):
        h = np.eye(V)[inputs[t]]
        for layer, cell in enumerate(cells):
            h = states[layer] = cell(h, states[layer])
        wanted = h @ host["output.weight"].T + host["output.bias"]
        lib.assert_close(logits[t, ...], wanted, atol=1e-13)
    lib.assert_close(h_last, states, atol=1e-14)
    assert tape is not None


@pytest.mark.feature("training")
@pytest.mark.parametrize("name", list(CharModel.initial(1, 1, LAYERS, rng=0, place=HOST).params))
def test_gradients_are_those_of_finite_differences(lib: Library, name: str) -> None:
    model, given = build(lib), on(lib, *chunk())
    masks = [lib.array(mask) for mask in drawn_masks()]
    _, gradients, _ = loss_and_gradients(model, *given, masks=masks)
    weight = lib.numpy(model.params[name])
    # Along one direction through all of a weight's numbers: one difference sees every one.
    direction = np.random.default_rng(7).normal(size=weight.shape)
    step = 1e-6

    def loss_at(shift: float) -> float:
        moved = CharModel({**model.params, name: lib.array(weight + shift * direction)})
        return float(transfer.to_numpy(loss_and_gradients(moved, *given, masks=masks)[0]))

    slope = (loss_at(step) - loss_at(-step)) / (2 * step)
    assert np.sum(lib.numpy(gradients[name]) * direction) == pytest.approx(slope, abs=1e-9)


@pytest.mark.feature("training")
def test_a_training_step_is_torchs(lib: Library) -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle here")
    model, (inputs, targets, h0) = build(lib), chunk()
    masks = drawn_masks()
    theirs = {
        name: torch.tensor(lib.numpy(array), requires_grad=True)
        for name, array in model.params.items()
    }
    adam = torch.optim.Adam(theirs.values(), lr=0.01)
    state = optimizer.adam_start(model.params, xp=lib.xp)
    h, their_h = lib.array(h0), h0
    for _ in range(3):  # the state carried, as from chunk to chunk
        adam.zero_grad()
        their_loss, last = torch_loss(theirs, inputs, targets, their_h, masks)
        their_loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.values(), 0.2)
        adam.step()
        their_h = last.detach().numpy()

        loss, gradients, h = loss_and_gradients(
            model,
            *on(lib, inputs, targets, h0)[:2],
            h,
            masks=[lib.array(mask) for mask in masks],
        )
        norm = optimizer.global_norm(gradients, xp=lib.xp)
        scale = optimizer.clipping_scale(norm, 0.2, xp=lib.xp)
        model.params, state = optimizer.adam(
            model.params, gradients, state, learning_rate=0.01, scale=scale, xp=lib.xp
        )
        assert float(transfer.to_numpy(loss)) == pytest.approx(their_loss.item(), abs=1e-13)
    lib.assert_close(h, their_h, atol=1e-12)
    for name, wanted in theirs.items():
        # Adam divides by the root of the square: a small gradient's rounding is made larger.
        lib.assert_close(model.params[name], wanted.detach().numpy(), atol=1e-9)


def test_a_seed_gives_the_same_weights_on_every_library(lib: Library) -> None:
    ours = CharModel.initial(V, H, rng=3, place=lib.place("float32")).params
    wanted = CharModel.initial(V, H, rng=3, place=HOST).params
    other = CharModel.initial(V, H, rng=4, place=HOST).params
    assert list(ours) == list(wanted)
    for name, array in ours.items():
        lib.assert_close(array, wanted[name], atol=0, dtype="float32")
        bound = 0 if name == "output.bias" else H**-0.5
        assert np.max(np.abs(wanted[name])) <= bound
        assert bound == 0 or np.any(wanted[name] != other[name])


def test_float32_stays_float32(lib: Library) -> None:
    model = build(lib, "float32")
    loss, gradients, h = loss_and_gradients(model, *on(lib, *chunk(), dtype="float32"))
    state = optimizer.adam_start(model.params, xp=lib.xp)
    norm = optimizer.global_norm(gradients, xp=lib.xp)
    scale = optimizer.clipping_scale(norm, 0.1, xp=lib.xp)
    options: dict[str, Any] = {"learning_rate": 0.1, "scale": scale, "xp": lib.xp}
    params, state = optimizer.adam(model.params, gradients, state, **options)
    for arrays in (
        gradients,
        {"norm": norm, "scale": scale},
        params,
        state.mean,
        state.square,
        {"h": h},
    ):
        assert {dtypes.dtype_name(array.dtype) for array in arrays.values()} == {"float32"}
    assert dtypes.dtype_name(loss.dtype) == "float32"


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_logits_in_blocks_have_the_loss_and_gradients_of_all_at_once(
    lib: Library, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lib.skip_without(dtype)
    model, given = build(lib, dtype), on(lib, *chunk(), dtype=dtype)
    wanted_loss, wanted, _ = loss_and_gradients(model, *given)
    blocks: list[int] = []
    logits = Projection.logits

    def noted(self: Projection, rows: Any) -> Any:
        blocks.append(rows.shape[0])
        return logits(self, rows)

    monkeypatch.setattr(Projection, "logits", noted)
    monkeypatch.setattr(projection, "BLOCK", 4 * V + 3)  # four rows of the T * N or so
    loss, gradients, _ = loss_and_gradients(model, *given)
    assert blocks == [4, 5, 4, 5]
    atol = 1e-14 if dtype == "float64" else 2e-3
    bits, wanted_bits = (transfer.to_numpy(each) for each in (loss, wanted_loss))
    np.testing.assert_allclose(bits, wanted_bits, atol=1e-6 if dtype == "float16" else atol)
    for name, gradient in gradients.items():
        lib.assert_close(gradient, lib.numpy(wanted[name]), atol=atol)
    states, _, _ = model.forward(given[0], given[2])
    mean = np.mean(transfer.to_numpy(model.losses(states, given[1])))
    np.testing.assert_allclose(mean, bits, rtol=1e-6)
    assert blocks[4:] == [4, 5, 4, 5]
