"""Stream: steps and chunks against whole sequences, its copies, and an accelerator's own stream."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp import functional
from gru_xp.accelerator_api import NativeStream
from gru_xp.arrays import dtypes, libraries
from gru_xp.core import accelerators
from gru_xp.core.loop import Loop
from gru_xp.stream import Stream
from tests.library import Library
from tests.test_cell_values import draw
from tests.test_layer_values import H, I, N, T, host, make_gru
from tests.test_python_calls import calls

OPTIONS = pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "dropout": 0.5},
        {"num_layers": 3, "batch_first": True},
        {"reset_after": False},
        {"num_layers": 2, "bias": False},
    ],
    ids=str,
)


def empty(lib: Library, *shape: int, dtype: str = "float64") -> Any:
    """Return an array to write into, also where inputs are read-only."""
    return lib.xp.empty(shape, dtype=lib.dtype(dtype), device=lib.device)


@pytest.mark.feature("Stream")
@OPTIONS
@pytest.mark.parametrize("with_h0", [True, False])
@pytest.mark.parametrize("rows", [None, 1, N])
def test_steps_and_chunks_give_the_whole(
    lib: Library, options: dict[str, Any], rows: int | None, with_h0: bool
) -> None:
    gru = make_gru(lib, **options)
    batch = () if rows is None else (rows,)
    steps = draw(T, *batch, I, seed=0)
    sideways = gru.batch_first and rows is not None

    def chunk(first: int, end: int) -> Any:
        part = steps[first:end]
        return lib.array(np.swapaxes(part, 0, 1) if sideways else part)

    def time_first(y: Any) -> Any:
        return np.swapaxes(lib.numpy(y), 0, 1) if sideways else lib.numpy(y)

    h0 = lib.array(draw(gru.num_layers, *batch, H, seed=1)) if with_h0 else None
    y, h_n = gru.eval()(chunk(0, T), h0)
    wanted = time_first(y)
    gru.train()
    stream = gru.stream(h0)
    lib.assert_close(stream.step(lib.array(steps[0])), wanted[0], atol=1e-14)
    np.testing.assert_allclose(time_first(stream(chunk(1, 4))), wanted[1:4], rtol=0, atol=1e-14)
    lib.assert_close(stream.step(lib.array(steps[4])), wanted[4], atol=1e-14)
    lib.assert_close(stream.state, lib.numpy(h_n), atol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("rows", [None, 1, 2, 5])
@pytest.mark.parametrize(("inputs", "size"), [(5, 3), (16, 16), (64, 64), (7, 130)])
def test_with_numpys_accelerator_steps_have_the_bits_of_the_sequence(
    native: Any, inputs: int, size: int, rows: int | None, layers: int, dtype: str
) -> None:
    gru = gru_xp.GRU(inputs, size, layers, dtype=dtype, rng=0).eval()
    batch = () if rows is None else (rows,)
    x = draw(7, *batch, inputs, seed=0).astype(dtype)
    h0 = draw(layers, *batch, size, seed=1).astype(dtype)
    wanted, h_n = gru(x, h0)
    steps, written, chunks = gru.stream(h0), gru.stream(h0), gru.stream(h0)
    out = np.empty_like(wanted)
    for sample, row in zip(x, out, strict=True):
        assert written.step(sample, out=row) is row
    whole = np.concatenate([chunks(x[:1]), chunks(x[1:5]), chunks(x[5:])])
    for got in (np.stack([steps.step(sample) for sample in x]), out, whole):
        np.testing.assert_array_equal(got, wanted)
    for stream in (steps, written, chunks):
        np.testing.assert_array_equal(stream.state, h_n)


def test_it_keeps_no_tape_and_leaves_the_layers_alone(lib: Library) -> None:
    gru = make_gru(lib)
    gru(lib.array(draw(T, N, I, seed=0)))
    dy = lib.array(draw(T, N, H, seed=2))
    gru.backward(dy)
    wanted = host(gru.gradients())
    gru.stream().step(lib.array(draw(N, I, seed=4)))
    gru.backward(dy)
    for name, gradient in gru.gradients().items():
        lib.assert_close(gradient, wanted[name], atol=0)


@pytest.mark.parametrize("bias", [True, False])
def test_the_weights_are_those_of_its_making(lib: Library, bias: bool) -> None:
    gru, x = make_gru(lib, num_layers=2, bias=bias), lib.array(draw(N, I, seed=0))
    wanted = lib.numpy(gru.stream().step(x))
    stream = gru.stream()
    for name, weight in gru.parameters().items():
        if lib.mutable:
            weight[...] = 0.0  # in place, through the array itself
        else:
            setattr(gru, name, 0.0)
    gru.train().to(dtype="float32")
    lib.assert_close(stream.step(x), wanted, atol=0, dtype="float64")
    lib.assert_close(gru.stream().step(x), np.zeros((N, H)), atol=0)


def test_the_weights_leave_torchs_graph(lib: Library) -> None:
    if lib.name != "torch":
        pytest.skip("about torch")
    gru, x = make_gru(lib), lib.array(draw(N, I, seed=0))
    for weight in gru.parameters().values():
        weight.requires_grad_()
    stream = gru.stream()
    assert not stream.step(x).requires_grad
    assert not stream.state.requires_grad


def test_inputs_that_require_gradients_leave_no_graph_in_the_state(lib: Library) -> None:
    if lib.name != "torch":
        pytest.skip("about torch")
    stream, x = make_gru(lib).stream(), lib.array(draw(N, I, seed=0)).requires_grad_()
    assert stream.step(x).requires_grad
    assert not stream.state.requires_grad
    assert stream(x[None]).requires_grad
    assert not copy.deepcopy(stream).state.requires_grad


@pytest.mark.parametrize("with_h0", [True, False])
def test_reset_goes_back_to_the_initial_state(lib: Library, with_h0: bool) -> None:
    gru, x = make_gru(lib, num_layers=2), lib.array(draw(T, N, I, seed=0))
    h0 = draw(2, N, H, seed=1)
    stream = gru.stream(lib.array(h0) if with_h0 else None)
    wanted = lib.numpy(stream(x))
    stream.state = lib.array(draw(2, 1, H, seed=5))  # of another batch
    stream.step(x[0, :1, :])
    stream.reset()
    if with_h0:
        lib.assert_close(stream.state, h0, atol=0)
    else:
        assert stream.state is None
    lib.assert_close(stream(x), wanted, atol=0)
    stream.reset()
    lib.assert_close(stream(x), wanted, atol=0)


def test_zeros_are_for_any_number_of_rows(lib: Library) -> None:
    stream, x = make_gru(lib).stream(), draw(N, I, seed=0)
    wanted = lib.numpy(stream.step(lib.array(x)))
    for rows in (1, 2):
        stream.state = None
        lib.assert_close(stream.step(lib.array(x[:rows])), wanted[:rows], atol=1e-14)
    stream.reset()
    lib.assert_close(stream.step(lib.array(x[0])), wanted[0], atol=1e-14)
    assert stream.state.shape == (1, H)


def test_another_batch_than_the_states_is_refused_and_changes_nothing(lib: Library) -> None:
    stream, x = make_gru(lib).stream(), lib.array(draw(N, I, seed=0))
    stream.step(x)
    held = lib.numpy(stream.state)
    for call in (stream.step, lambda rows: stream(rows[None, ...])):
        with pytest.raises(
            ValueError, match=f"GRU.stream: expected input with batch size {N}, .* got .* size 2"
        ):
            call(x[:2, :])
    with pytest.raises(ValueError, match=f"with batch size {N}, .* got input without a batch axis"):
        stream.step(x[0, :])
    lib.assert_close(stream.state, held, atol=0)


def test_a_wider_state_is_no_alias(lib: Library) -> None:
    """No accelerator keeps it, which would give a copy."""
    if not lib.mutable or lib.read_only:
        pytest.skip("needs arguments that can be changed")
    stream = make_gru(lib, dtype="float32").stream()
    wide = lib.array(draw(1, N, H, seed=1))
    stream.state = wide
    stream.state[...] = 0.0
    assert stream.state.dtype == wide.dtype
    lib.assert_close(stream.state, lib.numpy(wide), atol=0)


def test_no_state_is_an_alias(lib: Library) -> None:
    if not lib.mutable or lib.read_only:
        pytest.skip("needs arguments that can be changed")
    gru = make_gru(lib)
    x, h0 = lib.array(draw(N, I, seed=0)), lib.array(draw(1, N, H, seed=1))
    wanted = lib.numpy(gru.stream(h0).step(x))
    started, assigned, read = gru.stream(h0), gru.stream(), gru.stream(h0)
    assigned.state = h0
    h0[...] = 0.0
    read.state[...] = 0.0
    for stream in (started, assigned, read):
        y = stream.step(x)
        lib.assert_close(y, wanted, atol=0)
        y[...] = 0.0
        stream.state[...] = 0.0
        lib.assert_close(stream.state, wanted[None], atol=0)
    started.reset()
    lib.assert_close(started.step(x), wanted, atol=0)


@pytest.mark.parametrize("rows", [None, N])
def test_a_result_is_written_where_it_is_wanted(lib: Library, rows: int | None) -> None:
    batch = () if rows is None else (rows,)
    gru, x = make_gru(lib, num_layers=2), lib.array(draw(T, *batch, I, seed=0))
    stream, out = gru.stream(), empty(lib, *batch, H)
    if not lib.mutable:
        with pytest.raises(
            TypeError, match="out is not supported for JAX, whose arrays are immutable"
        ):
            stream.step(x[0, ...], out)
        assert stream.state is None
        return
    wanted = lib.numpy(gru.eval()(x)[0])
    for t in range(T):
        assert stream.step(x[t, ...], out=out) is out
        lib.assert_close(out, wanted[t], atol=1e-14)
    out[...] = 0.0
    lib.assert_close(stream.state, lib.numpy(gru(x)[1]), atol=1e-14)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("size", [H, 40])
def test_a_result_may_be_written_over_the_input(lib: Library, size: int, layers: int) -> None:
    if not lib.mutable:
        pytest.skip("JAX takes no out")
    gru, x = make_gru(lib, size, size, num_layers=layers), draw(N, size, seed=0)
    once, over = gru.stream(), gru.stream()
    y, fed_back = lib.array(x), empty(lib, N, size)
    fed_back[...] = y
    for _ in range(3):
        y = once.step(y)
        over.step(fed_back, out=fed_back)
        lib.assert_close(fed_back, lib.numpy(y), atol=0)


def test_what_a_result_cannot_be_written_into_is_refused_before_the_step(lib: Library) -> None:
    if not lib.mutable:
        pytest.skip("JAX takes no out")
    stream, x = make_gru(lib).stream(), lib.array(draw(N, I, seed=0))
    stream.step(x)
    held = lib.numpy(stream.state)
    shape = r"expected a writeable out of shape \(3, 3\) and dtype .*float64, "
    wrong = [
        (empty(lib, N, H + 1), rf"{shape}got an array of shape \(3, 4\)"),
        (empty(lib, H), rf"{shape}got a.* array of shape \(3,\)"),
        (empty(lib, N, H, dtype="float32"), rf"{shape}got .* dtype .*float32"),
        ([[0.0] * H] * N, "Stream.step: expected out to be an array"),
    ]
    if lib.read_only:
        wrong.append((lib.array(np.zeros((N, H))), rf"{shape}got a read-only array of shape"))
    if lib.name == "numpy":
        masked = np.ma.masked_array(np.zeros((N, H)), mask=False)
        wrong.append((masked, "out is a numpy.ma.MaskedArray"))
    else:
        wrong.append((np.zeros((N, H)), "expected out .* got an array of numpy"))
    for out, words in wrong:
        with pytest.raises((TypeError, ValueError), match=words):
            stream.step(x, out)
        lib.assert_close(stream.state, held, atol=0)


def test_a_view_and_an_array_of_a_subclass_are_written_into() -> None:
    class Named(np.ndarray):  # type: ignore[type-arg]
        pass

    gru, x = gru_xp.GRU(I, H, rng=0, dtype="float64"), draw(N, I, seed=0)
    wanted = gru.stream().step(x)
    columns = np.zeros((H, 2 * N)).T[::2]
    named = np.zeros((N, H)).view(Named)
    for out in (columns, named):
        assert gru.stream().step(x, out) is out
        np.testing.assert_allclose(np.asarray(out), wanted, rtol=0, atol=1e-14)


def test_wider_inputs_and_states_widen_what_follows(lib: Library) -> None:
    lib.skip_without("float32")
    gru = make_gru(lib, dtype="float32")
    x, h0 = draw(3, N, I, seed=0), draw(1, N, H, seed=1)
    wide, _ = functional.gru(gru.params, lib.array(x), lib.array(h0), keep_tape=False)[:2]
    stream = gru.stream(lib.array(h0))
    got = [stream.step(lib.array(each)) for each in x]
    for one, other in zip(got, lib.numpy(wide), strict=True):
        lib.assert_close(one, other, atol=1e-14, dtype="float64")
    assert dtypes.dtype_name(stream.state.dtype) == "float64"
    stream.state = lib.array(h0, "float32")
    narrow = stream.step(lib.array(x[0], "float32"))
    assert dtypes.dtype_name(narrow.dtype) == "float32"


def pickled(stream: Any) -> Any:
    return pickle.loads(pickle.dumps(stream))


@pytest.mark.parametrize("again", [copy.deepcopy, pickled])
@pytest.mark.parametrize("begun", [True, False])
def test_a_copy_goes_on_by_itself(lib: Library, again: Any, begun: bool) -> None:
    if lib.name == "jax" and again is pickled:
        pytest.skip("JAX's arrays come out of a pickle on its default device")
    gru = make_gru(lib, num_layers=2, batch_first=True, reset_after=False)
    x = lib.array(draw(N, T, I, seed=0))
    stream = gru.stream(lib.array(draw(2, N, H, seed=1)))
    wanted = lib.numpy(stream(x))
    stream.reset()
    if begun:
        stream(x[:, :2, :])
    other = again(stream)
    rest = x[:, 2:, :] if begun else x
    got = lib.numpy(stream(rest))
    lib.assert_close(other(rest), got, atol=0)
    np.testing.assert_allclose(got, wanted[:, 2:] if begun else wanted, rtol=0, atol=1e-14)
    other.reset()
    lib.assert_close(other(x), wanted, atol=0)
    stream.state = None
    assert again(stream).state is None


@pytest.mark.parametrize("direction", ["bidirectional", "reverse"])
def test_a_reverse_direction_is_refused_with_the_reason(lib: Library, direction: str) -> None:
    message = f"a GRU with {direction}=True .* reverse direction starts at the last step"
    with pytest.raises(ValueError, match=message):
        make_gru(lib, **{direction: True}).stream()


def test_what_is_no_step_is_refused(lib: Library) -> None:
    stream = make_gru(lib).stream()
    wrong = {
        r"Stream.step: expected input to be 1-D .* got 3-D. To process a chunk": draw(
            T, N, I, seed=0
        ),
        "GRU.stream: input has inconsistent input_size: expected 4, got 5": draw(N, 5, seed=0),
    }
    for words, x in wrong.items():
        with pytest.raises(ValueError, match=words):
            stream.step(lib.array(x))
    with pytest.raises(TypeError, match=r"Stream.step: expected input to be an array"):
        stream.step([1.0, 2.0])
    assert stream.state is None


@pytest.mark.parametrize("shape", [(N, H), (1, 2), (H,), (1, 1, N, H), (2, N, H), (1, N, H + 1)])
def test_what_is_no_state_is_refused(lib: Library, shape: tuple[int, ...]) -> None:
    gru, value = make_gru(lib), lib.array(draw(*shape, seed=0))
    stream = gru.stream(lib.array(draw(1, N, H, seed=1)))
    held = lib.numpy(stream.state)
    words = r"expected {} of shape \(1, N, 3\), or \(1, 3\)"
    with pytest.raises(ValueError, match="Stream.state: " + words.format("state")):
        stream.state = value
    with pytest.raises(ValueError, match="GRU.stream: " + words.format("h0")):
        gru.stream(value)
    with pytest.raises(TypeError, match=r"Stream.state: expected state to be an array"):
        stream.state = [0.0]
    lib.assert_close(stream.state, held, atol=0)


class StandIn:
    """An accelerator's stream in Python, which keeps a diary."""

    def __init__(self, module: Any, params: Any, loop: Loop, form: Any) -> None:
        self.module, self.params, self.loop, self.form = module, params, loop, form
        self._state: Any = None

    @property
    def state(self) -> Any:
        self.module.calls.append("read")
        return None if self._state is None else self._state + 0

    @state.setter
    def state(self, value: Any) -> None:
        self.module.calls.append("write")
        assert value is None or value.dtype == self.params[0].weight_ih.dtype
        self._state = None if value is None else value + 0

    def step(self, x: Any, out: Any = None, /) -> Any:
        self.module.calls.append("step")
        if self.module.declines(x):
            return NotImplemented
        y = self._run(x[None, ...])[0, ...]
        if out is not None:
            out[...] = y
        return y if out is None else out

    def chunk(self, x: Any, /) -> Any:
        self.module.calls.append("chunk")
        return NotImplemented if self.module.declines(x) else self._run(x)

    def _run(self, x: Any) -> Any:
        with gru_xp.use_accelerators(False):
            y, self._state, _ = functional.gru(self.params, x, self._state, keep_tape=False)
        return y


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An accelerator for every library whose streams are stand-ins."""
    module = SimpleNamespace(calls=[], declines=lambda x: False, OPTIONS=frozenset())
    module.forward = module.backward = lambda *arguments, **options: NotImplemented

    def stream(*arguments: Any) -> NativeStream:
        module.calls.append("make")
        return StandIn(module, *arguments)

    module.stream = stream
    for name in libraries.NAMESPACES:
        found = accelerators.Found(module, "stand-in")  # type: ignore[arg-type]
        monkeypatch.setitem(accelerators._found, name, found)
    return module


def diary(module: Any) -> list[str]:
    """Return what has been noted, and forget it."""
    noted, module.calls[:] = list(module.calls), []
    return noted


@pytest.fixture
def portable(lib: Library) -> Any:
    """A GRU, x and, without an accelerator, y and the states after three and all steps."""
    gru, x = make_gru(lib, num_layers=2), lib.array(draw(T, N, I, seed=0))
    with gru_xp.use_accelerators(False):
        y, h_n = gru.eval()(x)
        _, middle = gru(x[:3, ...])
    return SimpleNamespace(
        gru=gru, x=x, y=lib.numpy(y), h_n=lib.numpy(h_n), middle=lib.numpy(middle)
    )


def test_an_accelerators_stream_is_asked_first_and_for_all(
    lib: Library, stand_in: Any, portable: Any
) -> None:
    with gru_xp.use_accelerators(True):
        stream, x = portable.gru.stream(), portable.x
        assert diary(stand_in) == ["make", "write"]
        lib.assert_close(stream.step(x[0, ...]), portable.y[0], atol=1e-14)
        lib.assert_close(stream(x[1:3, ...]), portable.y[1:3], atol=1e-14)
        assert diary(stand_in) == ["step", "chunk"]
        lib.assert_close(stream.state, portable.middle, atol=1e-14)
        assert diary(stand_in) == ["read"]
        stream.reset()
        assert diary(stand_in) == ["write"]
        if lib.mutable:
            out = empty(lib, N, H)
            assert stream.step(x[0, ...], out) is out
            lib.assert_close(out, portable.y[0], atol=1e-14)
            assert diary(stand_in) == ["step"]


@pytest.mark.parametrize("way", ["declined", "switched off"])
def test_where_it_does_not_run_the_portable_path_takes_its_state_on(
    lib: Library, stand_in: Any, portable: Any, way: str
) -> None:
    stream, x = None, portable.x
    with gru_xp.use_accelerators(True):
        stream = portable.gru.stream()
    for name in portable.gru.parameters():
        setattr(portable.gru, name, 0.0)  # of which neither path may see anything
    diary(stand_in)

    def both(call: Any, asked: str) -> Any:
        """Make a call with the accelerator standing aside."""
        stand_in.declines = lambda x: way == "declined"
        with gru_xp.use_accelerators(way == "declined"):
            result = call()
        stand_in.declines = lambda x: False
        noted = diary(stand_in)
        assert noted[: noted.index("read")] == [asked] * (way == "declined")
        assert set(noted) - {asked} == {"read", "write"}
        return result

    with gru_xp.use_accelerators(True):
        got = [stream.step(x[0, ...])]
        diary(stand_in)
        got.append(both(lambda: stream.step(x[1, ...]), "step"))
        got.append(stream.step(x[2, ...]))
        lib.assert_close(stream.state, portable.middle, atol=1e-14)
        diary(stand_in)
        got.append(both(lambda: stream(x[3:4, ...]), "chunk")[0, ...])
        got.append(stream(x[4:, ...])[0, ...])
        lib.assert_close(stream.state, portable.h_n, atol=1e-14)
    for one, other in zip(got, portable.y, strict=True):
        lib.assert_close(one, other, atol=1e-14)


def test_a_wrong_call_has_the_portable_paths_words_and_leaves_the_state(
    lib: Library, stand_in: Any, portable: Any
) -> None:
    stand_in.declines = lambda x: True
    with gru_xp.use_accelerators(True):
        stream = portable.gru.stream()
        stream(portable.x[:3, ...])
        with pytest.raises(TypeError, match=r"Stream.step: expected input to be an array"):
            stream.step(None)
        with pytest.raises(ValueError, match=r"GRU.stream: expected input with batch size"):
            stream.step(portable.x[0, 0, :])
        lib.assert_close(stream.state, portable.middle, atol=1e-14)


def test_a_state_that_it_would_round_is_kept_from_it(lib: Library, stand_in: Any) -> None:
    gru = make_gru(lib, dtype="float32")
    stand_in.declines = lambda x: dtypes.dtype_name(x.dtype) != "float32"
    x = lib.array(draw(N, I, seed=0))
    narrow = lib.array(draw(N, I, seed=0), "float32")
    with gru_xp.use_accelerators(True):
        stream = gru.stream()
        assert dtypes.dtype_name(stream.step(x).dtype) == "float64"
        diary(stand_in)
        assert dtypes.dtype_name(stream.step(narrow).dtype) == "float64"
        assert dtypes.dtype_name(stream.state.dtype) == "float64"
        assert diary(stand_in) == []
        stream.reset()
        assert dtypes.dtype_name(stream.step(narrow).dtype) == "float32"
        assert diary(stand_in) == ["write", "step"]


def test_who_makes_no_stream_of_this_gru_is_asked_no_more(
    lib: Library, stand_in: Any, portable: Any
) -> None:
    make = stand_in.stream
    stand_in.stream = lambda *arguments: stand_in.calls.append("make") or NotImplemented
    with gru_xp.use_accelerators(True):
        stream = portable.gru.stream()
        lib.assert_close(stream(portable.x), portable.y, atol=1e-14)
        assert diary(stand_in) == ["make"]
        stand_in.stream = make
        make_gru(lib, reset_after=False).stream()  # an option that it does not know
        assert diary(stand_in) == []
        copied = copy.deepcopy(stream)  # which asks again
        assert diary(stand_in) == ["make", "write", "write"]  # the initial state, then the held one
        lib.assert_close(copied.state, portable.h_n, atol=1e-14)


def test_little_stands_between_a_step_and_the_accelerators() -> None:
    """The step, the switch and its variable, the accelerator's step, as a profiler counts them."""

    class Quick:
        state = None

        def step(self, x: Any, out: Any = None, /) -> Any:
            return x

    stream: Stream[Any] = gru_xp.GRU(I, H, rng=0).stream()
    stream._native = stream._quick = Quick()  # type: ignore[assignment]
    with gru_xp.use_accelerators(True):
        assert calls(lambda: stream.step(0)) <= 5  # that of the lambda too
