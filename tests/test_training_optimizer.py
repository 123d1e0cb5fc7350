"""Adam, clipping and the schedule against torch and against formulas in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gru_xp.arrays import dtypes, pieces, transfer
from gru_xp.training import optimizer
from tests.library import Library

SHAPES = {"matrix": (3, 2), "vector": (4,)}


def draw(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) for name, shape in SHAPES.items()}


def arrays(lib: Library, host: dict[str, Any]) -> dict[str, Any]:
    return {name: lib.array(array) for name, array in host.items()}


def adam_by_formula(params: dict[str, Any], gradients: list[dict[str, Any]], lr: float) -> Any:
    """Algorithm 1 of Kingma and Ba, weight by weight."""
    mean = {name: 0.0 for name in params}
    square = {name: 0.0 for name in params}
    for t, of_step in enumerate(gradients, start=1):
        for name, gradient in of_step.items():
            mean[name] = 0.9 * mean[name] + 0.1 * gradient
            square[name] = 0.999 * square[name] + 0.001 * gradient**2
            corrected = mean[name] / (1 - 0.9**t)
            root = np.sqrt(square[name] / (1 - 0.999**t))
            params = {**params, name: params[name] - lr * corrected / (root + 1e-8)}
    return params


def adam_on(
    lib: Library,
    params: dict[str, Any],
    gradients: list[dict[str, Any]],
    weight_decay: float = 0.0,
) -> Any:
    ours = arrays(lib, params)
    state = optimizer.adam_start(ours, xp=lib.xp)
    for of_step in gradients:
        ours, state = optimizer.adam(
            ours,
            arrays(lib, of_step),
            state,
            learning_rate=0.05,
            weight_decay=weight_decay,
            xp=lib.xp,
        )
    assert state.steps == len(gradients)
    return ours


def clipped(lib: Library, gradients: dict[str, Any], max_norm: float) -> dict[str, Any]:
    scale = optimizer.clipping_scale(
        optimizer.global_norm(gradients, xp=lib.xp), max_norm, xp=lib.xp
    )
    return {
        name: dtypes.at_least_float32(each, xp=lib.xp) * scale for name, each in gradients.items()
    }


def test_adam_is_the_papers(lib: Library) -> None:
    params, gradients = draw(0), [draw(seed) for seed in range(1, 6)]
    ours = adam_on(lib, params, gradients)
    for name, wanted in adam_by_formula(params, gradients, 0.05).items():
        lib.assert_close(ours[name], wanted, atol=1e-14)


@pytest.mark.parametrize("weight_decay", [0.0, 0.7])
def test_adam_is_torchs(lib: Library, weight_decay: float) -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle here")
    params, gradients = draw(0), [draw(seed) for seed in range(1, 6)]
    theirs = {name: torch.tensor(array, requires_grad=True) for name, array in params.items()}
    groups = [
        {"params": [theirs["matrix"]], "weight_decay": weight_decay},
        {"params": [theirs["vector"]], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=0.05)
    for of_step in gradients:
        for name, gradient in of_step.items():
            theirs[name].grad = torch.tensor(gradient)
        adam.step()
    ours = adam_on(lib, params, gradients, weight_decay)
    for name, wanted in theirs.items():
        lib.assert_close(ours[name], wanted.detach().numpy(), atol=1e-14)


def test_adam_takes_scaled_gradients_where_they_come_with_a_scale(lib: Library) -> None:
    params, slopes = draw(0), draw(1)
    scaled = {name: 0.01 * slope for name, slope in slopes.items()}
    state = optimizer.adam_start(arrays(lib, params), xp=lib.xp)
    options: dict[str, Any] = {"learning_rate": 0.05, "xp": lib.xp}
    given = arrays(lib, params), arrays(lib, slopes), state
    _, ours = optimizer.adam(*given, scale=lib.array(0.01), **options)
    given = arrays(lib, params), arrays(lib, scaled), state
    _, wanted = optimizer.adam(*given, **options)
    for name in params:
        lib.assert_close(ours.mean[name], lib.numpy(wanted.mean[name]), atol=1e-17)
        lib.assert_close(ours.square[name], lib.numpy(wanted.square[name]), atol=1e-17)


def test_large_arrays_are_updated_to_the_same_bits(
    lib: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, gradients = draw(0), [draw(1), draw(2)]
    whole = adam_on(lib, params, gradients, weight_decay=0.4)
    sizes: set[int] = set()

    def noted(function: Any, *arrays: Any, xp: Any) -> Any:
        def seen(*parts: Any) -> Any:
            sizes.add(math.prod(parts[0].shape))
            return function(*parts)

        return pieces.in_pieces(seen, *arrays, xp=xp)

    monkeypatch.setattr(pieces, "PIECE", 4)  # of 6 numbers, and of 4
    monkeypatch.setattr(optimizer, "in_pieces", noted)
    for name, wanted in adam_on(lib, params, gradients, weight_decay=0.4).items():
        lib.assert_close(wanted, lib.numpy(whole[name]), atol=0)
    if lib.name in ("numpy", "torch"):  # on a CPU, and writeable, if not at first
        assert sizes >= {4, 2}
    else:
        assert sizes == {6, 4}


def test_pieces_are_of_the_size_that_is_told() -> None:
    sizes: list[int] = []

    def noted(array: Any) -> tuple[Any]:
        sizes.append(array.size)
        return (2 * array,)

    size = 2 * pieces.PIECE + 3
    array = np.arange(size, dtype=np.float64).reshape(1, size)
    (result,) = pieces.in_pieces(noted, array, xp=np)
    assert sizes == [pieces.PIECE, pieces.PIECE, 3]
    np.testing.assert_array_equal(result, 2 * array)


def test_the_first_update_has_the_learning_rates_size(lib: Library) -> None:
    ours = adam_on(lib, {"w": np.zeros(3)}, [{"w": np.asarray([1e-3, -5.0, 0.0])}])
    lib.assert_close(ours["w"], [-0.05, 0.05, 0.0], atol=1e-6)


def test_weight_decay_takes_its_share_of_all_but_biases(lib: Library) -> None:
    params = {"weight": np.asarray([[2.0]]), "bias": np.asarray([2.0])}
    still = {name: np.zeros_like(array) for name, array in params.items()}
    ours = adam_on(lib, params, 3 * [still], weight_decay=0.4)
    lib.assert_close(ours["weight"], [[2.0 * (1 - 0.05 * 0.4) ** 3]], atol=1e-14)
    lib.assert_close(ours["bias"], [2.0], atol=0)


def test_an_update_leaves_its_arguments_as_they_were(lib: Library) -> None:
    params, gradients = draw(0), draw(1)
    given, slopes = arrays(lib, params), arrays(lib, gradients)
    state = optimizer.adam_start(given, xp=lib.xp)
    optimizer.adam(given, slopes, state, learning_rate=0.05, scale=0.1, xp=lib.xp)
    for name in params:
        lib.assert_close(given[name], params[name], atol=0)
        lib.assert_close(slopes[name], gradients[name], atol=0)
        lib.assert_close(state.mean[name], np.zeros(SHAPES[name]), atol=0)
        lib.assert_close(state.square[name], np.zeros(SHAPES[name]), atol=0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_updates_too_small_for_16_bits_add_up_in_the_masters(lib: Library, dtype: str) -> None:
    lib.skip_without(dtype)
    params = {"w": lib.array([1.0], dtype)}
    state = optimizer.adam_start(params, xp=lib.xp)
    for done in range(1, 301):
        # A gradient that never changes moves the weight by the learning rate.
        slopes = {"w": lib.array([1.0], dtype)}
        params, state = optimizer.adam(params, slopes, state, learning_rate=1e-5, xp=lib.xp)
        if done == 1:
            lib.assert_close(params["w"], [1.0], atol=0, dtype=dtype)
            lib.assert_close(state.masters["w"], [1 - 1e-5], atol=1e-7, dtype="float32")
    lib.assert_close(state.masters["w"], [0.997], atol=2e-5)
    nearest = {"float16": 0.9970703125, "bfloat16": 0.99609375}[dtype]
    lib.assert_close(params["w"], [nearest], atol=0, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_squares_too_small_for_float16_are_kept_for_16_bits(lib: Library, dtype: str) -> None:
    lib.skip_without(dtype)
    params, slopes = {"w": lib.array([1.0], dtype)}, {"w": lib.array([2.0**-14], dtype)}
    state = optimizer.adam_start(params, xp=lib.xp)
    _, state = optimizer.adam(params, slopes, state, learning_rate=0.05, xp=lib.xp)
    lib.assert_close(state.square["w"], [0.001 * 2.0**-28], atol=1e-17, dtype="float32")
    lib.assert_close(state.masters["w"], [0.95], atol=1e-4)


@pytest.mark.parametrize("max_norm", [0.5, 100.0], ids=["clips", "lets pass"])
def test_clipping_is_torchs(lib: Library, max_norm: float) -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle here")
    gradients = draw(3)
    theirs = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    for name, gradient in gradients.items():
        theirs[name].grad = torch.tensor(gradient)
    torch.nn.utils.clip_grad_norm_(theirs.values(), max_norm)
    ours = clipped(lib, arrays(lib, gradients), max_norm)
    for name in gradients:
        lib.assert_close(ours[name], theirs[name].grad.numpy(), atol=1e-14)


def test_clipping_scales_all_by_their_joint_norm(lib: Library) -> None:
    gradients = {"a": lib.array([3.0, 0.0]), "b": lib.array([[4.0]])}
    ours = clipped(lib, gradients, 1.0)
    lib.assert_close(ours["a"], [0.6, 0.0], atol=1e-6)
    lib.assert_close(ours["b"], [[0.8]], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_norm_of_16_bits_neither_overflows_nor_rounds(lib: Library, dtype: str) -> None:
    lib.skip_without(dtype)
    gradients = {"a": lib.array([300.0, 0.0], dtype), "b": lib.array([[400.0]], dtype)}
    norm = transfer.to_numpy(optimizer.global_norm(gradients, xp=lib.xp))
    assert float(norm) == pytest.approx(500, abs=1e-4)
    ours = clipped(lib, gradients, 1.0)
    lib.assert_close(ours["a"], [0.6, 0.0], atol=1e-6, dtype="float32")
    lib.assert_close(ours["b"], [[0.8]], atol=1e-6, dtype="float32")


@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan])
def test_the_norm_is_not_finite_where_one_gradient_is_not(lib: Library, odd: float) -> None:
    gradients = {"a": lib.array([3.0, 0.0]), "b": lib.array([[4.0, odd]])}
    assert not np.isfinite(transfer.to_numpy(optimizer.global_norm(gradients, xp=lib.xp)))


def test_clipping_leaves_zeros_zero(lib: Library) -> None:
    ours = clipped(lib, {"a": lib.array([0.0, 0.0])}, 1.0)
    lib.assert_close(ours["a"], [0.0, 0.0], atol=0)


def rates(steps: int, warm_up: int) -> list[float]:
    return [
        optimizer.cosine_learning_rate(step, steps=steps, warm_up=warm_up, peak=0.3)
        for step in range(steps + 1)
    ]


def test_the_schedule_falls_from_the_peak_to_zero() -> None:
    falling = rates(8, 0)
    assert falling[0] == 0.3
    assert math.isclose(falling[2], 0.3 * (1 + math.sqrt(0.5)) / 2)
    assert math.isclose(falling[4], 0.15)
    assert falling[8] == 0
    assert falling == sorted(falling, reverse=True)


def test_the_schedule_rises_in_equal_parts_while_it_warms_up() -> None:
    warmed, falling = rates(100, 4), rates(100, 0)
    for step, share in enumerate([0.2, 0.4, 0.6, 0.8, 1.0, 1.0]):
        assert math.isclose(warmed[step], share * falling[step])
    assert warmed[4:] == falling[4:]
