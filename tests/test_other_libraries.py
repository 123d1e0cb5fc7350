"""Array libraries that gru_xp does not know by name, in the pure functions: Dask and ndonnx.

They have no backend, no device and no classes. The pure functions use only what the Array API
standard says of their arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import gru_xp
from gru_xp.functional import GRUParams, gru, gru_backward, gru_cell, gru_cell_backward, gru_gates

T, N, I, H = 2, 3, 5, 2  # noqa: E741
LENGTHS = [2, 0, 1]


class Other(NamedTuple):
    """How arrays go into a library, what they are there, and how they come back."""

    array: Callable[[Any], Any]
    kind: type
    numpy: Callable[[Any], Any]


def dask() -> Other:
    array = pytest.importorskip("dask.array", reason="about Dask: gru-xp[frameworks]")
    return Other(array.from_array, array.Array, lambda given: given.compute())


def ndonnx() -> Other:
    library = pytest.importorskip("ndonnx", reason="about ndonnx: gru-xp[frameworks]")
    return Other(library.asarray, library.Array, lambda given: given.unwrap_numpy())


OTHERS = {"dask": dask, "ndonnx": ndonnx}


def each_library(*features: str) -> Any:
    return pytest.mark.parametrize(
        "make",
        [
            pytest.param(make, id=name, marks=pytest.mark.feature(*features, library=name))
            for name, make in OTHERS.items()
        ],
    )


def draw(*shape: int, seed: int) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


def moved(other: Other, params: Any) -> list[GRUParams]:
    return [
        GRUParams(*(array if array is None else other.array(array) for array in each))
        for each in params
    ]


def assert_same(other: Other, got: Any, wanted: Any) -> None:
    for mine, theirs in zip(got, wanted, strict=True):
        assert isinstance(mine, other.kind)
        assert mine.dtype == other.array(theirs).dtype
        np.testing.assert_allclose(other.numpy(mine), theirs, rtol=0, atol=1e-12)


@each_library("cell", "float64")
@pytest.mark.parametrize("reset_after", [True, False])
def test_a_step_and_its_gradients_are_numpys(make: Callable[[], Other], reset_after: bool) -> None:
    other = make()
    params = gru_xp.GRUCell(I, H, dtype="float64", rng=0).params
    x, h, delta = draw(N, I, seed=1), draw(N, H, seed=2), draw(N, H, seed=3)
    wanted, tape = gru_cell(params, x, h, reset_after=reset_after)
    gradients, dx, dh = gru_cell_backward(params, tape, delta, reset_after=reset_after)

    (there,) = moved(other, [params])
    got, tape = gru_cell(there, other.array(x), other.array(h), reset_after=reset_after)
    back = gru_cell_backward(there, tape, other.array(delta), reset_after=reset_after)
    assert_same(other, [got, *back[0], *back[1:]], [wanted, *gradients, dx, dh])


@each_library("layers", "lengths", "gates", "dropout", "float64")
@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "ragged"])
def test_layers_and_their_gradients_are_numpys(
    make: Callable[[], Other], lengths: Any, reset_after: bool
) -> None:
    other = make()
    options: Any = {"bidirectional": True, "reset_after": reset_after}
    params = gru_xp.GRU(I, H, 2, dtype="float64", rng=0, **options).params
    x, h0 = draw(T, N, I, seed=1), draw(4, N, H, seed=2)
    dy, dh_n = draw(T, N, 2 * H, seed=3), draw(4, N, H, seed=4)
    masks = [np.where(draw(T, N, 2 * H, seed=5) > 0, 2.0, 0.0)]
    y, h_n, tape = gru(params, x, h0, lengths=lengths, masks=masks, **options)
    gradients, dx, dh0 = gru_backward(params, tape, dy, dh_n, **options)
    wanted = [y, h_n, *gru_gates(tape), dx, dh0, *(array for each in gradients for array in each)]

    there, dropped = moved(other, params), [other.array(mask) for mask in masks]
    y, h_n, tape = gru(
        there, other.array(x), other.array(h0), lengths=lengths, masks=dropped, **options
    )
    gradients, dx, dh0 = gru_backward(there, tape, other.array(dy), other.array(dh_n), **options)
    got = [y, h_n, *gru_gates(tape), dx, dh0, *(array for each in gradients for array in each)]
    assert_same(other, got, wanted)


@each_library("float32")
def test_float32_stays_float32(make: Callable[[], Other]) -> None:
    other = make()
    layer = gru_xp.GRU(I, H, rng=0)
    x = draw(T, N, I, seed=1).astype("float32")
    y, _, tape = gru(moved(other, layer.params), other.array(x))
    _, dx, _ = gru_backward(moved(other, layer.params), tape, other.array(layer(x)[0]))
    for got, wanted in ((y, layer(x)[0]), (dx, layer.backward(layer(x)[0])[0])):
        assert got.dtype == other.array(x).dtype
        np.testing.assert_allclose(other.numpy(got), wanted, rtol=0, atol=1e-6)


@pytest.mark.feature("layers", "lengths", library="ndonnx", under="ONNX graph")
def test_ndonnx_makes_a_graph_that_onnx_runtime_runs() -> None:
    library = pytest.importorskip("ndonnx", reason="about ndonnx: gru-xp[frameworks]")
    runtime = pytest.importorskip("onnxruntime", reason="runs the graph")
    layer = gru_xp.GRU(I, H, 2, bidirectional=True, rng=0)
    other = ndonnx()
    symbol = library.argument(shape=(T, N, I), dtype=library.float32)
    y, h_n, _ = gru(moved(other, layer.params), symbol, lengths=LENGTHS, bidirectional=True)
    model = library.build({"x": symbol}, {"y": y, "h_n": h_n})
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = draw(T, N, I, seed=1).astype("float32")
    for got, wanted in zip(
        session.run(["y", "h_n"], {"x": x}), layer(x, lengths=LENGTHS), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)


def test_a_class_refuses_them_by_name() -> None:
    other = dask()
    wanted = (
        r"got an array of dask\. Convert input .*, or pass arrays of dask to gru_xp\.functional"
    )
    with pytest.raises(TypeError, match=wanted):
        gru_xp.GRU(I, H)(other.array(draw(T, N, I, seed=0)))


def test_to_numpy_takes_what_numpy_reads_and_names_the_rest() -> None:
    host = draw(N, H, seed=0)
    np.testing.assert_array_equal(gru_xp.to_numpy(dask().array(host)), host)
    with pytest.raises(TypeError, match="expected an array that NumPy can read, got one of ndonnx"):
        gru_xp.to_numpy(ndonnx().array(host))
