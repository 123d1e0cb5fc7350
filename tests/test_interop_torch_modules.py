"""Torch modules in the place of torch.nn.GRU and GRUCell: torch itself is the oracle."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp.core import accelerators

torch = pytest.importorskip("torch", reason="torch is not installed")
tree_leaves = torch.utils._pytree.tree_leaves
interop = pytest.importorskip("gru_xp.interop.torch")

T, N, I, H = 6, 4, 3, 5  # noqa: E741
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]
OPTIONS = pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"num_layers": 2, "batch_first": True},
        {"num_layers": 3, "bidirectional": True},
        {"bidirectional": True, "batch_first": True, "bias": False},
    ],
    ids=str,
)


@pytest.fixture(autouse=True)
def on_torch(request: pytest.FixtureRequest) -> None:
    """Run where torch's accelerator may: these tests are about it."""
    if "torch" not in (request.config.getoption("--backend") or ["torch"]):
        pytest.skip("about torch's accelerator")
    if request.config.getoption("--path") == "portable":
        pytest.skip("about torch's accelerator, which is off")
    if accelerators.find("torch").module is None:
        pytest.skip(accelerators.find("torch").reason)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Record which functions of the C++ engine have run."""
    from gru_xp_torch import cpu

    recorded: list[str] = []

    def recording(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            if result is not NotImplemented:
                recorded.append(name)
            return result

        return call

    for name in ("forward", "backward", "step", "sequence"):
        monkeypatch.setattr(cpu, name, recording(name, getattr(cpu, name)))
    return recorded


def pair(*sizes: int, dtype: Any = None, **options: Any) -> tuple[Any, Any]:
    """Return ours and torch's, of the same weights."""
    torch.manual_seed(0)
    ours = interop.GRU(*(sizes or (I, H)), **options)
    torch.manual_seed(0)
    theirs = torch.nn.GRU(*(sizes or (I, H)), **options)
    return ours.to(dtype or torch.float64), theirs.to(dtype or torch.float64)


def draw(*shape: int, seed: int = 0, dtype: Any = None) -> Any:
    numbers = np.random.default_rng(seed).standard_normal(shape)
    return torch.from_numpy(numbers).to(dtype or torch.float64)


def results(module: Any, x: Any, hx: Any = None) -> list[Any]:
    """Return y, h_n and the gradients with respect to all that has one."""
    leaves = [x.data if hasattr(x, "batch_sizes") else x] + ([] if hx is None else [hx])
    y, h_n = module(x, hx)
    y_data = y.data if hasattr(y, "batch_sizes") else y
    loss = (y_data * draw(*y_data.shape, seed=7, dtype=y_data.dtype)).sum()
    loss = loss + (h_n * draw(*h_n.shape, seed=8, dtype=h_n.dtype)).sum()
    wanted = [each for each in (*leaves, *module.parameters()) if each.requires_grad]
    gradients = torch.autograd.grad(loss, wanted)
    return [y_data.detach(), h_n.detach(), *gradients]


def assert_equal(ours: list[Any], theirs: list[Any], atol: float = 1e-12) -> None:
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert (our.shape, our.dtype) == (their.shape, their.dtype)
        torch.testing.assert_close(our, their, rtol=0, atol=atol)


@OPTIONS
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("with_state", [True, False])
def test_results_and_gradients_are_torchs(
    options: dict[str, Any], batched: bool, with_state: bool, calls: list[str]
) -> None:
    ours, theirs = pair(**options)
    number = ours.num_layers * (1 + ours.bidirectional)
    x = draw(N, T, I) if ours.batch_first and batched else draw(T, N, I) if batched else draw(T, I)
    h0 = draw(number, N, H, seed=1) if batched else draw(number, H, seed=1)
    x.requires_grad_()
    hx = h0.requires_grad_() if with_state else None
    assert_equal(results(ours, x, hx), results(theirs, x, hx))
    assert calls == ["forward"] * number + ["backward"] * number
    with torch.no_grad():
        assert_equal(list(ours(x, hx)), list(theirs(x, hx)))
    assert calls[2 * number :] == ["sequence"]


@OPTIONS
@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize("with_state", [True, False])
def test_packed_sequences_are_as_torchs(
    options: dict[str, Any], enforce_sorted: bool, with_state: bool, calls: list[str]
) -> None:
    ours, theirs = pair(**options)
    number = ours.num_layers * (1 + ours.bidirectional)
    lengths = torch.tensor([T, 4, 4, 1] if enforce_sorted else [2, T, 1, 4])
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        draw(T, N, I).requires_grad_(), lengths, enforce_sorted=enforce_sorted
    )
    hx = draw(number, N, H, seed=1).requires_grad_() if with_state else None
    one, other = ours(packed, hx)[0], theirs(packed, hx)[0]
    for field in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        our, their = getattr(one, field), getattr(other, field)
        assert (our is None) == (their is None)
        assert our is None or torch.equal(our, their)
    assert_equal(results(ours, packed, hx), results(theirs, packed, hx))
    assert "forward" in calls


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_dropout_draws_torchs_numbers(packed: bool, batch_first: bool, bidirectional: bool) -> None:
    ours, theirs = pair(
        num_layers=3, dropout=0.4, batch_first=batch_first, bidirectional=bidirectional
    )
    x = draw(N, T, I) if batch_first else draw(T, N, I)
    if packed:
        x = torch.nn.utils.rnn.pack_padded_sequence(
            x, torch.tensor([2, T, 1, 4]), batch_first=batch_first, enforce_sorted=False
        )
    outcomes = []
    for module in (ours, theirs):
        torch.manual_seed(3)
        outcomes.append([*results(module, x), torch.rand(1)])
    assert_equal(*outcomes)
    for module in (ours, theirs):
        module.eval()
    assert_equal(results(ours, x), results(theirs, x))


@pytest.mark.parametrize("bidirectional", [True, False])
def test_dropout_without_a_batch_axis_draws_torchs_numbers(bidirectional: bool) -> None:
    modules = pair(num_layers=2, dropout=0.4, batch_first=True, bidirectional=bidirectional)
    x, outcomes = draw(T, I), []
    for module in modules:
        torch.manual_seed(3)
        outcomes.append([*results(module, x), torch.rand(1)])
    assert_equal(*outcomes)


class Tagger(torch.nn.Module):  # type: ignore[misc]
    """A model as scripts have them: an embedding, a GRU of two layers, a classifier."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(20, 8)
        self.rnn = kind(8, 16, num_layers=2, dropout=0.2, batch_first=True, bidirectional=True)
        self.classify = torch.nn.Linear(32, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Scores (N, T, 4) of tokens (N, T)."""
        return self.classify(self.rnn(self.embed(tokens))[0])


def train(model: Any, steps: int) -> list[float]:
    """Train as a script does, with clipped gradients; return the losses."""
    torch.manual_seed(5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        tokens = torch.randint(0, 20, (8, 12))
        loss = torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten() % 4)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_script_trains_to_the_same_losses(calls: list[str]) -> None:
    models = []
    for kind in (interop.GRU, torch.nn.GRU):
        torch.manual_seed(1)
        models.append(Tagger(kind))
    ours, theirs = (train(model, 50) for model in models)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert ours[-1] < 0.5 * ours[0]
    assert calls.count("backward") == 50 * 4


@OPTIONS
def test_state_copies_and_pickles(options: dict[str, Any]) -> None:
    ours, theirs = pair(**options)
    assert isinstance(ours, torch.nn.GRU)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert repr(ours) == repr(theirs)
    x = draw(N, T, I)
    wanted = results(ours, x)
    saved = io.BytesIO()
    torch.save(ours, saved)
    saved.seek(0)
    copies = [
        copy.deepcopy(ours),
        pickle.loads(pickle.dumps(ours)),
        torch.load(saved, weights_only=False),
        copy.copy(ours),
    ]
    for each in copies:
        assert type(each) is interop.GRU
        assert_equal(results(each, x), wanted, atol=0)
    ours.flatten_parameters()
    assert_equal(results(ours, x), wanted, atol=0)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_moved_module_computes_in_its_dtype(dtype: str, calls: list[str]) -> None:
    native = getattr(torch, dtype)
    ours, theirs = pair(dtype=native)
    x = draw(T, N, I, dtype=native)
    tolerance = {"float32": 1e-5, "float64": 1e-12, "bfloat16": 0}[dtype]
    assert_equal(results(ours, x), results(theirs, x), atol=tolerance)
    assert calls == ([] if dtype == "bfloat16" else ["forward", "backward"])


def test_what_the_accelerator_does_not_take_is_torchs_own(calls: list[str]) -> None:
    ours, theirs = pair(dtype=torch.float32)
    x = draw(T, N, I, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equal(results(ours, x), results(theirs, x), atol=0)
    with gru_xp.use_accelerators(False):
        assert_equal(results(ours, x), results(theirs, x), atol=0)
    traced = torch.jit.trace(ours, (x,), check_trace=False)
    assert_equal(list(traced(x)), list(theirs(x)), atol=0)
    assert calls == []


@pytest.mark.parametrize(
    ("x", "hx"),
    [
        ((T,), None),
        ((T, N, I, 1), None),
        ((T, N, I + 1), None),
        ((T, I + 1), None),
        ((T, N, I), (1, N, H + 1)),
        ((T, N, I), (2, N, H)),
        ((T, N, I), (1, H)),
        ((T, I), (1, 1, H)),
        ((0, N, I), None),
    ],
    ids=str,
)
def test_wrong_shapes_get_torchs_words(x: Any, hx: Any) -> None:
    words = []
    for module in pair():
        with pytest.raises(Exception) as caught:  # noqa: PT011  (torch's own kind)
            module(draw(*x), None if hx is None else draw(*hx))
        words.append((caught.type, str(caught.value)))
    assert words[0] == words[1]


def test_wrong_dtypes_and_kinds_get_torchs_words() -> None:
    x, h = draw(T, N, I), draw(1, N, H)
    for arguments in ((x.float(),), (np.ones((T, N, I)),), (None,), (x, (h, h)), (x, h.float())):
        words = []
        for module in pair():
            with pytest.raises(Exception) as caught:  # noqa: PT011
                module(*arguments)
            words.append((caught.type, str(caught.value)))
        assert words[0] == words[1]


def test_projections_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="proj_size"):
        interop.GRU(I, H, proj_size=2)


@pytest.mark.parametrize("steps", [1, 4, 5])
@pytest.mark.parametrize("packed", [False, True])
def test_few_steps_that_need_a_gradient_are_torchs_own(
    steps: int, packed: bool, calls: list[str]
) -> None:
    ours, theirs = pair()
    x = draw(steps, N, I)
    if packed:
        x = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([steps] * N))
    assert_equal(results(ours, x), results(theirs, x), atol=1e-12 if steps == 5 else 0)
    assert calls == (["forward", "backward"] if steps == 5 else [])
    calls.clear()
    with torch.no_grad():
        assert_equal([ours(x)[1]], [theirs(x)[1]])
    assert len(calls) == 1


def test_an_empty_batch_is_as_torchs() -> None:
    ours, theirs = pair()
    assert_equal(results(ours, draw(T, 0, I)), results(theirs, draw(T, 0, I)))


def test_frozen_weights_and_inputs_take_no_product(monkeypatch: pytest.MonkeyPatch) -> None:
    from gru_xp_torch import cpu

    shapes: list[Any] = []

    def recorded(a: Any, b: Any, bias: Any = None) -> Any:
        shapes.append((*a.shape, b.shape[1]))
        return multiply(a, b, bias)

    multiply = cpu.matmul
    monkeypatch.setattr(cpu, "matmul", recorded)
    forward, dx, of_input = (T * N, I, 3 * H), (T * N, 3 * H, I), (3 * H, T * N, I)
    of_state = [(2 * H, T * N, H), (H, T * N, H)]
    for frozen, wanted in (
        ((), [forward, *of_state, dx, of_input]),
        (("x",), [forward, *of_state, of_input]),
        (("x", "weight_ih_l0"), [forward, *of_state]),
        (("weight_hh_l0",), [forward, dx, of_input]),
        (("weight_ih_l0", "weight_hh_l0"), [forward, dx]),
    ):
        ours, theirs = pair()
        x = draw(T, N, I).requires_grad_("x" not in frozen)
        for module in (ours, theirs):
            for name, weight in module.named_parameters():
                weight.requires_grad_(name not in frozen)
        shapes.clear()
        got = results(ours, x)
        assert sorted(shapes) == sorted(wanted), frozen
        assert_equal(got, results(theirs, x))


def test_weights_that_torch_computes_work(calls: list[str]) -> None:
    ours, theirs = pair()
    for module in (ours, theirs):
        torch.nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
        module.weight_ih_l0.requires_grad_(False)
    x = draw(T, N, I)
    assert_equal(results(ours, x), results(theirs, x))
    assert calls == ["forward", "backward"]
    ours, theirs = pair()
    doubled = {name: 2 * value for name, value in ours.state_dict().items()}
    assert_equal(
        list(torch.func.functional_call(ours, doubled, (x,))),
        list(torch.func.functional_call(theirs, doubled, (x,))),
    )


def test_a_replica_of_data_parallel_computes_with_its_own_weights() -> None:
    ours, _ = pair()
    x = draw(T, N, I)
    wanted = results(ours, x)[:2]
    # What torch.nn.parallel.replicate does on each GPU.
    replica = ours._replicate_for_data_parallel()
    for name, value in ours.named_parameters():
        setattr(replica, name, value.detach().clone())
    with torch.no_grad():
        for value in ours.parameters():
            value.zero_()
        assert_equal(list(replica(x)), wanted)


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
@pytest.mark.parametrize("needs_gradient", [True, False])
def test_what_records_operations_sees_torchs(
    kind: str, needs_gradient: bool, calls: list[str]
) -> None:
    """A trace of the engine's call would hold its result as a constant."""
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.utils.flop_counter import FlopCounterMode

    x, other = draw(T, N, I), draw(T, N, I, seed=1)
    if kind == "GRUCell":
        x, other = x[0], other[0]
    modules = [getattr(interop, kind)(I, H).double(), getattr(torch.nn, kind)(I, H).double()]
    modules[1].load_state_dict(modules[0].state_dict())
    counted, outcomes = [], []
    with torch.set_grad_enabled(needs_gradient):
        for module in modules:
            traced = torch.jit.trace(module, (x,), check_trace=False)
            made = make_fx(of_one_argument(module))(x)
            outcomes.append([*tree_leaves(traced(other)), *tree_leaves(made(other))])
            with FlopCounterMode(display=False) as counter:
                module(x)
            counted.append(counter.get_total_flops())
    assert_equal(*outcomes, atol=0)
    assert counted[0] == counted[1] > 0
    assert calls == []


def of_one_argument(module: Any) -> Callable[[Any], Any]:
    def run(x: Any) -> Any:
        return module(x)

    return run


class Tagged(torch.Tensor):  # type: ignore[misc]
    """A subclass as libraries have them."""


def test_tensors_that_numpy_has_not_are_as_torchs() -> None:
    ours, theirs = pair()
    negated = torch.fft.fft(draw(T, N, I)).conj().imag
    assert negated.is_neg()
    assert_equal(results(ours, negated), results(theirs, negated))
    tagged = draw(T, N, I).as_subclass(Tagged)
    with torch.no_grad():
        assert_equal(list(ours(negated)), list(theirs(negated)))
        assert [type(each) for each in ours(tagged)] == [type(each) for each in theirs(tagged)]
        cell, torchs = interop.GRUCell(I, H), torch.nn.GRUCell(I, H)
        torchs.load_state_dict(cell.state_dict())
        sparse = torch.eye(3).to_sparse()
        assert_equal([cell(sparse)], [torchs(sparse)], atol=1e-6)


@OPTIONS
@pytest.mark.parametrize("training", [True, False])
def test_results_can_be_detached_in_place(options: dict[str, Any], training: bool) -> None:
    ours, _ = pair(**options)
    with torch.set_grad_enabled(training):
        for each in ours(draw(T, N, I)):
            assert not each.detach_().requires_grad


def test_a_subclass_is_scripted_with_its_own_forward() -> None:
    class Last(interop.GRU):  # type: ignore[misc, name-defined]
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return input + 1

    x = draw(T, N, I)
    assert torch.equal(torch.jit.script(Last(I, H))(x), x + 1)


@OPTIONS
@pytest.mark.parametrize("packed", [False, True])
def test_outputs_may_be_written_to_before_the_backward(
    options: dict[str, Any], packed: bool
) -> None:
    gradients = []
    for module in pair(**options):
        x = draw(T, N, I)
        if packed:
            x = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([T] * N))
        y, h_n = module(x)
        y = y.data if packed else y
        y.relu_()
        h_n.mul_(2)
        (y.square().sum() + h_n.sum()).backward()
        gradients.append([each.grad for each in module.parameters()])
    assert_equal(*gradients)


def test_torchs_script_compiler_takes_it() -> None:
    # Within a model: alone torch.nn.GRU has no forward there either.
    model = Tagger(interop.GRU).eval()
    tokens = torch.arange(12).reshape(2, 6)
    assert_equal([torch.jit.script(model)(tokens)], [model(tokens)], atol=1e-6)


def test_second_derivatives_are_torchs_within_the_switch() -> None:
    ours, theirs = pair()

    def second(module: Any) -> list[Any]:
        x = draw(T, N, I).requires_grad_()
        (dx,) = torch.autograd.grad(module(x)[0].square().sum(), x, create_graph=True)
        return list(torch.autograd.grad(dx.square().sum(), [x, *module.parameters()]))

    with pytest.raises(RuntimeError, match=r"no second derivative.*use_accelerators\(False\)"):
        second(ours)
    with gru_xp.use_accelerators(False):
        assert_equal(second(ours), second(theirs), atol=0)


def test_the_compiler_and_export_take_it() -> None:
    ours, _ = pair(num_layers=2, bidirectional=True)
    x = draw(T, N, I).requires_grad_()
    wanted = results(ours, x)
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(allow_rnn=True):
        assert_equal(results(compiled, x), wanted)
    steps = torch.export.Dim("steps", min=2)
    program = torch.export.export(ours, (x.detach(),), dynamic_shapes=({0: steps}, None)[:1])
    longer = draw(2 * T, N, I)
    with torch.no_grad():
        assert_equal(list(program.module()(longer)), list(ours(longer)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("with_state", [True, False])
def test_a_cell_is_torchs(bias: bool, batched: bool, with_state: bool, calls: list[str]) -> None:
    torch.manual_seed(0)
    ours = interop.GRUCell(I, H, bias=bias).double()
    theirs = torch.nn.GRUCell(I, H, bias=bias).double()
    theirs.load_state_dict(ours.state_dict())
    x, h = (draw(N, I), draw(N, H)) if batched else (draw(I), draw(H))
    hx = h if with_state else None
    with torch.no_grad():
        assert_equal([ours(x, hx)], [theirs(x, hx)])
    assert calls == ["step"]
    for module in (ours, theirs):
        module(x, hx).square().sum().backward()
    assert_equal(
        [each.grad for each in ours.parameters()], [each.grad for each in theirs.parameters()]
    )
    with torch.no_grad():
        assert_equal([torch.jit.script(ours)(x, hx)], [theirs(x, hx)])
    with pytest.raises(RuntimeError), torch.no_grad():
        ours(draw(N, I + 1))


@pytest.mark.parametrize("dynamo", [False, True])
def test_torchs_onnx_exporters_see_a_gru(dynamo: bool, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="torch's exporters need onnx")
    if dynamo:
        pytest.importorskip("onnxscript", reason="torch's newer exporter needs onnxscript")
    ours, _ = pair(dtype=torch.float32)
    path = tmp_path / "gru.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters have some of their own
        torch.onnx.export(ours.eval(), (draw(T, N, I, dtype=torch.float32),), path, dynamo=dynamo)
    assert "GRU" in {node.op_type for node in onnx.load(path).graph.node}


def test_a_compiled_model_breaks_its_graph_there_as_at_torchs_own() -> None:
    ours, theirs = pair()
    x = draw(T, N, I)
    for module in (ours, theirs):
        torch._dynamo.reset()
        with pytest.raises(torch._dynamo.exc.Unsupported, match="allow_rnn"):
            torch.compile(module, fullgraph=True, backend="eager")(x)
    torch._dynamo.reset()
    assert_equal(list(torch.compile(ours, backend="eager")(x)), list(ours(x)))
