"""Torch's accelerator under torch's transformations: derivatives, batches of them, compilers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp.core.loop import Loop
from gru_xp.functional import GRUParams, gru, gru_backward, gru_gates
from tests.library import Library

pytestmark = [  # of what torch does itself
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

T, N, I, H = 5, 3, 3, 4  # noqa: E741
LAYERS, DIRECTIONS = 2, 2
FORMS = pytest.mark.parametrize("reset_after", [True, False])
RAGGED = pytest.mark.parametrize("lengths", [None, [5, 2, 0]], ids=["whole", "ragged"])


@pytest.fixture
def torch(lib: Library) -> Any:
    if lib.name != "torch":
        pytest.skip("about torch's transformations")
    return pytest.importorskip("torch", reason="about torch")


@pytest.fixture
def accelerator(lib: Library, torch: Any) -> Any:
    if not lib.accelerated:
        pytest.skip("about torch's accelerator, which is off")
    return pytest.importorskip(
        "gru_xp_torch", reason="torch's accelerator does not load here", exc_type=ImportError
    )


def draw(lib: Library, *shape: int, seed: int = 0, dtype: str = "float64") -> Any:
    return lib.array(np.random.default_rng(seed).standard_normal(shape) / 2, dtype)


def weights(lib: Library, *examples: int) -> list[Any]:
    """All packed weights, flat; with a leading axis of examples where one is named."""
    flat = []
    for k in range(LAYERS * DIRECTIONS):
        inputs = I if k < DIRECTIONS else DIRECTIONS * H
        for number, shape in enumerate(((3 * H, inputs), (3 * H, H), (3 * H,), (3 * H,))):
            flat.append(draw(lib, *examples, *shape, seed=10 * k + number))
    return flat


def packed(flat: Any) -> list[GRUParams]:
    return [GRUParams(*flat[start : start + 4]) for start in range(0, len(flat), 4)]


def loss(flat: Any, x: Any, h0: Any, *, lengths: Any = None, keep_tape: bool = False) -> Any:
    options = {"bidirectional": True, "keep_tape": keep_tape}
    y, h_n, _ = gru(packed(flat), x, h0, lengths=lengths, **options)
    return (y * y).sum() + h_n.sum()


def leaves_of(torch: Any, value: Any) -> list[Any]:
    return list(torch.utils._pytree.tree_leaves(value))


def assert_all_close(torch: Any, actual: Any, expected: Any) -> None:
    actual, expected = leaves_of(torch, actual), leaves_of(torch, expected)
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def by_autograd(torch: Any, flat: Any, x: Any, h0: Any, lengths: Any = None) -> Any:
    """Gradients of the loss by torch's autograd through the portable loop."""
    leaves = [each.clone().requires_grad_() for each in (*flat, x, h0)]
    with gru_xp.use_accelerators(False):
        gradients = torch.autograd.grad(loss(leaves[:-2], *leaves[-2:], lengths=lengths), leaves)
    return list(gradients[:-2]), *gradients[-2:]


def inputs(lib: Library, *examples: int) -> tuple[Any, Any]:
    number = LAYERS * DIRECTIONS
    return draw(lib, *examples, T, N, I, seed=1), draw(lib, *examples, number, N, H, seed=2)


@pytest.mark.feature("autograd")
@FORMS
@RAGGED
@pytest.mark.parametrize("through", ["states", "gates", "all of the tape", "the tape alone"])
def test_gradients_pass_gradcheck(
    lib: Library, torch: Any, reset_after: bool, lengths: Any, through: str
) -> None:
    def run(*leaves: Any) -> Any:
        y, h_n, tape = gru(
            packed(leaves[:-2]),
            *leaves[-2:],
            lengths=None if lengths is None else torch.tensor(lengths),
            bidirectional=True,
            reset_after=reset_after,
            keep_tape=through != "states",
        )
        if tape is None:
            return y, h_n
        gates = tuple(gru_gates(tape))
        if through == "gates":
            return y, h_n, *gates
        rest = [array for each in tape.tapes for array in each if array is not None]
        if lengths is not None:  # in padding the gates of the tape mean nothing
            rest = [each.h_prev for each in tape.tapes]
        return (*gates, *rest) if through == "the tape alone" else (y, h_n, *gates, *rest)

    leaves = [each.requires_grad_() for each in (*weights(lib), *inputs(lib))]
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


@FORMS
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("through_gates", [False, True])
def test_an_initial_state_that_meets_no_step_is_in_no_gradient_of_weights(
    lib: Library,
    torch: Any,
    accelerator: Any,
    reset_after: bool,
    reverse: bool,
    through_gates: bool,
) -> None:
    """Not even where it is no number. (Autograd through the portable loop makes 0 * NaN of it.)"""
    flat, x = weights(lib)[:4], inputs(lib)[0]
    gradients = []
    for of_last_row in (0.0, np.nan):
        h0 = draw(lib, 1, N, H, seed=2)
        h0[:, -1] = of_last_row
        leaves = [each.clone().requires_grad_() for each in flat]
        y, _, tape = gru(
            packed(leaves),
            x,
            h0,
            lengths=torch.tensor([5, 2, 0]),
            reverse=reverse,
            reset_after=reset_after,
            keep_tape=through_gates,
        )
        total = y.square().sum()
        if through_gates:
            total = total + sum(each.square().sum() for each in gru_gates(tape))
        gradients.append(torch.autograd.grad(total, leaves))
    assert_all_close(torch, *gradients)


def test_func_grad_is_autograds(lib: Library, torch: Any) -> None:
    flat, (x, h0) = weights(lib), inputs(lib)
    wanted = by_autograd(torch, flat, x, h0)
    assert_all_close(torch, torch.func.grad(loss, argnums=(0, 1, 2))(flat, x, h0), wanted)


@pytest.mark.feature("vmap")
@pytest.mark.parametrize("batched", ["inputs", "states", "weights", "all"])
def test_vmap_of_grad_is_one_gradient_after_another(lib: Library, torch: Any, batched: str) -> None:
    count = 3
    of_weights = 0 if batched in ("weights", "all") else None
    of_x = 0 if batched in ("inputs", "all") else None
    of_h0 = 0 if batched in ("states", "all") else None
    flat = weights(lib, count) if of_weights == 0 else weights(lib)
    x = draw(lib, *([count] if of_x == 0 else []), T, N, I, seed=1)
    h0 = draw(lib, *([count] if of_h0 == 0 else []), LAYERS * DIRECTIONS, N, H, seed=2)
    of_each = torch.func.vmap(
        torch.func.grad(loss, argnums=(0, 1, 2)), in_dims=(of_weights, of_x, of_h0)
    )(flat, x, h0)
    for number in range(count):
        of_one = by_autograd(
            torch,
            flat if of_weights is None else [each[number] for each in flat],
            x if of_x is None else x[number],
            h0 if of_h0 is None else h0[number],
        )
        got = [each[number] for each in leaves_of(torch, of_each)]
        assert_all_close(torch, got, of_one)


def test_grad_of_vmap_is_the_sum_of_gradients(lib: Library, torch: Any) -> None:
    flat, (x, h0) = weights(lib), inputs(lib, 3)

    def total(flat: Any) -> Any:
        return torch.func.vmap(loss, in_dims=(None, 0, 0))(flat, x, h0).sum()

    each = [by_autograd(torch, flat, *pair)[0] for pair in zip(x, h0, strict=True)]
    assert_all_close(
        torch, torch.func.grad(total)(flat), [sum(of_one) for of_one in zip(*each, strict=True)]
    )


def test_vmap_takes_axes_and_lengths_of_each_example(lib: Library, torch: Any) -> None:
    flat, (x, h0) = weights(lib), inputs(lib, 2)
    lengths = torch.tensor([[5, 2, 0], [1, 5, 3]])

    def run(x: Any, h0: Any, lengths: Any) -> Any:
        return gru(packed(flat), x, h0, lengths=lengths, bidirectional=True, keep_tape=False)[:2]

    wanted = [run(*each) for each in zip(x, h0, lengths, strict=True)]
    wanted = [torch.stack(each) for each in zip(*wanted, strict=True)]
    with torch.no_grad():
        got = torch.func.vmap(run, in_dims=(2, 1, 0))(x.movedim(0, 2), h0.movedim(0, 1), lengths)
    assert_all_close(torch, got, wanted)


@pytest.mark.feature("layers", "lengths", "autograd", under="compile")
@RAGGED
@pytest.mark.parametrize("keep_tape", [True, False])
def test_the_compiler_takes_forward_and_backward_in_one_graph(
    lib: Library, torch: Any, keep_tape: bool, lengths: Any
) -> None:
    flat, (x, h0) = weights(lib), inputs(lib)
    lengths = None if lengths is None else torch.tensor(lengths)
    wanted = by_autograd(torch, flat, x, h0, lengths)
    leaves = [each.clone().requires_grad_() for each in (*flat, x, h0)]
    loss(flat, x, h0)  # which finds the accelerator

    def run(lengths: Any, *leaves: Any) -> Any:
        return loss(leaves[:-2], *leaves[-2:], lengths=lengths, keep_tape=keep_tape)

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    gradients = torch.autograd.grad(compiled(lengths, *leaves), leaves)
    assert_all_close(torch, gradients, wanted)


def test_an_exported_program_takes_any_number_of_steps(
    lib: Library, torch: Any, accelerator: Any
) -> None:
    class Model(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, flat: Any, x: Any) -> Any:
            return gru(packed(flat), x, bidirectional=True, keep_tape=False)[:2]

    flat, (x, _) = weights(lib), inputs(lib)
    steps = torch.export.Dim("steps", min=2)
    program = torch.export.export(
        Model(), (flat, x), dynamic_shapes=([None] * len(flat), {0: steps})
    )
    longer = draw(lib, 4 * T, N, I, seed=3)
    assert_all_close(torch, program.module()(flat, longer), Model()(flat, longer))


def test_the_operators_are_as_torch_wants_them(lib: Library, torch: Any, accelerator: Any) -> None:
    arguments = [
        draw(lib, *shape, dtype="float32") for shape in ((T, N, 3 * H), (N, H), (3 * H, H), (H,))
    ]
    for lengths in (None, torch.tensor([5, 0, 2])):
        for flags in ((False, True, True), (True, False, True), (False, True, False)):
            b_hn = arguments[3] if flags[1] else None
            call = (*arguments[:3], b_hn, lengths, *flags)
            torch.library.opcheck(torch.ops.gru_xp.forward.default, call)
            if flags[2]:
                states, *gates = torch.ops.gru_xp.forward(*call)
                tape = [states[1:] if flags[0] else states[:-1], *gates]
                back = (gates[0], arguments[1], tape, arguments[2], lengths, *flags[:2])
                torch.library.opcheck(torch.ops.gru_xp.backward.default, back)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_products_have_derivatives_of_any_order(
    lib: Library, torch: Any, accelerator: Any, turned: bool, with_bias: bool
) -> None:
    a, bias = draw(lib, 4, 3), draw(lib, 2, seed=1) if with_bias else None
    b = draw(lib, 2, 3, seed=2) if turned else draw(lib, 3, 2, seed=2)
    leaves = [each.requires_grad_() for each in (a, b, bias) if each is not None]

    def product(a: Any, b: Any, bias: Any = None) -> Any:
        return accelerator.matmul(a, b.T if turned else b, bias)

    assert torch.autograd.gradcheck(product, leaves)
    assert torch.autograd.gradgradcheck(product, leaves)
    product(*leaves).sum().backward()
    assert b.grad.is_contiguous()  # as the optimizer's sums over it want it


def second_derivative(torch: Any, run: Callable[[Any], Any], x: Any) -> Any:
    x = x.clone().requires_grad_()
    (dx,) = torch.autograd.grad(run(x), x, create_graph=True)
    return torch.autograd.grad(dx.square().sum(), x)


def test_second_derivatives_and_forward_mode_name_the_remedy(
    lib: Library, torch: Any, accelerator: Any
) -> None:
    flat, (x, h0) = weights(lib), inputs(lib)

    def run(x: Any) -> Any:
        return loss(flat, x, h0)

    def dual() -> Any:
        with torch.autograd.forward_ad.dual_level():
            return run(torch.autograd.forward_ad.make_dual(x, x))

    def dual_without_gradients() -> Any:
        with torch.no_grad():
            return dual()

    remedy = r"use_accelerators\(False\)"
    for call in (
        lambda: second_derivative(torch, run, x),
        lambda: torch.func.grad(lambda x: torch.func.grad(run)(x).sum())(x),
    ):
        with pytest.raises(RuntimeError, match=f"no second derivative.*{remedy}"):
            call()
        with gru_xp.use_accelerators(False):
            call()
    for call in (lambda: torch.func.jvp(run, (x,), (x,)), dual, dual_without_gradients):
        with pytest.raises(NotImplementedError, match=rf"no forward mode \(jvp\).*{remedy}"):
            call()
        with gru_xp.use_accelerators(False):
            call()


@pytest.mark.parametrize("keep_tape", [True, False])
@pytest.mark.parametrize("leaf", range(6))
def test_a_second_derivative_of_each_leaf_alone_is_refused(
    lib: Library, torch: Any, accelerator: Any, leaf: int, keep_tape: bool
) -> None:
    """Also where the loss is linear in the states, and so their gradient is constant."""
    leaves = [*weights(lib)[:4], inputs(lib)[0], draw(lib, 1, N, H)]
    leaves[leaf].requires_grad_()
    y, _, _ = gru(packed(leaves[:4]), *leaves[4:], keep_tape=keep_tape)
    (gradient,) = torch.autograd.grad(y.sum(), leaves[leaf], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(gradient.square().sum() + leaves[leaf].sum(), leaves[leaf])


def test_a_batch_of_gradients_names_the_remedy(lib: Library, torch: Any, accelerator: Any) -> None:
    flat, (x, h0) = weights(lib), inputs(lib)
    y, _, _ = gru(packed(flat), x.requires_grad_(), h0, bidirectional=True)
    dy = torch.stack([torch.ones_like(y)] * 2)
    with pytest.raises(RuntimeError, match=r"does not support batched gradients.*vmap"):
        torch.autograd.grad(y, x, dy, is_grads_batched=True)


def test_a_batch_of_gradients_goes_through_one_step(lib: Library, torch: Any) -> None:
    """Whose products are the engine's, but in the backward of a batch."""
    flat, (x, _) = weights(lib)[:4], inputs(lib)
    leaves = [each.requires_grad_() for each in (*flat, x)]
    y, _, _ = gru(packed(leaves[:4]), leaves[4][:1])
    dy = draw(lib, 2, *y.shape, seed=5)
    batched = torch.autograd.grad(y, leaves, dy, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(y, leaves, one, retain_graph=True) for one in dy]
    assert_all_close(torch, batched, [torch.stack(one) for one in zip(*each, strict=True)])


@pytest.mark.parametrize("keep_tape", [True, False])
def test_states_that_are_followed_may_be_written_to(
    lib: Library, torch: Any, keep_tape: bool
) -> None:
    flat, (x, _) = weights(lib)[:4], inputs(lib)
    gradients = []
    for in_place in (True, False):
        leaves = [each.clone().requires_grad_() for each in flat]
        y, _, _ = gru(packed(leaves), x, keep_tape=keep_tape)
        y = y.mul_(2) if in_place else y * 2
        gradients.append(torch.autograd.grad(y.square().sum(), leaves))
    assert_all_close(torch, *gradients)


def test_an_explicit_backward_has_a_derivative(lib: Library, torch: Any) -> None:
    """`gru_backward` is a function like others: where a derivative follows it, it has one."""
    flat, (x, h0) = weights(lib), inputs(lib)
    y, _, tape = gru(packed(flat), x, h0, bidirectional=True)

    def run(dy: Any) -> Any:
        return gru_backward(packed(flat), tape, dy, bidirectional=True)[1]

    assert torch.autograd.gradcheck(run, (y.clone().requires_grad_(),), fast_mode=True)


def test_no_engine_runs_for_what_is_not_its_own(
    lib: Library, torch: Any, accelerator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gru_xp_torch import cpu

    flat = [each.float() for each in weights(lib)]
    x = inputs(lib)[0].float()
    wanted, _, _ = gru(packed(flat), x, bidirectional=True)
    monkeypatch.setattr(cpu, "forward", None)
    narrow = [each.bfloat16() for each in flat]
    y, _, _ = gru(packed(narrow), x.bfloat16(), bidirectional=True)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), wanted, rtol=0, atol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # whose products are of another dtype
        y, _, _ = gru(packed(flat), x, bidirectional=True)
    torch.testing.assert_close(y.float(), wanted, rtol=0, atol=0.05)


def test_the_engine_shares_memory_and_torchs_number_of_threads(
    lib: Library, torch: Any, accelerator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gru_xp_torch import cpu

    calls: list[Any] = []
    before, ours = torch.get_num_threads(), gru_xp.get_num_threads()

    class Recording:
        def __getattr__(self, name: str) -> Any:
            def call(*arguments: Any) -> Any:
                calls.append((name, arguments))
                return getattr(native, name)(*arguments)

            return call

    native = cpu._native
    monkeypatch.setattr(cpu, "_native", Recording())
    params, (x, _) = packed(weights(lib))[:1], inputs(lib)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            calls.clear()
            _, _, tape = gru(params, x)
            gru_backward(params, tape, tape.tapes[0].r)
            layer = gru_xp.GRU(I, H, backend="torch", device=lib.device, dtype="float64").eval()
            layer(x)
            step = gru_xp.GRUCell(I, H, backend="torch", device=lib.device, dtype="float64").eval()
            step(x[0, ...])
            names = ("matmul", "forward", "backward", "sequence", "step")
            assert sorted({name for name, _ in calls}) == sorted(names)
            assert {arguments[-1] for _, arguments in calls} == {threads}
        (weight,) = (arguments[2] for name, arguments in calls if name == "forward")
        assert np.shares_memory(weight, params[0].weight_hh.numpy())
        assert gru_xp.get_num_threads() == ours
    finally:
        torch.set_num_threads(before)


@FORMS
def test_training_has_the_bits_of_evaluation_and_of_other_batches(
    lib: Library, torch: Any, accelerator: Any, reset_after: bool
) -> None:
    """As NumPy's: every sum has one order, whatever a call is for and how many rows it has."""
    flat = [each.float() for each in weights(lib)]
    x = torch.randn(7, 9, I, generator=torch.Generator().manual_seed(0))
    y, _, _ = gru(packed(flat), x, bidirectional=True, reset_after=reset_after)
    followed = [each.clone().requires_grad_() for each in flat]
    trained, _, _ = gru(packed(followed), x, bidirectional=True, reset_after=reset_after)
    assert torch.equal(y, trained)
    alone, _, _ = gru(packed(flat), x[:, 3:4], bidirectional=True, reset_after=reset_after)
    assert torch.equal(y[:, 3:4], alone)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("form", ["kernels", "declined"])
def test_the_way_to_cupys_kernels_and_back(
    lib: Library,
    torch: Any,
    accelerator: Any,
    machine: Any,
    monkeypatch: pytest.MonkeyPatch,
    reverse: bool,
    form: str,
) -> None:
    """With a stand-in for CuPy, whose kernels run on the CPU, and torch's CPU tensors."""
    from gru_xp_torch import cpu, cuda, operators

    streams: list[Any] = []

    @contextmanager
    def stream(device: Any) -> Iterator[Any]:
        streams.append(device)
        yield SimpleNamespace(from_dlpack=np.from_dlpack, concatenate=np.concatenate)

    kernels = cuda._kernels()
    monkeypatch.setattr(kernels.functions, "_is_trusted", lambda *_: True)
    monkeypatch.setattr(cuda, "_torchs_stream", stream)
    gx, h0, weight_hh, b_hn = (
        draw(lib, *shape, seed=seed, dtype="float32")
        for seed, shape in enumerate(((T, N, 3 * H), (N, H), (3 * H, H), (H,)))
    )
    dh, dh_last = (draw(lib, *shape, seed=7, dtype="float32") for shape in ((T, N, H), (N, H)))
    loop = Loop(lengths=torch.tensor([5, 0, 2]), reverse=reverse, reset_after=form == "kernels")
    b_hn = b_hn if loop.reset_after else None
    wanted = cpu.forward(gx, h0, weight_hh, b_hn, loop, keep_tape=True)
    tape = operators.whole_tape(wanted[0][1:] if reverse else wanted[0][:-1], *wanted[1:])
    back = cpu.backward(dh, dh_last, tape, weight_hh, loop)
    if form == "declined":  # CuPy's kernels have no such option
        monkeypatch.setattr(kernels, "forward", lambda *_, **__: NotImplemented)
        monkeypatch.setattr(kernels, "backward", lambda *_, **__: NotImplemented)
        assert cuda.forward(gx, h0, weight_hh, b_hn, loop, keep_tape=True) is NotImplemented
        assert cuda.backward(dh, dh_last, tape, weight_hh, loop) is NotImplemented
        return
    got = cuda.forward(gx, h0, weight_hh, b_hn, loop, keep_tape=True)
    valid = torch.arange(T)[:, None, None] < torch.tensor([5, 0, 2])[None, :, None]
    torch.testing.assert_close(got[0], wanted[0], rtol=0, atol=1e-6)
    for one, other in zip(got[1:], wanted[1:], strict=True):
        torch.testing.assert_close(one * valid, other * valid, rtol=0, atol=1e-6)
    got = cuda.backward(dh, dh_last, tape, weight_hh, loop)
    for one, other in zip(got, back, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert streams == [gx.device] * 2


@FORMS
def test_what_an_engine_declines_runs_portable(
    lib: Library,
    torch: Any,
    accelerator: Any,
    monkeypatch: pytest.MonkeyPatch,
    reset_after: bool,
) -> None:
    from gru_xp_torch import cpu

    leaves = [each.requires_grad_() for each in (*weights(lib), *inputs(lib))]

    def gradients() -> Any:
        y, h_n, tape = gru(
            packed(leaves[:-2]), *leaves[-2:], bidirectional=True, reset_after=reset_after
        )
        with torch.no_grad():
            dparams, dx, dh0 = gru_backward(
                packed(leaves[:-2]), tape, y, h_n, bidirectional=True, reset_after=reset_after
            )
        return [*torch.autograd.grad(y.square().sum() + h_n.sum(), leaves), dparams, dx, dh0]

    wanted = gradients()
    for name in ("forward", "backward"):
        monkeypatch.setattr(cpu, name, lambda *_, **__: NotImplemented)
    assert_all_close(torch, gradients(), wanted)
