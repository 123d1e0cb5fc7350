"""Objects of other frameworks whose weights gru_xp reads and writes, with what runs them."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

import gru_xp

T, N, I, H = 6, 2, 3, 5  # noqa: E741
Host = np.ndarray[Any, Any]


class Form(NamedTuple):
    """What an object has; without layers it is a cell."""

    layers: int
    both: bool = False
    bias: bool = True
    reset_after: bool = True


class Theirs(NamedTuple):
    """An object of a framework with random weights, biases too, and what is done with its like."""

    source: Any
    run: Callable[[Any, Host], Any]
    """From such an object and x (N, T, I) to y, (N, T, H) or (N, T, 2H)."""
    leaves: Callable[[Any], Sequence[Any]]
    """Its weights."""


def imported(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what others do on import is theirs
        return pytest.importorskip(name, reason=f"compares with {name.partition('.')[0]}")


def draw(*shape: int) -> Host:
    return np.random.default_rng(3).normal(size=shape).astype("float32")


def stepped(cell: Callable[[Any, Any], Any], x: Host) -> Host:
    """Run a cell over x (N, T, I), from zeros."""
    h, states = np.zeros((len(x), H), "float32"), []
    for step in range(x.shape[1]):
        h = np.asarray(cell(x[:, step], h))
        states.append(h)
    return np.stack(states, axis=1)


def keras_object(form: Form) -> Theirs:
    keras = imported("keras")
    options = {
        "bias_initializer": keras.initializers.RandomNormal(stddev=1.0, seed=1),
        "use_bias": form.bias,
        "reset_after": form.reset_after,
    }
    if not form.layers:
        cell = keras.layers.GRUCell(H, **options)
        cell.build((None, I))
        run = lambda cell, x: stepped(lambda x_t, h: cell(x_t, [h])[0], x)  # noqa: E731
        return Theirs(cell, run, lambda cell: list(map(np.asarray, cell.weights)))
    layers = [keras.layers.GRU(H, return_sequences=True, **options) for _ in range(form.layers)]
    if form.both:
        layers = [keras.layers.Bidirectional(layer) for layer in layers]
    whole = keras.Sequential(layers) if form.layers > 1 else layers[0]
    whole.build((None, None, I))
    run = lambda layer, x: keras.ops.convert_to_numpy(layer(x))  # noqa: E731
    return Theirs(whole, run, lambda layer: list(map(np.asarray, layer.weights)))


def nnx_object(form: Form) -> Theirs:
    nnx, jax = imported("flax.nnx"), imported("jax")
    rngs, normal = nnx.Rngs(1), nnx.initializers.normal(1.0)

    def layer(width: int) -> Any:
        cells = [nnx.GRUCell(width, H, bias_init=normal, rngs=rngs) for _ in range(1 + form.both)]
        rnns = [nnx.RNN(cell) for cell in cells] if form.layers else cells
        return nnx.Bidirectional(*rnns) if form.both else rnns[0]

    layers = [layer(I), *(layer(H * (1 + form.both)) for _ in range(form.layers - 1))]
    return Theirs(
        nnx.Sequential(*layers) if form.layers > 1 else layers[0],
        (lambda layer, x: layer(x))
        if form.layers
        else (lambda cell, x: stepped(lambda x_t, h: cell(h, x_t)[0], x)),
        lambda layer: jax.tree.leaves(nnx.state(layer, nnx.Param)),
    )


def linen_object(form: Form) -> Theirs:
    linen, jax = imported("flax.linen"), imported("jax")

    def layer() -> Any:
        cells = [linen.GRUCell(H, bias_init=linen.initializers.normal(1.0)) for _ in range(2)]
        rnns = [linen.RNN(cell) for cell in cells] if form.layers else cells
        return linen.Bidirectional(*rnns) if form.both else rnns[0]

    layers = [layer() for _ in range(form.layers or 1)]
    module = linen.Sequential(layers) if form.layers > 1 else layers[0]

    def run(variables: Any, x: Host) -> Any:
        if form.layers:
            return module.apply(variables, x)
        return stepped(lambda x_t, h: module.apply(variables, h, x_t)[0], x)

    inputs = [draw(N, T, I)] if form.layers else [draw(N, H), draw(N, I)]
    return Theirs(module.init(jax.random.key(1), *inputs), run, jax.tree.leaves)


def equinox_object(form: Form) -> Theirs:
    equinox, jax = imported("equinox"), imported("jax")
    cell = equinox.nn.GRUCell(I, H, use_bias=form.bias, dtype="float32", key=jax.random.key(1))
    run = lambda cell, x: stepped(jax.vmap(cell), x)  # noqa: E731
    return Theirs(cell, run, lambda cell: jax.tree.leaves(equinox.filter(cell, equinox.is_array)))


def haiku_object(form: Form) -> Theirs:
    haiku, jax = imported("haiku"), imported("jax")
    normal = haiku.initializers.RandomNormal()
    core = haiku.transform(lambda x, h: haiku.GRU(H, b_init=normal)(x, h)[0])
    params = core.init(jax.random.key(1), draw(N, I), draw(N, H))["gru"]

    def run(params: Any, x: Host) -> Any:
        return stepped(lambda x_t, h: core.apply({"gru": params}, None, x_t, h), x)

    return Theirs(params, run, jax.tree.leaves)


def mlx_object(form: Form) -> Theirs:
    mx, nn = imported("mlx.core"), imported("mlx.nn")
    run = lambda layer, x: np.asarray(layer(mx.array(x)))  # noqa: E731
    return Theirs(nn.GRU(I, H, form.bias), run, lambda layer: list(layer.parameters().values()))


def paddle_object(form: Form) -> Theirs:
    paddle = imported("paddle")
    if form.layers:
        direction = "bidirect" if form.both else "forward"
        layer = paddle.nn.GRU(I, H, form.layers, direction)
        run = lambda layer, x: layer(paddle.to_tensor(x))[0].numpy()  # noqa: E731
    else:
        layer = paddle.nn.GRUCell(I, H)
        run = lambda cell, x: stepped(  # noqa: E731
            lambda x_t, h: cell(paddle.to_tensor(x_t), paddle.to_tensor(h))[0].numpy(), x
        )
    return Theirs(layer, run, lambda layer: [each.numpy() for each in layer.parameters()])


LAYERED = (Form(0), Form(1), Form(1, both=True), Form(3), Form(2, both=True))
CASES = [
    *((keras_object, form) for form in LAYERED),
    *((keras_object, form._replace(bias=False)) for form in LAYERED),
    *((keras_object, form._replace(reset_after=False)) for form in LAYERED),
    *((nnx_object, form) for form in LAYERED),
    *((linen_object, form) for form in LAYERED),
    (equinox_object, Form(0)),
    (equinox_object, Form(0, bias=False)),
    (haiku_object, Form(0, reset_after=False)),
    (mlx_object, Form(1)),
    (mlx_object, Form(1, bias=False)),
    *((paddle_object, form) for form in LAYERED),
]
FUNCTIONS = {
    keras_object: "keras.from_keras keras.to_keras",
    nnx_object: "flax.from_flax flax.to_flax",
    linen_object: "flax.from_flax flax.to_linen",
    equinox_object: "equinox.from_equinox equinox.to_equinox",
    haiku_object: "haiku.from_haiku haiku.to_haiku",
    mlx_object: "mlx.from_mlx mlx.to_mlx",
    paddle_object: "paddle.from_paddle paddle.to_paddle",
}

cases = pytest.mark.parametrize(
    ("make", "form"),
    CASES,
    ids=[f"{make.__name__.removesuffix('_object')}-{tuple(form)}" for make, form in CASES],
)


def functions(make: Callable[[Form], Theirs]) -> list[Callable[..., Any]]:
    """Return the functions that read such an object and that write one."""
    found = []
    for path in FUNCTIONS[make].split():
        module, _, name = path.partition(".")
        found.append(getattr(importlib.import_module(f"gru_xp.interop.{module}"), name))
    return found


def ours(form: Form, *, b_hn: bool = True, **options: Any) -> Any:
    """Make a model of random weights, with or without the bias that the reset gate scales."""
    options = {"bias": form.bias, "reset_after": form.reset_after, "rng": 1, **options}
    if form.layers:
        options |= {"batch_first": True, "bidirectional": form.both, "num_layers": form.layers}
        model: Any = gru_xp.GRU(I, H, **options)
    else:
        model = gru_xp.GRUCell(I, H, **options)
    for name, array in model.parameters().items():
        if name.startswith("bias_hh") and not b_hn:
            array[2 * H :] = 0
    return model


def computed(model: Any, x: Host) -> Host:
    """What a model makes of x (N, T, I), over all steps."""
    return stepped(model, x) if isinstance(model, gru_xp.GRUCell) else model(x)[0]
