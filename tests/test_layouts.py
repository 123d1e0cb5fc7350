"""Conventions of other frameworks: each computes the same, there and here.

A framework that is installed computes itself; the others' equations are written out as scalars.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from gru_xp.functional import GRUParams, gru_cell
from gru_xp.interop import layouts
from gru_xp.interop.layouts import LAYOUTS, Block, Layout, Stored, from_params, to_params
from tests.frameworks import imported

T, N, I, H = 4, 2, 5, 3  # noqa: E741
Host = np.ndarray[Any, Any]
Arrays = dict[str, Host]

SUMMED = (layouts.FLAX_NNX, layouts.MADMOM)
"""Those without b_hn, though their reset gate acts after the product."""


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def draw(generator: np.random.Generator, *shape: int, dtype: str = "float32") -> Host:
    return generator.normal(size=shape).astype(dtype)


def draw_params(*, dtype: str = "float32", b_hn: bool = True) -> GRUParams:
    generator = rng()
    shapes = ((3 * H, I), (3 * H, H), (3 * H,), (3 * H,))
    params = GRUParams(*(draw(generator, *shape, dtype=dtype) for shape in shapes))
    if not b_hn:
        params.bias_hh[2 * H :] = 0
    return params


def params_for(layout: Layout, **options: Any) -> GRUParams:
    """Random weights that a convention can express."""
    return draw_params(b_hn=layout not in SUMMED, **options)


def reset_of(layout: Layout) -> bool:
    return layout.reset_after is not False


def ours(params: GRUParams, x: Host, h0: Host, *, reset_after: bool) -> Host:
    """States after each step, (T, N, H)."""
    states = []
    h = h0
    for x_t in x:
        h, _ = gru_cell(params, x_t, h, reset_after=reset_after)
        states.append(h)
    return np.stack(states)


def bits(arrays: Mapping[str, Host]) -> dict[str, tuple[Any, ...]]:
    return {name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()}


# --- The frameworks themselves


class Peer(NamedTuple):
    """A cell of a framework: its weights by its names, and what it computes."""

    get: Callable[[], Arrays]
    put: Callable[[Arrays], None]
    run: Callable[[Host, Host], Any]
    """From x (T, N, I) and h0 (N, H) to the state after each step, (T, N, H)."""


def stepped(cell: Callable[[Any, Any], Any], x: Any, h: Any) -> list[Any]:
    states = []
    for x_t in x:
        h = cell(x_t, h)
        states.append(h)
    return states


def torch_peer(reset_after: bool) -> Peer:
    torch = imported("torch")
    cell = torch.nn.GRUCell(I, H)

    def run(x: Host, h0: Host) -> Any:
        with torch.no_grad():
            return torch.stack(stepped(cell, torch.from_numpy(x), torch.from_numpy(h0)))

    return Peer(
        lambda: {name: value.detach().numpy() for name, value in cell.named_parameters()},
        lambda arrays: cell.load_state_dict({k: torch.from_numpy(a) for k, a in arrays.items()}),
        run,
    )


def onnx_peer(reset_after: bool) -> Peer:
    onnx, onnxruntime = imported("onnx"), imported("onnxruntime")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    node = helper.make_node(
        "GRU",
        ["X", "W", "R", "B", "", "h0"],
        ["Y"],
        hidden_size=H,
        linear_before_reset=int(reset_after),
    )
    float32 = onnx.TensorProto.FLOAT
    values = [
        helper.make_tensor_value_info(name, float32, shape)
        for name, shape in (("X", (T, N, I)), ("h0", (1, N, H)), ("Y", (T, 1, N, H)))
    ]
    graph = helper.make_graph([node], "gru", values[:2], values[2:])

    def put(arrays: Arrays) -> None:
        del graph.initializer[:]
        graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())

    def run(x: Host, h0: Host) -> Any:
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return session.run(None, {"X": x, "h0": h0[None]})[0][:, 0]

    # An operator has no weights of its own: these have the shapes of its specification.
    put({"W": np.zeros((1, 3 * H, I)), "R": np.zeros((1, 3 * H, H)), "B": np.zeros((1, 6 * H))})
    return Peer(lambda: {t.name: numpy_helper.to_array(t) for t in graph.initializer}, put, run)


def keras_peer(reset_after: bool) -> Peer:
    keras = imported("keras")
    layer = keras.layers.GRU(H, return_sequences=True, reset_after=reset_after)
    layer.build((None, None, I))

    def put(arrays: Arrays) -> None:
        for weight in layer.weights:
            weight.assign(arrays[weight.name])

    return Peer(
        lambda: {weight.name: np.asarray(weight) for weight in layer.weights},
        put,
        lambda x, h0: np.swapaxes(layer(np.swapaxes(x, 0, 1), initial_state=h0), 0, 1),
    )


def nnx_peer(reset_after: bool) -> Peer:
    nnx = imported("flax.nnx")
    cell = nnx.GRUCell(I, H, rngs=nnx.Rngs(0))

    def parameters() -> dict[str, Any]:
        return {".".join(path): leaf for path, leaf in nnx.to_flat_state(nnx.state(cell))}

    def put(arrays: Arrays) -> None:
        state = nnx.state(cell)
        for path, leaf in nnx.to_flat_state(state):
            leaf[...] = arrays[".".join(path)]
        nnx.update(cell, state)

    return Peer(
        lambda: {name: np.asarray(leaf[...]) for name, leaf in parameters().items()},
        put,
        lambda x, h0: stepped(lambda x_t, h: cell(h, x_t)[0], x, h0),
    )


def linen_peer(reset_after: bool) -> Peer:
    linen, traverse = imported("flax.linen"), imported("flax.traverse_util")
    jax = imported("jax")
    cell = linen.GRUCell(H)
    kept = dict(cell.init(jax.random.key(0), np.zeros((N, H)), np.zeros((N, I))))

    def put(arrays: Arrays) -> None:
        kept["params"] = traverse.unflatten_dict(arrays, sep=".")

    return Peer(
        lambda: {
            name: np.asarray(leaf)
            for name, leaf in traverse.flatten_dict(kept["params"], sep=".").items()
        },
        put,
        lambda x, h0: stepped(lambda x_t, h: cell.apply(kept, h, x_t)[0], x, h0),
    )


def equinox_peer(reset_after: bool) -> Peer:
    equinox, jax = imported("equinox"), imported("jax")
    kept = {"cell": equinox.nn.GRUCell(I, H, dtype="float32", key=jax.random.key(0))}

    def get() -> Arrays:
        fields = vars(kept["cell"]).items()
        return {name: np.asarray(leaf) for name, leaf in fields if equinox.is_array(leaf)}

    def put(arrays: Arrays) -> None:
        names = list(get())
        kept["cell"] = equinox.tree_at(
            lambda cell: [getattr(cell, name) for name in names],
            kept["cell"],
            [jax.numpy.asarray(arrays[name]) for name in names],
        )

    return Peer(get, put, lambda x, h0: stepped(jax.vmap(kept["cell"]), x, h0))


def haiku_peer(reset_after: bool) -> Peer:
    haiku, jax = imported("haiku"), imported("jax")
    cell = haiku.without_apply_rng(haiku.transform(lambda x_t, h: haiku.GRU(H)(x_t, h)[0]))
    kept = cell.init(jax.random.key(0), np.zeros((N, I), "float32"), np.zeros((N, H), "float32"))

    def put(arrays: Arrays) -> None:
        kept["gru"] = dict(arrays)

    return Peer(
        lambda: {name: np.asarray(leaf) for name, leaf in kept["gru"].items()},
        put,
        lambda x, h0: stepped(lambda x_t, h: cell.apply(kept, x_t, h), x, h0),
    )


def mlx_peer(reset_after: bool) -> Peer:
    mx, nn = imported("mlx.core"), imported("mlx.nn")
    layer = nn.GRU(I, H)
    return Peer(
        lambda: {name: np.array(leaf) for name, leaf in layer.parameters().items()},
        lambda arrays: layer.update({name: mx.array(a) for name, a in arrays.items()}),
        lambda x, h0: np.swapaxes(layer(mx.array(np.swapaxes(x, 0, 1)), mx.array(h0)), 0, 1),
    )


def paddle_peer(reset_after: bool) -> Peer:
    paddle = imported("paddle")
    cell = paddle.nn.GRUCell(I, H)
    return Peer(
        lambda: {name: value.numpy() for name, value in cell.state_dict().items()},
        lambda arrays: cell.set_state_dict(arrays),
        lambda x, h0: [
            state.numpy()
            for state in stepped(
                lambda x_t, h: cell(paddle.to_tensor(x_t), h)[1], x, paddle.to_tensor(h0)
            )
        ],
    )


def paddle_unit_peer(reset_after: bool) -> Peer:
    paddle = imported("paddle")
    unit = getattr(paddle._C_ops, "gru_unit", None)
    if unit is None:
        pytest.skip("this Paddle has the operator no more")
    sigmoid, tanh = 1, 2  # its numbers for them
    # An operator has no weights of its own: these have the shapes of its documentation.
    kept = {
        "fc": np.zeros((I, 3 * H), "float32"),
        "weight": np.zeros((H, 3 * H), "float32"),
        "bias": np.zeros((1, 3 * H), "float32"),
    }

    def run(x: Host, h0: Host) -> Any:
        fc, weight, bias = (paddle.to_tensor(kept[name]) for name in ("fc", "weight", "bias"))
        states = stepped(
            lambda x_t, h: unit(
                paddle.matmul(paddle.to_tensor(x_t), fc), h, weight, bias, tanh, sigmoid, False
            ),
            x,
            paddle.to_tensor(h0),
        )
        return [state.numpy() for state in states]

    return Peer(lambda: dict(kept), kept.update, run)


def madmom_peer(reset_after: bool) -> Peer:
    nn = imported("madmom.ml.nn.layers")

    def weights() -> tuple[Host, Host, Host]:
        zeros = (np.zeros(shape, "float32") for shape in ((I, H), (H,), (H, H)))
        return next(zeros), next(zeros), next(zeros)

    parts = {
        "reset_gate": nn.Gate(*weights()),
        "update_gate": nn.Gate(*weights()),
        "cell": nn.GRUCell(*weights()),
    }

    def put(arrays: Arrays) -> None:
        for name, array in arrays.items():
            part, _, attribute = name.partition(".")
            setattr(parts[part], attribute, array)

    def layer(h0: Host) -> Any:  # whose last argument has another name in each version
        return nn.GRULayer(parts["reset_gate"], parts["update_gate"], parts["cell"], h0)

    return Peer(
        lambda: {
            f"{part}.{attribute}": getattr(parts[part], attribute)
            for part in parts
            for attribute in ("weights", "recurrent_weights", "bias")
        },
        put,
        lambda x, h0: np.stack([layer(h0[row])(x[:, row]) for row in range(N)], axis=1),
    )


def sigmoid(a: float) -> float:
    return 1 / (1 + math.exp(-a))


def kept_peer(
    shapes: dict[str, tuple[int, ...]], unit: Callable[[SimpleNamespace, Host, Host, int], float]
) -> Peer:
    """Arrays alone, and the state of unit k after a step as a scalar equation."""
    kept = {name: np.zeros(shape, "float32") for name, shape in shapes.items()}

    def row(x_t: Host, h: Host) -> Host:
        w = SimpleNamespace(**{name: array.astype("float64") for name, array in kept.items()})
        return np.array([unit(w, x_t, h, k) for k in range(H)])

    def run(x: Host, h0: Host) -> Any:
        rows = [stepped(row, x[:, n], h0[n]) for n in range(N)]
        return np.swapaxes(rows, 0, 1)

    return Peer(lambda: dict(kept), kept.update, run)


def nnx_with_hidden_bias(reset_after: bool) -> Peer:
    """As flax's pull request 5595 writes it; no release has it yet."""

    def unit(w: SimpleNamespace, x: Host, h: Host, k: int) -> float:
        kernel, recurrent, bias, hn_bias = (
            getattr(w, name)
            for name in ("dense_i.kernel", "dense_h.kernel", "dense_i.bias", "hn_bias")
        )
        xi = [x @ kernel[:, k + part * H] + bias[k + part * H] for part in range(3)]
        hh = [h @ recurrent[:, k + part * H] for part in range(3)]
        r, z = sigmoid(xi[0] + hh[0]), sigmoid(xi[1] + hh[1])
        n = math.tanh(xi[2] + r * (hh[2] + hn_bias[k]))
        return (1 - z) * n + z * h[k]

    shapes = {
        "dense_i.kernel": (I, 3 * H),
        "dense_i.bias": (3 * H,),
        "dense_h.kernel": (H, 3 * H),
        "hn_bias": (H,),
    }
    return kept_peer(shapes, unit)


def haste_peer(reset_after: bool) -> Peer:
    def unit(w: SimpleNamespace, x: Host, h: Host, k: int) -> float:
        kernel, recurrent = w.kernel[:, k::H], w.recurrent_kernel[:, k::H]
        wx = [sum(x[i] * kernel[i, part] for i in range(I)) for part in range(3)]
        rh = [sum(h[j] * recurrent[j, part] for j in range(H)) for part in range(3)]
        bx, br = w.bias[k::H], w.recurrent_bias[k::H]
        z = sigmoid(wx[0] + rh[0] + bx[0] + br[0])
        r = sigmoid(wx[1] + rh[1] + bx[1] + br[1])
        g = math.tanh(wx[2] + r * (rh[2] + br[2]) + bx[2])
        return z * h[k] + (1 - z) * g

    shapes = {
        "kernel": (I, 3 * H),
        "recurrent_kernel": (H, 3 * H),
        "bias": (3 * H,),
        "recurrent_bias": (3 * H,),
    }
    return kept_peer(shapes, unit)


def rtneural_peer(reset_after: bool) -> Peer:
    def unit(w: SimpleNamespace, x: Host, h: Host, k: int) -> float:
        wx = [sum(w.WVals[i][k + part * H] * x[i] for i in range(I)) for part in range(3)]
        uh = [sum(w.UVals[j][k + part * H] * h[j] for j in range(H)) for part in range(3)]
        z = sigmoid(wx[0] + uh[0] + w.BVals[0][k] + w.BVals[1][k])
        r = sigmoid(wx[1] + uh[1] + w.BVals[0][k + H] + w.BVals[1][k + H])
        c = math.tanh(wx[2] + r * (uh[2] + w.BVals[1][k + 2 * H]) + w.BVals[0][k + 2 * H])
        return (1 - z) * c + z * h[k]

    return kept_peer({"WVals": (I, 3 * H), "UVals": (H, 3 * H), "BVals": (2, 3 * H)}, unit)


def paddle_unit_equation(reset_after: bool) -> Peer:
    def unit(w: SimpleNamespace, x: Host, h: Host, k: int) -> float:
        gates, candidate = np.split(w.weight.reshape(-1), [2 * H * H])  # as it lies in memory

        def gate(part: int, k: int) -> float:
            recurrent = sum(gates[j * 2 * H + part * H + k] * h[j] for j in range(H))
            return sigmoid(x @ w.fc[:, k + part * H] + recurrent + w.bias[0, k + part * H])

        u, r = gate(0, k), [gate(1, j) for j in range(H)]
        recurrent = sum(candidate[j * H + k] * r[j] * h[j] for j in range(H))
        m = math.tanh(x @ w.fc[:, k + 2 * H] + recurrent + w.bias[0, k + 2 * H])
        return (1 - u) * h[k] + u * m

    return kept_peer({"fc": (I, 3 * H), "weight": (H, 3 * H), "bias": (1, 3 * H)}, unit)


PEERS: dict[str, tuple[Layout, bool, Callable[[bool], Peer]]] = {
    "torch": (layouts.TORCH, True, torch_peer),
    "onnx, linear_before_reset=1": (layouts.ONNX, True, onnx_peer),
    "onnx, linear_before_reset=0": (layouts.ONNX, False, onnx_peer),
    "keras, reset_after=True": (layouts.KERAS, True, keras_peer),
    "keras, reset_after=False": (layouts.KERAS_RESET_BEFORE, False, keras_peer),
    "flax.nnx": (layouts.FLAX_NNX, True, nnx_peer),
    "flax.nnx, with hn_bias": (layouts.FLAX_NNX_HN_BIAS, True, nnx_with_hidden_bias),
    "flax.linen": (layouts.FLAX_LINEN, True, linen_peer),
    "equinox": (layouts.EQUINOX, True, equinox_peer),
    "haiku": (layouts.HAIKU, False, haiku_peer),
    "mlx": (layouts.MLX, True, mlx_peer),
    "paddle": (layouts.PADDLE, True, paddle_peer),
    "paddle, gru_unit": (layouts.PADDLE_GRU_UNIT, False, paddle_unit_peer),
    "paddle, gru_unit's equation": (layouts.PADDLE_GRU_UNIT, False, paddle_unit_equation),
    "madmom": (layouts.MADMOM, True, madmom_peer),
    "haste": (layouts.HASTE, True, haste_peer),
    "rtneural": (layouts.RTNEURAL, True, rtneural_peer),
}

peers = pytest.mark.parametrize(
    ("layout", "reset_after", "make"), list(PEERS.values()), ids=list(PEERS)
)
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)


def assert_same_states(peer: Peer, params: GRUParams, *, reset_after: bool) -> None:
    generator = rng()
    x, h0 = draw(generator, T, N, I), draw(generator, N, H)
    expected = ours(params, x, h0, reset_after=reset_after)
    np.testing.assert_allclose(np.asarray(peer.run(x, h0)), expected, rtol=0, atol=1e-5)


@peers
def test_weights_of_the_framework_compute_the_same_here(
    layout: Layout, reset_after: bool, make: Callable[[bool], Peer]
) -> None:
    peer = make(reset_after)
    generator = rng()
    fresh = peer.get()
    peer.put({name: draw(generator, *array.shape) for name, array in fresh.items()})
    assert_same_states(peer, to_params(layout, peer.get()), reset_after=reset_after)


@peers
def test_weights_written_for_the_framework_compute_the_same_there(
    layout: Layout, reset_after: bool, make: Callable[[bool], Peer]
) -> None:
    peer = make(reset_after)
    params = params_for(layout)
    arrays = from_params(layout, params, reset_after=reset_after)
    shapes = {name: array.shape for name, array in peer.get().items()}
    assert {name: array.shape for name, array in arrays.items()} == shapes
    peer.put(arrays)
    assert_same_states(peer, params, reset_after=reset_after)


def test_each_layout_is_compared() -> None:
    assert {layout.name for layout, _, _ in PEERS.values()} == {one.name for one in LAYOUTS}


# --- Round trips


@every_layout
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_what_was_read_is_written_back_bit_for_bit(layout: Layout, dtype: str) -> None:
    if dtype == "bfloat16":
        dtype = imported("ml_dtypes").bfloat16
    start = from_params(layout, params_for(layout, dtype=dtype), reset_after=reset_of(layout))
    for array in start.values():
        array.reshape(-1)[0] = -0.0
    there = from_params(layout, to_params(layout, start), reset_after=reset_of(layout))
    assert bits(there) == bits(start)


@every_layout
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_was_written_is_read_back_bit_for_bit_but_for_sums(layout: Layout, dtype: str) -> None:
    params = params_for(layout, dtype=dtype)
    back = to_params(layout, from_params(layout, params, reset_after=reset_of(layout)))
    # Where a sum is kept, the first bias is the sum, rounded once, and the second is zero.
    expected = params._replace(bias_ih=params.bias_ih.copy(), bias_hh=params.bias_hh.copy())
    for stored in layout.arrays:
        for block in stored.blocks:
            for gate in block.gates if block.source == "bias" else ():
                rows = slice("rzn".index(gate) * H, ("rzn".index(gate) + 1) * H)
                expected.bias_ih[rows] += expected.bias_hh[rows]
                expected.bias_hh[rows] = 0
    for actual, wanted in zip(back, expected, strict=True):
        assert actual.dtype == wanted.dtype
        np.testing.assert_array_equal(actual, wanted)


@every_layout
def test_without_biases_they_are_left_out_or_zero(layout: Layout) -> None:
    params = draw_params()._replace(bias_ih=None, bias_hh=None)
    arrays = from_params(layout, params, reset_after=reset_of(layout))
    biases = [arrays[one.name] for one in layout.arrays if one.is_bias and one.name in arrays]
    back = to_params(layout, arrays)
    if layout.bias_optional:
        assert biases == []
        assert back.bias_ih is None
        assert back.bias_hh is None
    else:
        assert biases
        assert not any(array.any() for array in [*biases, back.bias_ih, back.bias_hh])
    np.testing.assert_array_equal(back.weight_ih, params.weight_ih)
    np.testing.assert_array_equal(back.weight_hh, params.weight_hh)


@every_layout
def test_each_weight_has_exactly_one_place(layout: Layout) -> None:
    places = [
        (block.source, gate)
        for stored in layout.arrays
        for block in stored.blocks
        for gate in block.gates
    ]
    assert len(set(places)) == len(places)
    weights = {(source, gate) for source in ("weight_ih", "weight_hh") for gate in "rzn"}
    assert weights <= set(places)


@every_layout
def test_arguments_are_neither_changed_nor_kept(layout: Layout) -> None:
    params = params_for(layout)
    before = bits(params.named())
    arrays = from_params(layout, params, reset_after=reset_of(layout))
    fortran = {name: array.copy(order="F") for name, array in arrays.items()}
    for array in [*params, *fortran.values()]:
        array.flags.writeable = False
    back = to_params(layout, fortran)
    assert bits(back.named()) == bits(to_params(layout, arrays).named())
    for array in (*arrays.values(), *back):
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert not any(np.shares_memory(array, one) for one in (*params, *fortran.values()))
    assert bits(params.named()) == before


# --- Errors


@pytest.mark.parametrize("layout", SUMMED, ids=lambda layout: layout.name)
def test_a_bias_that_the_reset_gate_scales_is_refused_where_it_has_no_place(
    layout: Layout,
) -> None:
    with pytest.raises(
        ValueError, match=r"expected zeros for gate n of bias_hh, which it does not have"
    ):
        from_params(layout, draw_params())


def test_a_layout_without_biases_takes_none() -> None:
    bare = replace(layouts.TORCH, arrays=layouts.TORCH.arrays[:2])
    params = draw_params()
    with pytest.raises(ValueError, match=r"expected zeros for gate r of bias_ih"):
        from_params(bare, params)
    zero = params._replace(bias_ih=0 * params.bias_ih, bias_hh=0 * params.bias_hh)
    assert to_params(bare, from_params(bare, zero)).bias_ih is None


@pytest.mark.parametrize(
    "layout",
    [layout for layout in LAYOUTS if layout.reset_after is not None],
    ids=lambda layout: layout.name,
)
def test_the_other_form_is_refused(layout: Layout) -> None:
    other = not layout.reset_after
    with pytest.raises(
        ValueError, match=rf"expected reset_after={layout.reset_after}.*got {other}"
    ):
        from_params(layout, params_for(layout), reset_after=other)


@every_layout
def test_missing_and_unknown_names_are_listed(layout: Layout) -> None:
    arrays = from_params(layout, params_for(layout), reset_after=reset_of(layout))
    first = next(iter(arrays))
    arrays["other"] = arrays.pop(first)
    with pytest.raises(ValueError, match=rf"expected the arrays .*missing .*{first}.*; unexpected"):
        to_params(layout, arrays)


def test_a_part_of_the_biases_is_refused() -> None:
    arrays = from_params(layouts.EQUINOX, draw_params())
    arrays["bias_n"] = None
    with pytest.raises(
        ValueError, match=r"\['bias', 'bias_n'\] may be absent.*missing \['bias_n'\]"
    ):
        to_params(layouts.EQUINOX, arrays)
    arrays["bias"] = None
    assert to_params(layouts.EQUINOX, arrays).bias_ih is None


BAD_SHAPES: dict[str, tuple[Layout, str, tuple[int, ...]]] = {
    "rank": (layouts.KERAS, "bias", (6 * H,)),
    "one bias for two": (layouts.KERAS, "bias", (1, 3 * H)),
    "two biases for one": (layouts.KERAS_RESET_BEFORE, "bias", (2, 3 * H)),
    "no multiple of three": (layouts.TORCH, "weight_ih", (3 * H + 1, I)),
    "transposed": (layouts.TORCH, "weight_hh", (H, 3 * H)),
    "another hidden size": (layouts.HAIKU, "w_h", (H + 1, 3 * H + 3)),
    "both directions": (layouts.ONNX, "W", (2, 3 * H, I)),
    "another input size": (layouts.FLAX_LINEN, "in.kernel", (I + 1, H)),
    "empty": (layouts.MLX, "Wx", (3 * H, 0)),
}


@pytest.mark.parametrize("case", BAD_SHAPES)
def test_shapes_that_do_not_fit_are_named(case: str) -> None:
    layout, name, shape = BAD_SHAPES[case]
    arrays = from_params(layout, draw_params(), reset_after=reset_of(layout))
    arrays[name] = np.zeros(shape, "float32")
    with pytest.raises(
        ValueError, match=r"expected arrays of the shapes .* got .* does not match."
    ):
        to_params(layout, arrays)


def test_params_that_do_not_fit_each_other_are_refused() -> None:
    params = draw_params()
    with pytest.raises(
        ValueError, match=r"GRUParams: expected arrays of .* bias_hh does not match"
    ):
        from_params(layouts.TORCH, params._replace(bias_hh=params.bias_hh[:-3]))
    with pytest.raises(ValueError, match=r"GRUParams: expected .*; missing \['bias_hh'\]"):
        from_params(layouts.TORCH, params._replace(bias_hh=None))
    with pytest.raises(TypeError, match="expected a GRUParams, got tuple"):
        from_params(layouts.TORCH, tuple(params))


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "complex64", "object"])
def test_only_real_floating_dtypes_are_taken(dtype: str) -> None:
    arrays = from_params(layouts.HAIKU, draw_params(), reset_after=False)
    arrays["w_i"] = arrays["w_i"].astype(dtype)
    with pytest.raises(
        TypeError, match=rf"expected w_i to have a real floating dtype, got {dtype}"
    ):
        to_params(layouts.HAIKU, arrays)


def test_lists_and_other_libraries_arrays_are_taken() -> None:
    params = draw_params(dtype="float64")
    arrays = from_params(layouts.KERAS, params)
    listed = to_params(layouts.KERAS, {name: array.tolist() for name, array in arrays.items()})
    assert bits(listed.named()) == bits(params.named())


def test_a_layout_describes_a_convention_of_the_users_own() -> None:
    own = Layout(
        "ours",
        (
            Stored("wx", "(3H, I)", (Block("weight_ih", "nrz"),)),
            Stored("wh", "(3H, H)", (Block("weight_hh", "nrz"),)),
            Stored("b", "(2, 3H)", (Block("bias_hh", "nrz"), Block("bias_ih", "nrz"))),
        ),
    )
    params = draw_params()
    arrays = from_params(own, params)
    np.testing.assert_array_equal(arrays["wx"][:H], params.weight_ih[2 * H :])
    np.testing.assert_array_equal(arrays["b"][0, H : 2 * H], params.bias_hh[:H])
    assert bits(to_params(own, arrays).named()) == bits(params.named())
