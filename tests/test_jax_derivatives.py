"""Derivatives of the functional form on JAX: those of the accelerator's scan beside JAX's own.

The oracle is JAX's derivative of the portable loop, which knows nothing of the scan's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp.arrays import transfer
from gru_xp.functional import GRUParams, gru, gru_backward, gru_gates
from tests.library import Library
from tests.test_cell_values import H, I, N, draw

T = 5
BOTH = {"reset_after": [True, False], "ragged": [False, True]}
EPS = {"float32": float(np.finfo("float32").eps), "float64": float(np.finfo("float64").eps)}


@pytest.fixture
def jax(lib: Library) -> Any:
    if lib.name != "jax" or not lib.accelerated:
        pytest.skip("about the derivative of JAX's accelerator")
    return pytest.importorskip("jax", reason="about JAX")


def problem(
    lib: Library,
    dtype: str = "float64",
    *,
    steps: int = T,
    rows: int = N,
    gates: bool = False,
    ragged: bool = False,
    bidirectional: bool = False,
    **options: Any,
) -> tuple[Callable[..., Any], tuple[Any, Any, Any]]:
    """A scalar function of a GRU's weights, input and initial states, and a point to take it at."""
    place = {"backend": lib.name, "device": lib.device, "dtype": dtype}
    layer: Any = gru_xp.GRU(I, H, 1, bidirectional=bidirectional, rng=0, **place)
    directions = 1 + bidirectional
    x, h0 = draw(steps, rows, I, seed=0), draw(directions, rows, H, seed=1)
    lengths = None
    if ragged:
        lengths = lib.array([steps, 0, min(steps, 3)], "int32")
        x[3:, 2] = np.nan
    weights = lib.array(draw(steps, rows, directions * H, seed=2), dtype)

    def value(params: Any, x: Any, h0: Any) -> Any:
        y, h_n, tape = gru(params, x, h0, lengths=lengths, bidirectional=bidirectional, **options)
        total = (y * weights).sum() + (h_n**3).sum()
        if gates:
            r, z, n = gru_gates(tape)
            total = total + (r**2).sum() + 2 * (z**2).sum() + 3 * (n**3).sum()
        return total

    return value, (layer.params, lib.array(x, dtype), lib.array(h0, dtype))


def without_accelerator(function: Callable[..., Any], /) -> Callable[..., Any]:
    def run(*arguments: Any) -> Any:
        with gru_xp.use_accelerators(False):
            return function(*arguments)

    return run


def assert_same(jax: Any, lib: Library, got: Any, wanted: Any, *, roundings: float) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        expected = transfer.to_numpy(other)  # zeros of JAX's own may be on its default device
        assert np.isfinite(expected).all()
        scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
        dtype = str(other.dtype)
        lib.assert_close(one, expected, atol=roundings * EPS[dtype] * scale, dtype=dtype)


@pytest.mark.feature("autograd", under="jit")
@pytest.mark.feature("autograd")
@pytest.mark.parametrize(("dtype", "gates"), [("float32", False), ("float64", True)])
@pytest.mark.parametrize("ragged", BOTH["ragged"])
@pytest.mark.parametrize("reset_after", BOTH["reset_after"])
def test_gradients_equal_jaxs_own(
    lib: Library, jax: Any, reset_after: bool, ragged: bool, gates: bool, dtype: str
) -> None:
    options = {"gates": gates, "ragged": ragged, "reset_after": reset_after}
    value, point = problem(lib, dtype, bidirectional=True, **options)
    gradients = jax.value_and_grad(value, (0, 1, 2))
    wanted = without_accelerator(gradients)(*point)
    assert_same(jax, lib, gradients(*point), wanted, roundings=64)
    assert_same(jax, lib, jax.jit(gradients)(*point), wanted, roundings=64)


@pytest.mark.feature("higher", under="jit")
@pytest.mark.parametrize("ragged", BOTH["ragged"])
@pytest.mark.parametrize("reset_after", BOTH["reset_after"])
def test_forward_mode_equals_jaxs_own(
    lib: Library, jax: Any, reset_after: bool, ragged: bool
) -> None:
    options = {"gates": True, "ragged": ragged, "reset_after": reset_after}
    value, point = problem(lib, bidirectional=True, **options)
    tangents = jax.tree.map(lambda each: lib.array(draw(*each.shape, seed=each.size)), point)
    derivative = partial(jax.jvp, value)
    wanted = without_accelerator(derivative)(point, tangents)
    assert_same(jax, lib, jax.jit(derivative)(point, tangents), wanted, roundings=64)


@pytest.mark.feature("higher", under="jit")
@pytest.mark.parametrize("reset_after", BOTH["reset_after"])
def test_second_derivatives_equal_jaxs_own(lib: Library, jax: Any, reset_after: bool) -> None:
    value, point = problem(lib, steps=3, gates=True, ragged=True, reset_after=reset_after)
    tangents = jax.tree.map(lambda each: lib.array(draw(*each.shape, seed=each.size)), point)
    gradients = jax.grad(value, (0, 1, 2))

    def forward_over_reverse(point: Any) -> Any:
        return jax.jvp(gradients, point, tangents)[1]

    def reverse_over_reverse(point: Any) -> Any:
        def along(point: Any) -> Any:
            products = jax.tree.map(lambda a, b: (a * b).sum(), gradients(*point), tangents)
            return sum(jax.tree.leaves(products))

        return jax.grad(along)(point)

    wanted = without_accelerator(forward_over_reverse)(point)
    assert_same(jax, lib, jax.jit(forward_over_reverse)(point), wanted, roundings=256)
    assert_same(jax, lib, jax.jit(reverse_over_reverse)(point), wanted, roundings=256)


@pytest.mark.feature("vmap")
@pytest.mark.parametrize("reset_after", BOTH["reset_after"])
def test_vmap_of_grad_and_grad_of_vmap(lib: Library, jax: Any, reset_after: bool) -> None:
    value, (params, x, h0) = problem(lib, reset_after=reset_after)
    many = jax.numpy.stack([x, 2 * x, -x])
    gradients = jax.grad(value, (0, 1))
    each = [without_accelerator(gradients)(params, one, h0) for one in many]
    wanted = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *each)
    got = jax.vmap(gradients, (None, 0, None))(params, many, h0)
    assert_same(jax, lib, got, wanted, roundings=64)

    def total(params: GRUParams) -> Any:
        return jax.vmap(value, (None, 0, None))(params, many, h0).sum()

    summed = jax.tree.map(lambda leaf: leaf.sum(axis=0), wanted[0])
    assert_same(jax, lib, jax.grad(total)(params), summed, roundings=64)


def test_grad_inside_a_scan_and_through_one(lib: Library, jax: Any) -> None:
    value, (params, x, h0) = problem(lib)

    def trained(params: Any, x: Any) -> Any:
        def step(params: Any, rate: Any) -> Any:
            gradients = jax.grad(value)(params, x, h0)
            return jax.tree.map(lambda a, b: a - rate * b, params, gradients), None

        return jax.lax.scan(step, params, lib.array([0.01, 0.02]))[0]

    def chunked(params: Any, x: Any) -> Any:
        def chunk(h: Any, x: Any) -> Any:
            y, h, _ = gru(params, x, h)
            return h, (y**2).sum()

        return jax.lax.scan(chunk, h0, jax.numpy.stack([x, x * 2]))[1].sum()

    for function in (trained, jax.grad(chunked, (0, 1))):
        wanted = without_accelerator(function)(params, x)
        assert_same(jax, lib, jax.jit(function)(params, x), wanted, roundings=64)


@pytest.mark.parametrize("of", [0, 1, 2])
def test_what_is_not_differentiated_may_be_left_out(lib: Library, jax: Any, of: int) -> None:
    value, point = problem(lib, ragged=True)
    wanted = without_accelerator(jax.grad(value, of))(*point)
    assert_same(jax, lib, jax.jit(jax.grad(value, of))(*point), wanted, roundings=64)


@pytest.mark.parametrize(("steps", "rows"), [(0, N), (1, N), (2, N), (T, 0), (T, 1)])
def test_short_and_empty_sequences(lib: Library, jax: Any, steps: int, rows: int) -> None:
    value, point = problem(lib, steps=steps, rows=rows, gates=True)
    gradients = jax.grad(value, (0, 1, 2))
    wanted = without_accelerator(gradients)(*point)
    assert_same(jax, lib, jax.jit(gradients)(*point), wanted, roundings=64)


def test_without_a_tape_gradients_are_the_same(lib: Library, jax: Any) -> None:
    with_tape, point = problem(lib)
    without, _ = problem(lib, keep_tape=False)
    got, wanted = (jax.grad(each, (0, 1, 2))(*point) for each in (without, with_tape))
    assert_same(jax, lib, got, wanted, roundings=0)


@pytest.mark.parametrize("reset_after", BOTH["reset_after"])
def test_gradients_in_bfloat16_are_those_of_float32_rounded(
    lib: Library, jax: Any, reset_after: bool
) -> None:
    value, point = problem(lib, "bfloat16", reset_after=reset_after)
    wide, wide_point = problem(lib, "float32", reset_after=reset_after)
    exact = jax.tree.map(lambda one, other: one.astype(other.dtype), point, wide_point)
    wanted = without_accelerator(jax.grad(wide, (0, 1, 2)))(*exact)
    got = jax.grad(value, (0, 1, 2))(*point)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert one.dtype == jax.numpy.bfloat16
        # A rounding is 2**-9; a dozen follow one another on the way through a step, and back.
        bound = 16 * 2.0**-9 * float(abs(other).max())
        lib.assert_close(one.astype("float32"), lib.numpy(other), atol=bound)


@pytest.mark.parametrize("gates", [False, True])
@pytest.mark.parametrize("reset_after", BOTH["reset_after"])
def test_an_initial_state_that_no_step_starts_from_never_matters(
    lib: Library, jax: Any, reset_after: bool, gates: bool
) -> None:
    """JAX's own derivative makes NaN of it: 0 * NaN in the products."""
    _, (params, x, h0) = problem(lib, ragged=True, bidirectional=True)
    poisoned = h0.at[:, 1].set(float("nan"))  # of the row whose length is 0
    options = {"lengths": lib.array([T, 0, 3], "int32"), "bidirectional": True}

    def value(params: Any, h0: Any) -> Any:
        y, _, tape = gru(params, x, h0, reset_after=reset_after, **options)
        return (y**2).sum() + (sum((each**2).sum() for each in gru_gates(tape)) if gates else 0)

    wanted = jax.grad(value)(params, h0)
    assert_same(jax, lib, jax.grad(value)(params, poisoned), wanted, roundings=0)


def test_reverse_mode_keeps_no_more_than_its_way_back_needs(lib: Library, jax: Any) -> None:
    """Six arrays (T, N, H) of slopes and states, and the input; JAX's own keeps eleven."""
    steps, rows, size = 64, 16, 32
    layer: Any = gru_xp.GRU(size, size, backend=lib.name, device=lib.device, rng=0)
    x = lib.array(draw(steps, rows, size, seed=0), "float32")
    _, way_back = jax.vjp(lambda params, x: gru(params, x)[0], layer.params, x)
    kept = sum({id(each): each.size for each in jax.tree.leaves(way_back)}.values())
    weights = sum(each.size for each in jax.tree.leaves(layer.params))
    assert kept - 2 * weights < 7.5 * steps * rows * size


SPREAD = {  # what is spread over the devices: params, x, h0, lengths
    "x and h0": (False, True, True, False),
    "x": (False, True, False, False),
    "h0": (False, False, True, False),
    "weights": (True, False, False, False),
    "lengths": (False, False, False, True),
}


@pytest.mark.feature("devices", under="jit")
@pytest.mark.parametrize("reset_after", BOTH["reset_after"])
@pytest.mark.parametrize("spread", SPREAD)
def test_what_shard_map_spreads_has_the_same_gradients(
    lib: Library, jax: Any, spread: str, reset_after: bool
) -> None:
    """Whichever of the arrays it is; with x alone, also where the initial state is left out."""
    if len(jax.devices()) < 2:
        pytest.skip("JAX has one device here")
    _, (params, x, h0) = problem(lib, rows=4)
    lengths = lib.array([5, 0, 3, 2], "int32")
    on_host = jax.device_get((params, x, h0, lengths))  # so that the mesh places them
    P = jax.sharding.PartitionSpec
    halves = dict(zip(("params", "x", "h0", "lengths"), SPREAD[spread], strict=True))
    if halves["params"]:  # two models
        on_host = (jax.tree.map(lambda a: np.stack([a, 2 * a]), on_host[0]), *on_host[1:])
    specs = (
        P("rows") if halves["params"] else P(),
        P(None, "rows") if halves["x"] else P(),
        P(None, "rows") if halves["h0"] else P(),
        P("rows") if halves["lengths"] else P(),
    )

    def of_part(number: Any, params: Any, x: Any, h0: Any, lengths: Any) -> tuple[Any, ...]:
        """What a device has, of arrays of which it may have only its part, or all."""

        def rows(array: Any, axis: int, is_half: bool) -> Any:
            return array if is_half else jax.lax.dynamic_slice_in_dim(array, 2 * number, 2, axis)

        if halves["params"]:
            params = jax.tree.map(lambda a: a[0], params)
        elif any(halves.values()):
            x, h0 = rows(x, 1, halves["x"]), rows(h0, 1, halves["h0"])
            lengths = rows(lengths, 0, halves["lengths"])
        return params, x, h0, lengths

    def loss(params: Any, x: Any, h0: Any, lengths: Any) -> Any:
        options = {"lengths": lengths, "reset_after": reset_after}
        y, _, tape = gru(params, x, h0, **options)
        total = (y**2).sum() + (gru_gates(tape).r ** 2).sum()
        return total + (gru(params, x, keep_tape=False, **options)[0] ** 2).sum()

    def back(params: Any, x: Any, h0: Any, lengths: Any) -> Any:
        y, _, tape = gru(params, x, h0, lengths=lengths, reset_after=reset_after)
        return jax.tree.map(
            lambda a: a[None], gru_backward(params, tape, y, reset_after=reset_after)
        )

    def spread_out(function: Any, out: Any, *, is_sum: bool) -> Any:
        def on_device(*arguments: Any) -> Any:
            part = of_part(jax.lax.axis_index("rows"), *arguments)
            found = function(*part)
            return jax.lax.psum(found, "rows") if is_sum else found

        mesh = jax.sharding.Mesh(jax.devices()[:2], ("rows",))
        return jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=out)

    gradient = jax.grad(spread_out(loss, P(), is_sum=True), (0, 1, 2))
    # Another function, as a compiled one keeps the way that it has been traced with.
    plain = jax.grad(spread_out(lambda *all: loss(*all), P(), is_sum=True), (0, 1, 2))
    cases = [(gradient, without_accelerator(plain))]
    cases += [
        (
            spread_out(back, P("rows"), is_sum=False),
            without_accelerator(spread_out(lambda *all: back(*all), P("rows"), is_sum=False)),
        )
    ]
    for function, plainly in cases:
        got, wanted = (jax.device_get(jax.jit(each)(*on_host)) for each in (function, plainly))
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-13)


@pytest.mark.parametrize("reset_after", BOTH["reset_after"])
def test_a_state_that_no_step_starts_from_reaches_no_derivative(
    lib: Library, jax: Any, reset_after: bool
) -> None:
    """A row of length 0 passes it on; forward mode, and twice in reverse."""
    _, (params, x, h0) = problem(lib, ragged=True)
    spoilt = h0.at[:, 1].set(np.nan)
    lengths = lib.array([T, 0, 3], "int32")

    def last(h0: Any) -> Any:
        return gru(params, x, h0, lengths=lengths, reset_after=reset_after)[1]

    _, tangent = jax.jvp(last, (spoilt,), (lib.array(np.ones(h0.shape), "float64"),))
    np.testing.assert_array_equal(lib.numpy(tangent)[:, 1], 1)
    assert np.isfinite(lib.numpy(tangent)).all()

    def outputs(params: Any, h0: Any) -> Any:
        return (gru(params, x, h0, lengths=lengths, reset_after=reset_after)[0] ** 2).sum()

    def of_gradient(params: Any, h0: Any) -> Any:
        found = jax.grad(outputs)(params, h0)
        return sum((each**2).sum() for each in jax.tree.leaves(found))

    for one, other in zip(
        *(jax.tree.leaves(jax.grad(of_gradient)(params, each)) for each in (spoilt, h0)),
        strict=True,
    ):
        np.testing.assert_array_equal(lib.numpy(one), lib.numpy(other))
