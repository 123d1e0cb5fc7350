"""What objects of other frameworks a GRU cannot express: refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.frameworks import (
    FUNCTIONS,
    Form,
    H,
    I,
    Theirs,
    draw,
    equinox_object,
    functions,
    haiku_object,
    imported,
    keras_object,
    linen_object,
    mlx_object,
    nnx_object,
    ours,
    paddle_object,
)


def test_keras_objects_that_a_gru_cannot_express_are_refused() -> None:
    keras = imported("keras")
    from_keras, to_keras = functions(keras_object)
    layers = keras.layers

    def built(layer: Any) -> Any:
        layer.build((None, None, I))
        return layer

    with pytest.raises(
        ValueError, match=r"from_keras: gru_cell has no weights yet. Build or call its layer"
    ):
        from_keras(layers.GRU(H))
    with pytest.raises(
        ValueError, match=r"from_keras: expected activation to be tanh, .* got relu"
    ):
        from_keras(built(layers.GRU(H, activation="relu")))
    with pytest.raises(
        ValueError, match=r"expected recurrent_activation to be sigmoid, .* got hard_sigmoid"
    ):
        from_keras(built(layers.GRU(H, recurrent_activation="hard_sigmoid")))
    with pytest.raises(ValueError, match=r"expected go_backwards=False in \w+, got True"):
        from_keras(built(layers.GRU(H, go_backwards=True)))
    turned = layers.Bidirectional(
        layers.GRU(H, go_backwards=True), backward_layer=layers.GRU(H, go_backwards=False)
    )
    with pytest.raises(ValueError, match=r"expected go_backwards=False in forward_\w+, got True"):
        from_keras(built(turned))
    with pytest.raises(ValueError, match="expected merge_mode='concat', got 'sum'"):
        from_keras(built(layers.Bidirectional(layers.GRU(H), merge_mode="sum")))
    with pytest.raises(TypeError, match=r"expected a keras.layers.GRU, .* got LSTM"):
        from_keras(built(layers.LSTM(H)))
    with pytest.raises(TypeError, match="got LSTM"):
        from_keras(built(layers.Bidirectional(layers.LSTM(H))))
    with pytest.raises(TypeError, match="got Dense"):
        from_keras(keras.Sequential([built(layers.GRU(H)), layers.Dense(1)]))
    with pytest.raises(TypeError, match="got ndarray"):
        from_keras(draw(3))
    with pytest.raises(ValueError, match="the same reset_after in all layers, got True and False"):
        from_keras([built(layers.GRU(I)), built(layers.GRU(I, reset_after=False))])
    with pytest.raises(ValueError, match="from_keras: weight_ih_l1 is of shape"):
        from_keras([built(layers.GRU(H)), built(layers.GRU(H))])
    with pytest.raises(ValueError, match="expected at least one layer, got none"):
        from_keras([])
    with pytest.raises(TypeError, match="to_keras: expected a GRU or a GRUCell, got GRU"):
        to_keras(layers.GRU(H))


def test_flax_objects_that_a_gru_cannot_express_are_refused() -> None:
    nnx, jax = imported("flax.nnx"), imported("jax")
    (from_flax, to_flax), (_, to_linen) = functions(nnx_object), functions(linen_object)
    rngs = nnx.Rngs(0)

    def cell(width: int = I, **options: Any) -> Any:
        return nnx.GRUCell(width, H, rngs=rngs, **options)

    with pytest.raises(
        ValueError, match=r"from_flax: expected gate_fn to be sigmoid, .* got hard_sigmoid"
    ):
        from_flax(cell(gate_fn=jax.nn.hard_sigmoid))
    with pytest.raises(
        ValueError, match=r"from_flax: expected activation_fn to be tanh, .* got relu"
    ):
        from_flax(nnx.RNN(cell(activation_fn=jax.nn.relu)))
    started = cell()
    started.carry_init = nnx.initializers.ones_init()
    with pytest.raises(
        ValueError, match=r"from_flax: expected carry_init to be zeros, .* got ones"
    ):
        from_flax(nnx.RNN(started))
    with pytest.raises(ValueError, match="from_flax: expected reverse=False, got True"):
        from_flax(nnx.RNN(cell(), reverse=True))
    with pytest.raises(ValueError, match=r"expected the default merge_fn, .* got"):
        from_flax(nnx.Bidirectional(nnx.RNN(cell()), nnx.RNN(cell()), merge_fn=jax.numpy.add))
    with pytest.raises(TypeError, match=r"expected an nnx.GRUCell, .* got RNN"):
        from_flax(nnx.RNN(nnx.LSTMCell(I, H, rngs=rngs)))
    with pytest.raises(TypeError, match="got Linear"):
        from_flax(nnx.Sequential(nnx.RNN(cell()), nnx.Linear(H, 1, rngs=rngs)))
    with pytest.raises(ValueError, match="the same time_major in all layers, got True and False"):
        from_flax([nnx.RNN(cell()), nnx.RNN(cell(H), time_major=True)])
    with pytest.raises(
        ValueError, match=r"expected zeros for gate n of bias_hh, which it does not have"
    ):
        to_flax(ours(Form(1)))
    for write in (to_flax, to_linen):
        with pytest.raises(ValueError, match="expected reset_after=True"):
            write(ours(Form(1, reset_after=False)))


def test_linen_variables_of_other_modules_are_refused() -> None:
    from_flax, _ = functions(linen_object)
    with pytest.raises(ValueError, match=r"expected the variables of a linen.GRUCell, .*Dense_0"):
        from_flax({"params": {"Dense_0": {"kernel": draw(I, H)}}})
    with pytest.raises(ValueError, match=r"got the names \['layers_0', 'layers_2'\]"):
        from_flax({"layers_0": {}, "layers_2": {}})
    for wrong in (
        {"params": 3},
        {"params": {"layers_0": 3}},
        {"forward_rnn": 3},
        {"cell": 3},
        {"hn": draw(H)},
    ):
        with pytest.raises(ValueError, match=r"nested mappings of names, got (int|ndarray) inst"):
            from_flax(wrong)
    with pytest.raises(ValueError, match=r"expected the arrays .*; unexpected \['hi.kernel'\]"):
        from_flax({"cell": {"hi": {"kernel": draw(H, H)}}})


def test_haiku_parameters_of_a_whole_model_are_refused() -> None:
    from_haiku, to_haiku = functions(haiku_object)
    source = {"gru": {"w_i": draw(I, 3 * H)}, "linear": {"w": draw(H, 1)}}
    with pytest.raises(
        ValueError, match=r"modules \['gru', 'linear'\]. Pass those .* params\['gru'\]"
    ):
        from_haiku(source)
    with pytest.raises(TypeError, match=r"from_haiku: expected the parameters .* got ndarray"):
        from_haiku(draw(3))
    with pytest.raises(ValueError, match="expected reset_after=False"):
        to_haiku(ours(Form(0)))


@pytest.mark.parametrize(
    "make", [equinox_object, haiku_object, mlx_object], ids=lambda make: make.__name__
)
def test_more_than_one_layer_and_direction_is_refused_where_there_is_no_object(
    make: Callable[[Form], Theirs],
) -> None:
    _, write = functions(make)
    for form in (Form(2), Form(1, both=True)):
        with pytest.raises(ValueError, match=r"expected a model with one layer and .* got GRU\("):
            write(ours(form))


def test_paddle_objects_that_a_gru_cannot_express_are_refused() -> None:
    paddle = imported("paddle")
    from_paddle, to_paddle = functions(paddle_object)
    with pytest.raises(ValueError, match="from_paddle: expected is_reverse=False, got True"):
        from_paddle(paddle.nn.RNN(paddle.nn.GRUCell(I, H), is_reverse=True))
    with pytest.raises(TypeError, match=r"expected a paddle.nn.GRU, .* got LSTM"):
        from_paddle(paddle.nn.LSTM(I, H))
    with pytest.raises(TypeError, match="got LSTMCell"):
        from_paddle(paddle.nn.RNN(paddle.nn.LSTMCell(I, H)))
    with pytest.raises(ValueError, match="expected reset_after=True"):
        to_paddle(ours(Form(1, reset_after=False)))


@pytest.mark.parametrize("make", FUNCTIONS, ids=lambda make: make.__name__)
def test_objects_of_other_frameworks_are_refused(make: Callable[[Form], Theirs]) -> None:
    read, write = functions(make)

    class GRU:
        """By its name a GRU, by its module none of a framework."""

    for source in (GRU(), ours(Form(1)), None):
        with pytest.raises(TypeError, match=f"{read.__name__}: expected .*, got "):
            read(source)
    with pytest.raises(TypeError, match=f"{write.__name__}: expected a GRU or a GRUCell, got GRU"):
        write(GRU())
    with pytest.raises(
        ValueError, match=rf"{write.__name__}: a GRU with reverse=True cannot be converted"
    ):
        write(ours(Form(1), reverse=True))
