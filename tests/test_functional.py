"""The pure form: through time and back, and through other libraries' transformations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest

import gru_xp
from gru_xp.arrays import transfer
from gru_xp.checking import reference
from gru_xp.core.parameters import shapes
from gru_xp.functional import (
    GRUParams,
    gru,
    gru_backward,
    gru_cell,
    gru_cell_backward,
    gru_gates,
)
from tests.library import Library
from tests.test_cell_values import H, I, N, draw

T = 5


def make_params(lib: Library, dtype: str = "float64", *, bias: bool = True) -> GRUParams:
    drawn = {
        name: lib.array(draw(*shape, seed=seed) / 2, dtype)
        for seed, (name, shape) in enumerate(shapes(I, H, bias=bias).items())
    }
    return GRUParams(**drawn)


def inputs(lib: Library) -> tuple[Any, Any, Any]:
    return tuple(lib.array(draw(N, k, seed=10 + k)) for k in (I, H, H))  # type: ignore[return-value]


def of_form(reset_after: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A step and its way back, with the reset gate after or before the product."""
    step = partial(gru_cell, reset_after=reset_after)
    return step, partial(gru_cell_backward, reset_after=reset_after)


def host(params: GRUParams) -> dict[str, np.ndarray[Any, Any]]:
    return {name: transfer.to_numpy(array) for name, array in params.named().items()}


@pytest.mark.parametrize("reset_after", [True, False])
def test_a_cell_steps_through_time_and_back(lib: Library, reset_after: bool) -> None:
    params, form = make_params(lib), {"reset_after": reset_after}
    xs, h0, dhs = draw(T, N, I, seed=0), draw(N, H, seed=1), draw(T, N, H, seed=2)

    h, tapes, states = lib.array(h0), [], []
    for t in range(T):
        h, tape = gru_cell(params, lib.array(xs[t]), h, **form)
        assert tape is not None
        assert (tape.gh_n is not None) == reset_after
        tapes.append(tape)
        states.append(h)
    dh = lib.array(np.zeros((N, H)))
    totals: dict[str, Any] = {name: 0.0 for name in params._fields}
    dxs = [None] * T
    for t in reversed(range(T)):
        delta = lib.array(dhs[t]) + dh
        dparams, dxs[t], dh = gru_cell_backward(params, tapes[t], delta, **form)
        totals = {name: totals[name] + array for name, array in dparams.named().items()}

    weights = host(params)
    for t, state in enumerate(reference.states(weights, xs, h0, **form)):
        lib.assert_close(states[t], state, atol=1e-13)
    wanted = reference.gradients(weights, xs, h0, dhs, **form)
    for t in range(T):
        lib.assert_close(dxs[t], wanted["x"][t], atol=1e-13)
    lib.assert_close(dh, wanted["h0"], atol=1e-13)
    for name in weights:
        lib.assert_close(totals[name], wanted[name], atol=1e-12)


@pytest.mark.parametrize("reset_after", [True, False])
def test_without_a_tape_the_state_is_the_same(lib: Library, reset_after: bool) -> None:
    params, (x, h, _) = make_params(lib), inputs(lib)
    h_t, tape = gru_cell(params, x, h, reset_after=reset_after, keep_tape=False)
    assert tape is None
    wanted, _ = gru_cell(params, x, h, reset_after=reset_after)
    lib.assert_close(h_t, lib.numpy(wanted), atol=0)


@pytest.mark.parametrize("reset_after", [True, False])
def test_a_tape_of_the_other_form_is_refused(lib: Library, reset_after: bool) -> None:
    params, (x, h, delta) = make_params(lib), inputs(lib)
    _, tape = gru_cell(params, x, h, reset_after=reset_after)
    assert tape is not None
    with pytest.raises(ValueError, match=f"expected reset_after={reset_after}, .* got"):
        gru_cell_backward(params, tape, delta, reset_after=not reset_after)


@pytest.mark.parametrize(
    ("field", "shape", "message"),
    [
        ("weight_ih", (3 * H + 1, I), "weight_ih must have shape"),
        ("weight_hh", (3 * H, H, 1), "weight_hh must be 2-D"),
        ("bias_hh", (H,), "bias_hh must have shape"),
        ("bias_ih", None, "both bias_ih and bias_hh or neither, got only bias_hh"),
    ],
)
def test_weights_that_do_not_fit_each_other_are_refused(
    lib: Library, field: str, shape: tuple[int, ...] | None, message: str
) -> None:
    wrong = None if shape is None else lib.array(np.zeros(shape))
    params = make_params(lib)._replace(**{field: wrong})
    x, h, delta = inputs(lib)
    with pytest.raises(ValueError, match=message):
        gru_cell(params, x, h)
    _, tape = gru_cell(make_params(lib), x, h)
    with pytest.raises(ValueError, match=message):
        gru_cell_backward(params, tape, delta)


def test_weights_that_are_no_arrays_are_refused(lib: Library) -> None:
    x, h, _ = inputs(lib)
    with pytest.raises(TypeError, match="weight_hh must be an array, got list"):
        gru_cell(make_params(lib)._replace(weight_hh=[[0.0]]), x, h)


class TestJax:
    """jit, grad, vmap and jvp go through the pure functions."""

    @pytest.fixture
    def jax(self, lib: Library) -> Any:
        if lib.name != "jax":
            pytest.skip("about JAX's transformations")
        return pytest.importorskip("jax", reason="about JAX")

    @pytest.mark.feature("cell", under="jit")
    @pytest.mark.parametrize("reset_after", [True, False])
    def test_jit_gives_the_same_state_and_gradients(
        self, lib: Library, jax: Any, reset_after: bool
    ) -> None:
        params, (x, h, delta) = make_params(lib), inputs(lib)
        step, back = of_form(reset_after)
        plain, tape = step(params, x, h)
        jitted, jitted_tape = jax.jit(step)(params, x, h)
        lib.assert_close(jitted, lib.numpy(plain), atol=1e-15)
        wanted = jax.tree.leaves(back(params, tape, delta))
        got = jax.tree.leaves(jax.jit(back)(params, jitted_tape, delta))
        for one, other in zip(got, wanted, strict=True):
            lib.assert_close(one, lib.numpy(other), atol=1e-14)

    @pytest.mark.parametrize("reset_after", [True, False])
    @pytest.mark.parametrize("unbatched", [False, True])
    def test_grad_agrees_with_backward(
        self, lib: Library, jax: Any, unbatched: bool, reset_after: bool
    ) -> None:
        step, back = of_form(reset_after)
        params, (x, h, delta) = make_params(lib), inputs(lib)
        if unbatched:
            x, h, delta = x[0], h[0], delta[0]

        def loss(params: Any, x: Any, h: Any) -> Any:
            return (step(params, x, h)[0] * delta).sum()

        got = jax.tree.leaves(jax.grad(loss, argnums=(0, 1, 2))(params, x, h))
        wanted = jax.tree.leaves(back(params, step(params, x, h)[1], delta))
        for one, other in zip(got, wanted, strict=True):
            lib.assert_close(one, lib.numpy(other), atol=1e-14)

    def test_grad_of_a_jitted_loop_over_time(self, lib: Library, jax: Any) -> None:
        params = make_params(lib)
        xs, h0, dhs = draw(T, N, I, seed=0), draw(N, H, seed=1), draw(T, N, H, seed=2)

        def loss(params: Any) -> Any:
            h, total = lib.array(h0), 0.0
            for t in range(T):
                h, _ = gru_cell(params, lib.array(xs[t]), h)
                total = total + (h * lib.array(dhs[t])).sum()
            return total

        wanted = reference.gradients(host(params), xs, h0, dhs)
        for name, gradient in jax.jit(jax.grad(loss))(params).named().items():
            lib.assert_close(gradient, wanted[name], atol=1e-12)

    @pytest.mark.feature("vmap")
    @pytest.mark.parametrize("reset_after", [True, False])
    def test_vmap_gives_per_sample_gradients(
        self, lib: Library, jax: Any, reset_after: bool
    ) -> None:
        params, (x, h, delta) = make_params(lib), inputs(lib)
        step, back = of_form(reset_after)

        def gradients(x: Any, h: Any, delta: Any) -> Any:
            return back(params, step(params, x, h)[1], delta)[0]

        each = jax.vmap(gradients)(x, h, delta)
        total = gradients(x, h, delta)
        for one, other in zip(each, total, strict=True):
            assert one.shape == (N, *other.shape)
            lib.assert_close(one.sum(axis=0), lib.numpy(other), atol=1e-14)

    @pytest.mark.feature("higher")
    def test_jvp_agrees_with_the_vjp(self, lib: Library, jax: Any) -> None:
        params, (x, h, delta) = make_params(lib), inputs(lib)
        tangent = lib.array(draw(N, I, seed=30))
        _, out = jax.jvp(lambda x: gru_cell(params, x, h)[0], (x,), (tangent,))
        _, dx, _ = gru_cell_backward(params, gru_cell(params, x, h)[1], delta)
        forward_product = float(lib.numpy((out * delta).sum()))
        assert forward_product == pytest.approx(float(lib.numpy((dx * tangent).sum())), abs=1e-12)


class TestTorch:
    """autograd and torch.compile go through the pure functions."""

    @pytest.fixture
    def torch(self, lib: Library) -> Any:
        if lib.name != "torch":
            pytest.skip("about torch's transformations")
        return pytest.importorskip("torch", reason="about torch")

    @pytest.mark.parametrize("reset_after", [True, False])
    def test_autograd_agrees_with_backward(
        self, lib: Library, torch: Any, reset_after: bool
    ) -> None:
        step, back = of_form(reset_after)
        params, (x, h, delta) = make_params(lib), inputs(lib)
        leaves = [*params, x, h]
        for leaf in leaves:
            leaf.requires_grad_()
        h_t, tape = step(params, x, h)
        h_t.backward(delta)
        dparams, dx, dh = back(params, tape, delta)
        for leaf, gradient in zip(leaves, [*dparams, dx, dh], strict=True):
            lib.assert_close(leaf.grad, lib.numpy(gradient), atol=1e-14)

    @pytest.mark.parametrize("reset_after", [True, False])
    def test_gradients_of_gradients_pass_gradgradcheck(
        self, lib: Library, torch: Any, reset_after: bool
    ) -> None:
        params, (x, h, _) = make_params(lib), inputs(lib)
        step, _ = of_form(reset_after)
        leaves = tuple(leaf.requires_grad_() for leaf in (*params, x, h))
        assert torch.autograd.gradgradcheck(lambda *v: step(GRUParams(*v[:4]), *v[4:])[0], leaves)

    @pytest.mark.feature("cell", under="compile")
    @pytest.mark.parametrize("reset_after", [True, False])
    def test_compile_traces_through_in_one_graph(
        self, lib: Library, torch: Any, reset_after: bool
    ) -> None:
        params, (x, h, _) = make_params(lib), inputs(lib)
        step, _ = of_form(reset_after)
        compiled = torch.compile(
            lambda x, h: step(params, x, h)[0], backend="aot_eager", fullgraph=True
        )
        lib.assert_close(compiled(x, h), lib.numpy(step(params, x, h)[0]), atol=1e-14)


class TestLayers:
    """The pure form of whole sequences."""

    options: ClassVar[dict[str, Any]] = {"bidirectional": True}

    def make(self, lib: Library) -> tuple[Any, Any, Any, Any]:
        layer = gru_xp.GRU(
            I, H, 2, bidirectional=True, backend=lib.name, device=lib.device, dtype="float64", rng=0
        )
        x, h0 = lib.array(draw(T, N, I, seed=0)), lib.array(draw(4, N, H, seed=1))
        return layer, layer.params, x, h0

    def make_for_autograd(self, lib: Library, direction: str) -> tuple[Any, ...]:
        where = {"backend": lib.name, "device": lib.device, "dtype": "float64"}
        params = gru_xp.GRU(I, H, 2, rng=0, **{direction: True}, **where).params
        shapes = ((T, N, I), (len(params), N, H), (T, N, H * len(params) // 2), (len(params), N, H))
        return params, *(lib.array(draw(*shape, seed=k)) for k, shape in enumerate(shapes))

    @pytest.mark.feature("layers", "lengths", "gates")
    def test_it_gives_what_the_layer_gives(self, lib: Library) -> None:
        layer, params, x, h0 = self.make(lib)
        dy, dh_n = lib.array(draw(T, N, 2 * H, seed=2)), lib.array(draw(4, N, H, seed=3))
        want = (*layer(x, h0, lengths=[5, 0, 2]), *layer.backward(dy, dh_n))
        y, h_n, tape = gru(params, x, h0, lengths=[5, 0, 2], **self.options)
        dparams, dx, dh0 = gru_backward(params, tape, dy, dh_n, **self.options)
        for one, other in zip((y, h_n, dx, dh0), want, strict=True):
            lib.assert_close(one, lib.numpy(other), atol=0)
        packed = [array for each in dparams for array in each]
        for one, other in zip(packed, layer.gradients().values(), strict=True):
            lib.assert_close(one, lib.numpy(other), atol=0)
        _, _, gates = layer(x, h0, lengths=[5, 0, 2], return_gates=True)
        for one, other in zip(gru_gates(tape), gates, strict=True):
            lib.assert_close(one, lib.numpy(other), atol=0)

    @pytest.mark.parametrize("reset_after", [True, False])
    def test_reverse_gives_what_the_layer_gives(self, lib: Library, reset_after: bool) -> None:
        options = {"batch_first": True, "reverse": True, "reset_after": reset_after}
        where = {"backend": lib.name, "device": lib.device, "dtype": "float64"}
        layer: Any = gru_xp.GRU(I, H, 2, rng=0, **options, **where)
        x, dy = lib.array(draw(N, T, I, seed=0)), lib.array(draw(N, T, H, seed=2))
        h0, dh_n = lib.array(draw(2, N, H, seed=1)), lib.array(draw(2, N, H, seed=3))
        want = (*layer(x, h0, lengths=[5, 0, 2]), *layer.backward(dy, dh_n))
        y, h_n, tape = gru(layer.params, x, h0, lengths=[5, 0, 2], **options)
        dparams, dx, dh0 = gru_backward(layer.params, tape, dy, dh_n, **options)
        for one, other in zip((y, h_n, dx, dh0), want, strict=True):
            lib.assert_close(one, lib.numpy(other), atol=0)
        packed = [array for each in dparams for array in each]
        for one, other in zip(packed, layer.gradients().values(), strict=True):
            lib.assert_close(one, lib.numpy(other), atol=0)

    def test_reverse_besides_bidirectional_is_refused(self, lib: Library) -> None:
        _, params, x, h0 = self.make(lib)
        y, _, tape = gru(params, x, h0, **self.options)
        with pytest.raises(
            ValueError, match="bidirectional=True and reverse=True cannot be combined"
        ):
            gru(params, x, h0, reverse=True, **self.options)
        with pytest.raises(
            ValueError, match="bidirectional=True and reverse=True cannot be combined"
        ):
            gru_backward(params, tape, y, reverse=True, **self.options)

    @pytest.mark.parametrize("reset_after", [True, False])
    def test_a_tape_of_the_other_form_is_refused(self, lib: Library, reset_after: bool) -> None:
        _, params, x, h0 = self.make(lib)
        y, _, tape = gru(params, x, h0, reset_after=reset_after, **self.options)
        with pytest.raises(ValueError, match=f"expected reset_after={reset_after}, .* got"):
            gru_backward(params, tape, y, reset_after=not reset_after, **self.options)

    def test_several_calls_can_be_in_flight(self, lib: Library) -> None:
        _, params, x, h0 = self.make(lib)
        dy = lib.array(draw(T, N, 2 * H, seed=2))
        _, _, first = gru(params, x, h0, **self.options)
        alone = [lib.numpy(g) for g in gru_backward(params, first, dy, **self.options)[0][0]]
        _, _, first = gru(params, x, h0, **self.options)
        gru(params, x * 2, h0, **self.options)
        after = gru_backward(params, first, dy, **self.options)[0][0]
        for one, other in zip(after, alone, strict=True):
            lib.assert_close(one, other, atol=0)

    def test_masks_are_arguments(self, lib: Library) -> None:
        _, params, x, h0 = self.make(lib)
        ones, zeros = (lib.array(np.full((T, N, 2 * H), v)) for v in (1.0, 0.0))
        y, _, _ = gru(params, x, h0, **self.options)
        same, _, _ = gru(params, x, h0, masks=[ones], **self.options)
        lib.assert_close(same, lib.numpy(y), atol=0)
        _, _, tape = gru(params, x, h0, masks=[zeros], **self.options)
        _, dx, _ = gru_backward(params, tape, y, **self.options)
        assert not lib.numpy(dx).any()
        with pytest.raises(ValueError, match=r"expected 1 dropout masks, .* got 2"):
            gru(params, x, h0, masks=[ones, ones], **self.options)
        with pytest.raises(ValueError, match=r"masks\[0\] of shape \(5, 3, 8\), got \(5, 3, 4\)"):
            gru(params, x, h0, masks=[ones[..., :H]], **self.options)

    def test_a_tape_of_other_weights_or_directions_is_refused(self, lib: Library) -> None:
        _, _, x, h0 = self.make(lib)
        square = [GRUParams(*(lib.array(np.zeros((3 * H, H))) for _ in range(2)))] * 2
        y, _, tape = gru(square, h0, bidirectional=True)
        assert tape is not None
        with pytest.raises(
            ValueError, match="gru_backward: expected bidirectional=True, as in the forward"
        ):
            gru_backward(square, tape, y)
        for options in ({"batch_first": True}, {"reverse": True}, {"reset_after": False}):
            h, _, tape = gru([make_params(lib)], x, **options)
            assert tape is not None
            (word,) = (f"{name}={value}" for name, value in options.items())
            with pytest.raises(ValueError, match=f"gru_backward: expected {word}, as in the forw"):
                gru_backward([make_params(lib)], tape, h)
            gru_backward([make_params(lib)], tape, h, **options)
        row = x[:, 0, :]
        h, _, tape = gru([make_params(lib)], row, batch_first=True)  # where it has no meaning
        assert tape is not None
        assert gru_gates(tape).r.shape == (1, T, H)
        gru_backward([make_params(lib)], tape, h)
        h, _, tape = gru([make_params(lib)], x)
        assert tape is not None
        with pytest.raises(ValueError, match="gru_gates: expected batch_first=False, as in the"):
            gru_gates(tape, batch_first=True)
        state, of_cell = gru_cell(make_params(lib), x[0, ...], h0[0, ...])
        assert of_cell is not None
        for sizes in ((I + 1, H), (I, H + 1)):
            other = GRUParams(*(lib.array(np.zeros(shape)) for shape in shapes(*sizes).values()))
            words = (
                rf"input size {I} and hidden size {H}, got weights with {sizes[0]} and {sizes[1]}"
            )
            with pytest.raises(ValueError, match=f"gru_backward: expected the weights .* {words}"):
                gru_backward([other], tape, h)
            with pytest.raises(ValueError, match=f"gru_cell_backward: .* {words}"):
                gru_cell_backward(other, of_cell, state)

    @pytest.mark.parametrize("options", [{}, {"reverse": True}], ids=str)
    def test_a_tape_passes_through_transformations_with_its_options(
        self, lib: Library, options: dict[str, bool]
    ) -> None:
        """From one function that jax.jit or torch.func.vmap transforms into another."""
        if lib.name not in ("jax", "torch"):
            pytest.skip("about the transformations of JAX and torch")
        params, lengths = [make_params(lib)], lib.array([T, 0, 2], "int64")
        x, h0, dy = (
            lib.array(draw(*shape, seed=k))
            for k, shape in enumerate(((T, N, I), (1, N, H), (T, N, H)))
        )
        run = partial(gru, lengths=lengths, **options)
        back = lambda tape, dy: gru_backward(params, tape, dy, **options)[1]  # noqa: E731
        _, _, tape = run(params, x, h0)
        want = lib.numpy(back(tape, dy))
        if lib.name == "jax":
            jax: Any = pytest.importorskip("jax", reason="about JAX")
            _, _, tape = jax.jit(run)(params, x, h0)
            lib.assert_close(jax.jit(back)(tape, dy), want, atol=1e-13)
        else:
            torch: Any = pytest.importorskip("torch", reason="about torch")
            _, _, tape = torch.func.vmap(partial(run, params))(x[None], h0[None])
            lib.assert_close(torch.func.vmap(back)(tape, dy[None])[0], want, atol=1e-13)

    def test_layers_that_do_not_fit_each_other_are_refused(self, lib: Library) -> None:
        _, params, x, _ = self.make(lib)
        with pytest.raises(
            ValueError,
            match=r"expected two GRUParams per layer and at least one layer, got 3 GRUParams",
        ):
            gru(params[:3], x, **self.options)
        with pytest.raises(ValueError, match="at least one layer, got 0"):
            gru([], x)
        with pytest.raises(
            ValueError, match=r"expected params\[1\] to have input size 4 and hidden"
        ):
            gru(params[:2], x)
        broken = params[2]._replace(weight_hh=params[2].weight_hh[:-1, ...])
        with pytest.raises(ValueError, match=r"gru: params\[2\]: weight_hh must have shape"):
            gru([*params[:2], broken, params[3]], x, **self.options)

    @pytest.mark.feature("layers", "lengths", "dropout", "autograd", under="jit")
    @pytest.mark.parametrize("reset_after", [True, False])
    @pytest.mark.parametrize("direction", ["bidirectional", "reverse"])
    def test_jit_and_grad_go_through_it(
        self, lib: Library, direction: str, reset_after: bool
    ) -> None:
        if lib.name != "jax":
            pytest.skip("about JAX's transformations")
        jax = pytest.importorskip("jax", reason="about JAX")
        params, x, h0, dy, dh_n = self.make_for_autograd(lib, direction)
        x = x.at[3:, 1].set(float("nan"))
        mask = lib.array(np.random.default_rng(0).integers(0, 2, dy.shape) * 2.0)
        options = {direction: True, "reset_after": reset_after}

        @jax.jit
        def loss(params: Any, x: Any, h0: Any, lengths: Any) -> Any:
            y, h_n, _ = gru(params, x, h0, lengths=lengths, masks=[mask], **options)
            return (y * dy).sum() + (h_n * dh_n).sum()

        @jax.jit
        def both(params: Any, x: Any, h0: Any, lengths: Any) -> Any:
            _, _, tape = gru(params, x, h0, lengths=lengths, masks=[mask], **options)
            return gru_backward(params, tape, dy, dh_n, **options)

        lengths = lib.array([5, 3, 2], "int32")
        got = jax.grad(loss, argnums=(0, 1, 2))(params, x, h0, lengths)
        wanted = both(params, x, h0, lengths)
        assert np.isfinite(lib.numpy(wanted[1])).all()
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            lib.assert_close(one, lib.numpy(other), atol=1e-12)

    @pytest.mark.feature("autograd")
    @pytest.mark.parametrize("reset_after", [True, False])
    @pytest.mark.parametrize("direction", ["bidirectional", "reverse"])
    def test_torch_autograd_goes_through_it(
        self, lib: Library, direction: str, reset_after: bool
    ) -> None:
        if lib.name != "torch":
            pytest.skip("about torch's autograd")
        params, x, h0, dy, dh_n = self.make_for_autograd(lib, direction)
        x[3:, 1] = float("nan")
        leaves = [array for each in params for array in each] + [x, h0]
        for leaf in leaves:
            leaf.requires_grad_()
        options = {direction: True, "reset_after": reset_after}
        y, h_n, tape = gru(params, x, h0, lengths=[5, 3, 2], **options)
        ((y * dy).sum() + (h_n * dh_n).sum()).backward()
        dparams, dx, dh0 = gru_backward(params, tape, dy, dh_n, **options)
        wanted = [array for each in dparams for array in each] + [dx, dh0]
        for leaf, gradient in zip(leaves, wanted, strict=True):
            lib.assert_close(leaf.grad, lib.numpy(gradient.detach()), atol=1e-12)


def test_weights_of_no_floating_dtype_or_on_two_devices_are_refused(lib: Library) -> None:
    params, (x, h, _) = make_params(lib), inputs(lib)
    whole = params._replace(weight_hh=lib.xp.astype(params.weight_hh, lib.xp.int32))
    with pytest.raises(TypeError, match="weight_hh must have a floating dtype, got"):
        gru_cell(whole, x, h)
    with pytest.raises(TypeError, match="expected a GRUParams, got tuple"):
        gru_cell(tuple(params), x, h)  # type: ignore[arg-type]
    if lib.other_device != lib.device:
        moved = params._replace(bias_hh=lib.moved(params.bias_hh))
        with pytest.raises(
            ValueError, match=r"expected all weights on one device, got weight_ih on .* bias_hh on"
        ):
            gru_cell(moved, x, h)


@pytest.mark.feature("devices")
def test_arrays_spread_over_several_devices_go_through(lib: Library) -> None:
    if lib.name != "jax":
        pytest.skip("about JAX's shardings")
    jax = pytest.importorskip("jax", reason="about JAX")
    if len(jax.devices()) < 2:
        pytest.skip("JAX has one device here")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("batch",))
    rows, everywhere = (
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        for axes in (("batch",), ())
    )
    params = make_params(lib)
    x = lib.array(draw(4, I, seed=0))
    wanted = transfer.to_numpy(gru_cell(params, x)[0])
    spread = gru_cell(jax.device_put(params, everywhere), jax.device_put(x, rows))[0]
    assert len(spread.sharding.device_set) == 2
    np.testing.assert_allclose(transfer.to_numpy(spread), wanted, rtol=0, atol=1e-14)


@pytest.mark.feature("devices")
@pytest.mark.parametrize("ragged", [False, True])
def test_input_spread_over_several_devices_goes_through(lib: Library, ragged: bool) -> None:
    if lib.name != "jax":
        pytest.skip("about JAX's shardings")
    jax = pytest.importorskip("jax", reason="about JAX")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("batch",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "batch"))
    layer = gru_xp.GRU(I, H, 2, backend="jax", dtype="float64", rng=0)  # weights on one device
    x = np.random.default_rng(0).normal(size=(3, 4, I))
    options = {"lengths": [3, 1, 2, 0]} if ragged else {}
    results = []
    for given in (jax.numpy.asarray(x), jax.device_put(x, rows)):
        y, h_n = layer(given, **options)
        dx, dh0 = layer.backward(y, h_n)
        results.append([transfer.to_numpy(each) for each in (y, h_n, dx, dh0)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-13)


def test_a_closure_over_weights_takes_input_of_another_device_under_grad(lib: Library) -> None:
    if lib.name != "jax":
        pytest.skip("about jax.grad")
    jax = pytest.importorskip("jax", reason="about JAX")
    layer = gru_xp.GRU(I, H, backend="jax", dtype="float64", rng=0)
    x = jax.device_put(jax.numpy.ones((3, 2, I)), jax.devices()[1])
    gradient = jax.grad(lambda x: gru_xp.functional.gru(layer.params, x)[0].sum())(x)
    assert gradient.shape == x.shape
