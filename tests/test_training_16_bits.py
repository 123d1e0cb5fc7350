"""Training in 16 bits: float32 masters, the scale of the loss, skipped steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gru_xp.arrays import dtypes, libraries, transfer
from gru_xp.training import loss_scale, optimizer, text
from gru_xp.training.errors import DivergenceError
from gru_xp.training.loss_scale import LossScale
from gru_xp.training.model import CharModel
from gru_xp.training.sampling import sample
from gru_xp.training.trainer import Trainer, loss_and_gradients
from tests.library import Library
from tests.test_training_model import LAYERS, H, N, T, V, build, chunk, on
from tests.test_training_trainer import TEXT, advance, config, numbers

CORPUS = text.split(TEXT)


@pytest.fixture(params=["float16", "bfloat16"])
def dtype(request: pytest.FixtureRequest, lib: Library) -> str:
    lib.skip_without(request.param)
    return str(request.param)


def float16_trainer(lib: Library, scale: float) -> Trainer:
    lib.skip_without("float16")
    trainer = Trainer(config(lib, dtype="float16"), CORPUS)
    trainer._loss_scale = trainer._loss_scale._replace(value=scale)
    return trainer


def names_of_dtypes(*arrays: Any) -> set[str]:
    return {dtypes.dtype_name(array.dtype) for array in arrays}


def test_it_reaches_the_loss_of_float32(lib: Library, dtype: str) -> None:
    options = {"hidden_size": 24, "steps": 60, "learning_rate": 0.03}
    ours = advance(Trainer(config(lib, dtype=dtype, **options), CORPUS), 60)
    wanted = advance(Trainer(config(**options), CORPUS), 60)
    assert wanted.losses[-1] < wanted.losses[0] - 3
    np.testing.assert_allclose(ours.losses, wanted.losses, atol=0.05)
    np.testing.assert_allclose(ours.held_out, wanted.held_out, atol=0.02)
    assert ours.losses != wanted.losses


def test_weights_and_state_have_16_bits_and_adam_has_32(lib: Library, dtype: str) -> None:
    trainer = advance(Trainer(config(lib, dtype=dtype, dropout=0.25), CORPUS), 3)
    model, adam = trainer.model, trainer._adam
    assert names_of_dtypes(*model.params.values(), trainer._h, *trainer._masks(3)) == {dtype}
    for arrays in (adam.mean, adam.square, adam.masters):
        assert list(arrays) == list(model.params)
        assert names_of_dtypes(*arrays.values()) == {"float32"}
    for name, master in adam.masters.items():
        rounded = transfer.to_numpy(lib.xp.astype(master, getattr(lib.xp, dtype)))
        np.testing.assert_array_equal(transfer.to_numpy(model.params[name]), rounded)
        assert np.any(transfer.to_numpy(master) != rounded.astype(np.float32))


def test_a_trained_model_writes(lib: Library, dtype: str) -> None:
    trainer = advance(Trainer(config(lib, dtype=dtype), CORPUS), 2)
    options: dict[str, Any] = {"prompt": "the", "length": 9, "temperature": 1.0, "rng": 0}
    assert len("".join(sample(trainer.model, trainer.vocabulary, **options))) == 9


def test_gradients_do_not_depend_on_the_scale(lib: Library) -> None:
    lib.skip_without("float16")
    model = build(lib, "float16")
    given = on(lib, *chunk(), dtype="float16")
    exact = build(lib)
    exact.params = {name: lib.array(lib.numpy(array)) for name, array in model.params.items()}
    _, wanted, _ = loss_and_gradients(exact, *given[:2], lib.array(lib.numpy(given[2])))
    loss = loss_and_gradients(model, *given)[0]
    for scale in (1.0, 2.0**4, 2.0**10):
        scaled, gradients, _ = loss_and_gradients(model, *given, loss_scale=scale)
        assert float(transfer.to_numpy(scaled)) == float(transfer.to_numpy(loss))
        for name, gradient in gradients.items():
            lib.assert_close(gradient, lib.numpy(wanted[name]), atol=2e-3, dtype="float32")


def test_a_scale_saves_gradients_that_float16_cannot_hold(lib: Library) -> None:
    """All targets are what the model expects with a share of all but 5e-7."""
    lib.skip_without("float16")
    zeros = {name: 0 * lib.numpy(array) for name, array in build(lib).params.items()}
    zeros["output.bias"][0] = 16
    model = CharModel({name: lib.array(array, "float16") for name, array in zeros.items()})
    given = on(lib, np.ones((T, N)), np.zeros((T, N)), np.ones((LAYERS, N, H)), dtype="float16")
    _, lost, _ = loss_and_gradients(model, *given)
    _, saved, _ = loss_and_gradients(model, *given, loss_scale=loss_scale.START)
    share = math.exp(-16) / (1 + (V - 1) * math.exp(-16))
    assert not np.any(lib.numpy(lost["output.bias"]))
    np.testing.assert_allclose(lib.numpy(saved["output.bias"])[1:], share, rtol=0.01)


def test_an_overflow_skips_the_update_and_halves_the_scale(
    lib: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = float16_trainer(lib, 2.0**30)
    params, adam, h = trainer.model.params, trainer._adam, trainer._h
    trainer.step()
    assert trainer.model.params is params
    assert trainer._adam is adam
    assert trainer._loss_scale[:2] == (2.0**29, 0)
    # The step is made all the same: the text is read on, and the schedule goes on.
    assert (trainer.steps_done, len(trainer.losses), adam.steps) == (1, 1, 0)
    assert np.any(transfer.to_numpy(trainer._h) != transfer.to_numpy(h))

    rates = []
    rate = optimizer.cosine_learning_rate
    monkeypatch.setattr(
        optimizer,
        "cosine_learning_rate",
        lambda step, **options: rates.append(step) or rate(step, **options),  # type: ignore[func-returns-value]
    )
    trainer._loss_scale = trainer._loss_scale._replace(value=2.0**10)
    trainer.step()
    assert rates == [1]
    assert trainer._adam.steps == 1
    assert trainer._loss_scale[:2] == (2.0**10, 1)
    for name, param in params.items():
        # The first update: Adam's running means had not counted the skipped step.
        moved = transfer.to_numpy(trainer._adam.masters[name]) - transfer.to_numpy(param)
        assert np.max(np.abs(moved)) <= 1.2 * rate(1, steps=10, warm_up=0, peak=0.01)


def test_a_run_that_starts_with_too_large_a_scale_finds_one(lib: Library) -> None:
    trainer = advance(float16_trainer(lib, 2.0**24), 10)
    assert 0 < trainer._adam.steps < 10
    assert trainer._loss_scale.value == 2.0 ** (24 - 10 + trainer._adam.steps)
    assert trainer.finished
    assert all(np.all(np.isfinite(array)) for array in numbers(trainer).values())


def infinite(model: CharModel, h: Any, tape: Any, targets: Any, *, scale: float) -> Any:
    gradients = {
        name: np.full(array.shape, np.inf, dtype=np.float32) for name, array in model.params.items()
    }
    return model.losses(h, targets), gradients


def test_gradients_that_overflow_unscaled_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(config(dtype="float16", steps=20), CORPUS)
    monkeypatch.setattr(CharModel, "loss_and_gradients", infinite)
    advance(trainer, 16)
    assert trainer._loss_scale.value == 1
    with pytest.raises(DivergenceError, match="gradients of step 16 overflow float16"):
        trainer.step()
    assert trainer.steps_done == 16


def test_float32_is_never_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(config(), CORPUS)
    monkeypatch.setattr(CharModel, "loss_and_gradients", infinite)
    with np.errstate(invalid="ignore"):
        trainer.step()
    assert trainer._adam.steps == 1
    assert trainer._loss_scale.value == 1
    assert not trainer._adam.masters


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_other_formats_than_float16_keep_a_scale_of_one(dtype: str) -> None:
    scale = LossScale.start(dtype)
    assert scale.value == 1
    assert not scale.dynamic
    assert scale.after_update() == scale


def test_the_scale_doubles_after_2000_updates_in_a_row() -> None:
    scale = LossScale.start("float16")
    assert scale[:2] == (65536, 0)
    for _ in range(1999):
        scale = scale.after_update()
    assert scale[:2] == (65536, 1999)
    assert scale.after_update()[:2] == (131072, 0)
    assert scale.after_overflow()[:2] == (32768, 0)


def test_a_resumed_run_reaches_the_same_bits(
    lib: Library, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_scale, "START", 2.0**20)  # so that float16 skips two
    whole = advance(Trainer(config(lib, dtype=dtype, layers=2, dropout=0.25), CORPUS), 10)
    first = advance(Trainer(whole.config, CORPUS), 6)
    second = Trainer.resume(first.checkpoint(), CORPUS)
    assert second.steps_done == 6
    assert second._loss_scale == first._loss_scale
    assert second._adam.steps == first._adam.steps
    assert first._adam.steps == (4 if dtype == "float16" else 6)
    wanted, got = numbers(whole), numbers(advance(second, 4))
    assert second._loss_scale == whole._loss_scale
    assert {array.dtype.name for array in wanted.values()} == {"float32", "float64"}
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
    for name, param in whole.model.params.items():
        assert names_of_dtypes(second.model.params[name]) == {dtype}
        np.testing.assert_array_equal(
            transfer.to_numpy(second.model.params[name]), transfer.to_numpy(param)
        )


def test_float64_trains_in_float64() -> None:
    trainer = advance(Trainer(config(dtype="float64", dropout=0.25), CORPUS), 2)
    state = trainer._adam
    arrays = (*trainer.model.params.values(), *state.mean.values(), *state.square.values())
    assert names_of_dtypes(*arrays, trainer._h) == {"float64"}
    assert not state.masters


def test_a_dtype_that_the_backend_lacks_is_refused(lib: Library) -> None:
    if lib.dtype("bfloat16") is not None:
        pytest.skip(f"{lib.name} has it")
    with pytest.raises(libraries.BackendError, match=f"{lib.name} has no dtype bfloat16. Use"):
        Trainer(config(lib, dtype="bfloat16"), CORPUS)


@pytest.mark.parametrize(
    ("trained_in", "read_as"), [("float16", "float16"), ("bfloat16", "float32")]
)
def test_a_kept_model_has_the_runs_dtype_or_float32_where_that_is_lacking(
    trained_in: str, read_as: str
) -> None:
    kept = advance(Trainer(config(dtype="float16"), CORPUS), 1).checkpoint()
    kept = kept._replace(config=config(dtype=trained_in))
    model = kept.model("numpy")
    assert names_of_dtypes(*model.params.values()) == {read_as}
    for name, array in model.params.items():
        np.testing.assert_array_equal(array, kept.arrays[f"model.{name}"].astype(read_as))
