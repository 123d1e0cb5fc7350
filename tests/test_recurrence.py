"""The waist: the loop over time, portable and accelerated, against oracles and each other."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_xp.checking import reference
from gru_xp.core import portable, recurrence, sequence
from gru_xp.core.loop import PLAIN, Loop
from gru_xp.functional import GRUParams
from tests.library import Library
from tests.test_cell_values import H, I, N, draw
from tests.test_functional import host, make_params

T = 4
LENGTHS = {"none": None, "ragged": [4, 0, 2], "all": [4, 4, 4], "short": [1, 2, 1]}


def run(
    lib: Library,
    params: GRUParams,
    arrays: tuple[Any, Any, Any, Any],
    *,
    lengths: list[int] | None,
    reverse: bool,
) -> dict[str, Any]:
    """States and all gradients of one direction."""
    x, h0, dh, dh_last = (lib.array(each) for each in arrays)
    loop = Loop(lengths=None if lengths is None else lib.array(lengths, "int64"), reverse=reverse)
    h, tape = sequence.forward(params, x, h0, loop, keep_tape=True, place=lib.place())
    dparams, dx, dh0 = sequence.backward(params, x, tape, dh, dh_last, loop, place=lib.place())
    return {"h": h, "x": dx, "h0": dh0, **dparams.named()}


def arrays(steps: int = T) -> tuple[Any, Any, Any, Any]:
    return (
        draw(steps, N, I, seed=0),
        draw(N, H, seed=1),
        draw(steps, N, H, seed=2),
        draw(N, H, seed=3),
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ragged", LENGTHS)
def test_states_and_gradients_equal_the_scalar_reference(
    lib: Library, ragged: str, reverse: bool, bias: bool
) -> None:
    params, lengths = make_params(lib, bias=bias), LENGTHS[ragged]
    got = run(lib, params, arrays(), lengths=lengths, reverse=reverse)

    x, h0, dh, dh_last = arrays()
    options: dict[str, Any] = {"lengths": lengths, "reverse": reverse}
    lib.assert_close(got.pop("h"), reference.states(host(params), x, h0, **options), atol=1e-13)
    wanted = reference.gradients(host(params), x, h0, dh, dh_last, **options)
    assert set(got) == set(wanted)
    for name, gradient in wanted.items():
        lib.assert_close(got[name], gradient, atol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_recurrence_alone_is_the_adjoint_of_itself(lib: Library, reverse: bool) -> None:
    """Finite differences in gx, which no input projection hides."""
    gx, h0, dh = draw(T, N, 3 * H, seed=0), draw(N, H, seed=1), draw(T, N, H, seed=2)
    params = make_params(lib)
    b_hn = params.bias_hh[2 * H :]  # type: ignore[index]
    loop, place = Loop(reverse=reverse), lib.place()

    def states(gx: Any) -> Any:
        arrays = (lib.array(gx), lib.array(h0), params.weight_hh, b_hn)
        return recurrence.forward(*arrays, loop, keep_tape=True, place=place)

    dgx, dgh_n, _ = recurrence.backward(
        lib.array(dh), None, states(gx)[1], params.weight_hh, loop, place=place
    )
    direction, step = draw(*gx.shape, seed=7), 1e-6
    up, down = (lib.numpy(states(gx + sign * step * direction)[0]) for sign in (1, -1))
    slope = np.sum(dh * (up - down)) / (2 * step)
    assert np.sum(lib.numpy(dgx) * direction) == pytest.approx(slope, abs=1e-7)
    r = lib.numpy(states(gx)[1].r)
    lib.assert_close(dgh_n, lib.numpy(dgx)[..., 2 * H :] * r, atol=1e-14)


@pytest.mark.parametrize("reverse", [False, True])
def test_what_padding_holds_never_matters(lib: Library, reverse: bool) -> None:
    params, lengths = make_params(lib), [4, 0, 2]
    padding = np.arange(T)[:, None] >= np.array(lengths)
    gx = draw(T, N, 3 * H, seed=0)
    poisoned = np.where(padding[..., None], np.nan, gx)
    results = []
    for each in (gx, poisoned):
        loop = Loop(lengths=lib.array(lengths, "int64"), reverse=reverse)
        arrays = (lib.array(each), lib.array(draw(N, H, seed=1)), params.weight_hh, None)
        h, tape = recurrence.forward(*arrays, loop, keep_tape=True, place=lib.place())
        assert tape is not None
        back = recurrence.backward(
            lib.array(draw(T, N, H, seed=2)),
            None,
            tape,
            params.weight_hh,
            loop,
            place=lib.place(),
        )
        results.append([lib.numpy(array) for array in (h, *back)])
        assert all(np.isfinite(lib.numpy(array)).all() for array in tape)
    for clean, dirty in zip(*results, strict=True):
        np.testing.assert_array_equal(clean, dirty)
    _, dgx, dgh_n, _ = results[1]
    assert not dgx[padding].any()
    assert not dgh_n[padding].any()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("steps", "rows"), [(0, N), (T, 0), (1, N), (0, 0)])
def test_empty_and_single_sequences(lib: Library, steps: int, rows: int, reverse: bool) -> None:
    params = make_params(lib)
    x, h0 = draw(steps, rows, I, seed=0), draw(rows, H, seed=1)
    dh, dh_last = draw(steps, rows, H, seed=2), draw(rows, H, seed=3)
    got = run(lib, params, (x, h0, dh, dh_last), lengths=None, reverse=reverse)
    assert got["h"].shape == (steps, rows, H)
    assert got["x"].shape == (steps, rows, I)
    if steps == 0:
        lib.assert_close(got["h0"], dh_last, atol=0)
        assert not lib.numpy(got["weight_hh"]).any()
    elif rows:
        wanted = reference.gradients(host(params), x, h0, dh, dh_last, reverse=reverse)
        lib.assert_close(got["h0"], wanted["h0"], atol=1e-13)


def test_without_a_tape_the_states_are_the_same(lib: Library) -> None:
    params = make_params(lib)
    x, h0 = lib.array(draw(T, N, I, seed=0)), lib.array(draw(N, H, seed=1))
    place = lib.place()
    kept, tape = sequence.forward(params, x, h0, PLAIN, keep_tape=True, place=place)
    bare, none = sequence.forward(params, x, h0, PLAIN, keep_tape=False, place=place)
    assert tape is not None
    assert none is None
    lib.assert_close(bare, lib.numpy(kept), atol=1e-15)


def test_without_dx_no_gradient_of_the_input_is_made(lib: Library) -> None:
    params = make_params(lib)
    x, h0, dh, _ = (lib.array(each) for each in arrays())
    place = lib.place()
    _, tape = sequence.forward(params, x, h0, PLAIN, keep_tape=True, place=place)
    _, dx, _ = sequence.backward(params, x, tape, dh, None, PLAIN, with_dx=False, place=place)
    assert dx is None


@pytest.mark.parametrize("reset_after", [True, False])
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_an_accelerator_equals_the_portable_pair_on_any_input(
    accelerated: Library, reset_after: bool, data: st.DataObject
) -> None:
    lib = accelerated
    steps = data.draw(st.integers(0, 6), "T")
    rows = data.draw(st.integers(0, 6), "N")
    size = data.draw(st.integers(1, 6), "H")
    reverse = data.draw(st.booleans(), "reverse")
    ragged = data.draw(st.booleans(), "ragged")
    bias = data.draw(st.booleans(), "bias")
    with_last = data.draw(st.booleans(), "dh_last")
    dtype = data.draw(st.sampled_from(["float32", "float64"]), "dtype")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), "seed"))

    def array(*shape: int) -> Any:
        return lib.array(rng.normal(size=shape), dtype)

    lengths = rng.integers(0, steps + 1, rows) if ragged else np.full(rows, steps)
    projections = rng.normal(size=(steps, rows, 3 * size))
    projections[np.arange(steps)[:, None] >= lengths] = np.nan
    gx, h0, weight_hh = lib.array(projections, dtype), array(rows, size), array(3 * size, size)
    b_hn = array(size) if bias and reset_after else None
    dh, dh_last = array(steps, rows, size), array(rows, size) if with_last else None
    loop = Loop(
        lengths=lib.array(lengths, "int64") if ragged else None,
        reverse=reverse,
        reset_after=reset_after,
    )
    arguments, place = (gx, h0, weight_hh, b_hn, loop), lib.place(dtype)

    h, tape = recurrence.forward(*arguments, keep_tape=True, place=place)
    bare, none = recurrence.forward(*arguments, keep_tape=False, place=place)
    assert none is None
    eps = float(np.finfo(dtype).eps)
    lib.assert_close(bare, lib.numpy(h), atol=64 * eps)
    got = (h, *recurrence.backward(dh, dh_last, tape, weight_hh, loop, place=place))
    portable_h, portable_tape = portable.forward(*arguments, keep_tape=True, place=place)
    # Each backward takes either's tape: a call may be declined on the way back alone.
    crossed = portable.backward(dh, dh_last, tape, weight_hh, loop, place=place)
    wanted = (
        portable_h,
        *portable.backward(dh, dh_last, portable_tape, weight_hh, loop, place=place),
    )
    for one, other, third in zip(got, wanted, (h, *crossed), strict=True):
        expected = lib.numpy(other)
        scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
        lib.assert_close(one, expected, atol=64 * eps * scale, dtype=dtype)
        lib.assert_close(third, expected, atol=64 * eps * scale, dtype=dtype)


def test_jax_compiles_ten_thousand_steps_in_seconds(lib: Library) -> None:
    if lib.name != "jax" or not lib.accelerated:
        pytest.skip("about JAX's accelerator; the portable loop would take minutes")
    jax = pytest.importorskip("jax", reason="about JAX")
    params = make_params(lib)
    x, h0 = lib.array(draw(10_000, 1, I, seed=0)), lib.array(draw(1, H, seed=1))

    def both(params: Any, x: Any, h0: Any) -> Any:
        h, tape = sequence.forward(params, x, h0, PLAIN, keep_tape=True, place=lib.place())
        return sequence.backward(params, x, tape, h, None, PLAIN, place=lib.place())

    start = time.perf_counter()
    compiled = jax.jit(both).lower(params, x, h0).compile()
    dparams, dx, _ = compiled(params, x, h0)
    seconds = time.perf_counter() - start
    assert np.isfinite(lib.numpy(dx)).all()
    assert np.isfinite(lib.numpy(dparams.weight_hh)).all()
    assert seconds < 30


def test_jax_grad_through_the_scan_equals_our_backward(lib: Library) -> None:
    if lib.name != "jax":
        pytest.skip("about jax.grad")
    jax = pytest.importorskip("jax", reason="about JAX")
    params = make_params(lib)
    x, h0, dh, _ = (lib.array(each) for each in arrays())
    loop, place = Loop(lengths=lib.array([4, 0, 2], "int64")), lib.place()

    @jax.jit
    def loss(params: Any, x: Any, h0: Any) -> Any:
        h, _ = sequence.forward(params, x, h0, loop, keep_tape=True, place=place)
        return (h * dh).sum()

    got = jax.grad(loss, argnums=(0, 1, 2))(params, x, h0)
    _, tape = sequence.forward(params, x, h0, loop, keep_tape=True, place=place)
    wanted = sequence.backward(params, x, tape, dh, None, loop, place=place)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        lib.assert_close(one, lib.numpy(other), atol=1e-13)


@pytest.mark.parametrize("reverse", [False, True])
def test_autograd_through_padding_of_nan_is_finite(lib: Library, reverse: bool) -> None:
    if lib.name != "torch":
        pytest.skip("about torch's autograd, for which 0 * NaN behind a mask is NaN")
    params = make_params(lib)
    x = draw(T, N, 3 * H, seed=0)
    x[np.arange(T)[:, None] >= np.array([4, 0, 2])] = np.nan
    gx = lib.array(x).requires_grad_()
    h, _ = recurrence.forward(
        gx,
        lib.array(draw(N, H, seed=1)),
        params.weight_hh.requires_grad_(),
        None,
        Loop(lengths=lib.array([4, 0, 2], "int64"), reverse=reverse),
        keep_tape=True,
        place=lib.place(),
    )
    h.sum().backward()
    assert np.isfinite(lib.numpy(gx.grad)).all()
    assert np.isfinite(lib.numpy(params.weight_hh.grad)).all()
