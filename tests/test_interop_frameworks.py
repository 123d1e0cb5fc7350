"""Models from other frameworks' objects and to them: the frameworks themselves compute the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp.arrays import dtypes
from gru_xp.interop import layouts
from tests.frameworks import (
    CASES,
    FUNCTIONS,
    Form,
    H,
    I,
    N,
    T,
    Theirs,
    cases,
    computed,
    draw,
    functions,
    haiku_object,
    imported,
    linen_object,
    mlx_object,
    nnx_object,
    ours,
    paddle_object,
)
from tests.library import Library


@cases
def test_an_object_of_theirs_computes_the_same_here(
    make: Callable[[Form], Theirs], form: Form
) -> None:
    read, _ = functions(make)
    theirs = make(form)
    model = read(theirs.source)
    assert isinstance(model, gru_xp.GRU if form.layers else gru_xp.GRUCell)
    assert model.reset_after == form.reset_after
    assert model.bias == form.bias
    assert dtypes.dtype_name(model.dtype) == "float32"
    x = draw(N, T, I)
    np.testing.assert_allclose(
        computed(model, x), np.asarray(theirs.run(theirs.source, x)), rtol=0, atol=2e-6
    )


@cases
def test_a_model_computes_the_same_there(make: Callable[[Form], Theirs], form: Form) -> None:
    _, write = functions(make)
    model = ours(form, b_hn=make is not nnx_object)
    x = draw(N, T, I)
    result = make(form).run(write(model), x)
    np.testing.assert_allclose(np.asarray(result), computed(model, x), rtol=0, atol=2e-6)


@cases
def test_there_and_back_is_the_same_bit_for_bit(make: Callable[[Form], Theirs], form: Form) -> None:
    read, write = functions(make)
    theirs = make(form)
    back = write(read(theirs.source))
    assert type(back) is type(theirs.source)
    expected, found = theirs.leaves(theirs.source), theirs.leaves(back)
    assert len(found) == len(expected) > 1
    for one, other in zip(found, expected, strict=True):
        assert np.asarray(one).dtype == np.asarray(other).dtype
        assert np.array_equal(one, other)


@pytest.mark.parametrize("make", FUNCTIONS, ids=lambda make: make.__name__)
def test_a_model_in_float64_stays_one(make: Callable[[Form], Theirs]) -> None:
    read, write = functions(make)
    form = next(form for each, form in CASES if each is make)
    make(form)  # skips where the framework is missing
    model = ours(form, b_hn=make is not nnx_object, dtype="float64")
    back = read(write(model))
    assert dtypes.dtype_name(back.dtype) == "float64"
    name = "weight_hh_l0" if form.layers else "weight_hh"
    np.testing.assert_array_equal(back.state_dict()[name], model.state_dict()[name])


# --- Options


def test_the_order_of_time_and_batch_goes_with_the_model() -> None:
    nnx = imported("flax.nnx")
    from_flax, to_flax = functions(nnx_object)
    x = draw(T, N, I)
    for both in (False, True):
        model = ours(Form(1, both=both), b_hn=False)
        model.batch_first = False
        theirs = to_flax(model)
        np.testing.assert_allclose(theirs(x), model(x)[0], rtol=0, atol=2e-6)
        assert not from_flax(theirs).batch_first
    theirs = nnx.RNN(to_flax(ours(Form(0), b_hn=False)), time_major=True)
    assert not from_flax(theirs).batch_first


def test_paddles_options_go_with_the_model() -> None:
    imported("paddle")
    from_paddle, to_paddle = functions(paddle_object)
    model = gru_xp.GRU(I, H, 2, dropout=0.5, rng=0).eval()
    theirs = to_paddle(model)
    assert (theirs.time_major, theirs.dropout, theirs.training) == (True, 0.5, False)
    back = from_paddle(theirs)
    assert (back.batch_first, back.dropout, back.training) == (False, 0.5, False)
    assert from_paddle(to_paddle(model.train())).training


def test_paddles_wrappers_of_cells_are_read() -> None:
    paddle = imported("paddle")
    from_paddle, _ = functions(paddle_object)
    x = draw(N, T, I)
    cells = [paddle.nn.GRUCell(I, H) for _ in range(2)]
    for theirs in (paddle.nn.RNN(cells[0]), paddle.nn.BiRNN(*cells)):
        expected = theirs(paddle.to_tensor(x))[0].numpy()
        np.testing.assert_allclose(from_paddle(theirs)(x)[0], expected, rtol=0, atol=2e-6)


def test_paddles_biases_of_a_model_without_are_zeros_that_are_not_trained() -> None:
    imported("paddle")
    _, to_paddle = functions(paddle_object)
    model = ours(Form(2, both=True, bias=False))
    theirs = to_paddle(model)
    for name, value in theirs.named_parameters():
        assert value.stop_gradient == ("bias" in name)
    x = draw(N, T, I)
    result = paddle_object(Form(1)).run(theirs, x)
    np.testing.assert_allclose(result, model(x)[0], rtol=0, atol=2e-6)


def test_mlx_keeps_training_and_evaluation_mode() -> None:
    imported("mlx.nn")
    from_mlx, to_mlx = functions(mlx_object)
    model = ours(Form(1))
    for mode in (True, False):
        theirs = to_mlx(model.train(mode))
        assert theirs.training == from_mlx(theirs).training == mode


def test_nnx_cells_with_a_hidden_bias_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    nnx, jax = imported("flax.nnx"), imported("jax")
    from_flax, to_flax = functions(nnx_object)

    class GRUCell(nnx.GRUCell):
        """As flax's pull request 5595 has it."""

        def __init__(self, *sizes: int, rngs: Any, **options: Any) -> None:
            super().__init__(*sizes, rngs=rngs, **options)
            self.hn_bias = nnx.Param(jax.numpy.asarray(draw(H)))

        def __call__(self, carry: Any, inputs: Any) -> Any:
            x_r, x_z, x_n = jax.numpy.split(self.dense_i(inputs), 3, axis=-1)
            h_r, h_z, h_n = jax.numpy.split(self.dense_h(carry), 3, axis=-1)
            r, z = self.gate_fn(x_r + h_r), self.gate_fn(x_z + h_z)
            n = self.activation_fn(x_n + r * (h_n + self.hn_bias[...]))
            new = (1 - z) * n + z * carry
            return new, new

    x = draw(N, T, I)
    theirs = nnx.RNN(GRUCell(I, H, rngs=nnx.Rngs(0)))
    np.testing.assert_allclose(from_flax(theirs)(x)[0], theirs(x), rtol=0, atol=2e-6)
    monkeypatch.setattr(nnx, "GRUCell", GRUCell)
    model = ours(Form(1))
    np.testing.assert_allclose(to_flax(model)(x), model(x)[0], rtol=0, atol=2e-6)


def linen_variables(width: int, seed: int) -> tuple[Any, dict[str, Any]]:
    """Make a cell of ours, and the variables of linen's with the same weights."""
    cell = gru_xp.GRUCell(width, H, rng=seed)
    variables: dict[str, Any] = {}
    for name, array in layouts.from_params(layouts.FLAX_LINEN, cell.params).items():
        layer, _, last = name.partition(".")
        variables.setdefault(layer, {})[last] = array
    return cell, variables


def test_linen_variables_are_read_with_and_without_params_around_them() -> None:
    from_flax, _ = functions(linen_object)
    (first, one), (second, two), (third, three) = (
        linen_variables(width, seed) for seed, width in enumerate([I, I, H])
    )
    for source in (one, {"params": one}):
        cell = from_flax(source)
        assert isinstance(cell, gru_xp.GRUCell)
        np.testing.assert_array_equal(cell.weight_ih, first.weight_ih)
        np.testing.assert_array_equal(cell.bnh, first.bnh)
    both = from_flax({"params": {"backward_rnn": {"cell": two}, "forward_rnn": {"cell": one}}})
    assert (both.bidirectional, both.batch_first, both.num_layers) == (True, True, 1)
    np.testing.assert_array_equal(both.weight_ih_l0, first.weight_ih)
    np.testing.assert_array_equal(both.weight_ih_l0_reverse, second.weight_ih)
    several = from_flax({"layers_1": {"cell": three}, "layers_0": {"cell": one}})
    assert (several.num_layers, several.bidirectional) == (2, False)
    np.testing.assert_array_equal(several.weight_ih_l0, first.weight_ih)
    np.testing.assert_array_equal(several.weight_ih_l1, third.weight_ih)


# --- Where the weights go


def test_weights_go_to_every_backend(lib: Library) -> None:
    from_haiku, _ = functions(haiku_object)
    source = layouts.from_params(layouts.HAIKU, ours(Form(0)).params, reset_after=False)
    for dtype in (None, "float64"):
        cell = from_haiku(source, backend=lib.name, device=lib.device, dtype=dtype)
        assert dtypes.dtype_name(cell.dtype) == (dtype or "float32")
        assert not cell.reset_after
        expected = ours(Form(0)).weight_hh
        np.testing.assert_array_equal(lib.numpy(cell.weight_hh), expected)


@pytest.mark.parametrize("make", FUNCTIONS, ids=lambda make: make.__name__)
def test_weights_are_copies(make: Callable[[Form], Theirs]) -> None:
    read, write = functions(make)
    form = next(form for each, form in CASES if each is make)
    theirs = make(form)
    before = [np.array(each) for each in theirs.leaves(theirs.source)]
    model = read(theirs.source)
    there = write(model)
    for array in model.parameters().values():
        array[...] = 9
    for source in (theirs.source, there):
        for one, other in zip(theirs.leaves(source), before, strict=True):
            assert np.array_equal(one, other)


def test_bfloat16_is_read_and_written() -> None:
    jax, torch = imported("jax"), imported("torch")
    from_flax, to_linen = functions(linen_object)
    model = gru_xp.GRU(I, H, batch_first=True, backend="jax", dtype="bfloat16", rng=0)
    variables = to_linen(model)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"bfloat16"}
    back = from_flax(variables, backend="torch")
    assert back.dtype == torch.bfloat16
    expected = np.asarray(model.weight_ih_l0, dtype="float32")
    np.testing.assert_array_equal(back.weight_ih_l0.float().numpy(), expected)
    with pytest.raises(gru_xp.BackendError, match="bfloat16"):
        from_flax(variables)


@pytest.mark.parametrize("make", [mlx_object, paddle_object], ids=lambda make: make.__name__)
def test_bfloat16_of_libraries_that_numpy_cannot_read(make: Callable[[Form], Theirs]) -> None:
    torch = imported("torch")
    read, write = functions(make)
    form = Form(1 if make is mlx_object else 0)
    make(form)  # skips where the framework is missing
    model = ours(form, backend="torch", dtype="bfloat16")
    back = read(write(model), backend="torch")
    assert back.dtype == torch.bfloat16
    for name, value in model.state_dict().items():
        assert name.startswith("bias") or torch.equal(back.state_dict()[name], value)


@pytest.mark.parametrize("name", ["jax", "torch"])
def test_keras_on_other_backends(name: str) -> None:
    imported("keras")
    imported(name)
    code = (
        "import keras, numpy as np\n"
        "from gru_xp.interop.keras import from_keras, to_keras\n"
        f"assert keras.backend.backend() == {name!r}\n"
        "layer = keras.layers.Bidirectional(keras.layers.GRU(5, return_sequences=True))\n"
        "x = np.random.default_rng(0).normal(size=(2, 6, 3)).astype('float32')\n"
        "for each in (layer, to_keras(from_keras(layer)) if layer(x) is not None else layer):\n"
        "    expected = keras.ops.convert_to_numpy(each(x))\n"
        "    np.testing.assert_allclose(from_keras(each)(x)[0], expected, rtol=0, atol=2e-6)\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": name, "JAX_ENABLE_X64": "0"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, env=environment)


def test_the_modules_import_no_framework() -> None:
    names = ["equinox", "flax", "haiku", "keras", "mlx", "paddle"]
    code = (
        "import sys\n"
        f"for name in {names!r} + ['jax', 'torch']:\n"
        "    sys.modules[name] = None\n"
        "import numpy as np\n"
        + "".join(f"import gru_xp.interop.{name}\n" for name in names)
        + "params = {'w_i': np.ones((3, 12)), 'w_h': np.ones((4, 12)), 'b': np.ones(12)}\n"
        "gru_xp.interop.haiku.from_haiku(params)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
