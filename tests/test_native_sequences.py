"""NumPy's accelerator: whole sequences in eval in one call, streams, and how near both are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp.core.loop import Loop
from tests.native import DTYPES, assert_same_bits, draw_case

FORMS = [
    {"num_layers": layers, "bidirectional": two, "bias": bias, "reset_after": after}
    for layers, two, bias, after in product((1, 3), (False, True), (True, False), (True, False))
]


def arguments(gru: gru_xp.GRU[Any], steps: int, rows: int | None, *, state: bool) -> list[Any]:
    """Random x and h0 for a GRU, rows None for no batch axis."""
    rng = np.random.default_rng(steps)
    shape: tuple[int, ...] = (steps, gru.input_size)
    if rows is not None:
        shape = (rows, *shape) if gru.batch_first else (steps, rows, gru.input_size)
    number = len(gru.params)
    of_state = (number, gru.hidden_size) if rows is None else (number, rows, gru.hidden_size)
    h0 = rng.normal(size=of_state).astype(gru.dtype) if state else None
    return [rng.normal(size=shape).astype(gru.dtype), h0]


def in_one_call(gru: gru_xp.GRU[Any], x: Any, h0: Any) -> Any:
    """What the accelerator's function makes of a call of the GRU."""
    import gru_xp_numpy

    return gru_xp_numpy.sequence(x, h0, gru.params, gru._loop(), gru._form)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", FORMS, ids=lambda options: "-".join(map(str, options.values())))
@pytest.mark.parametrize(("rows", "batch_first"), [(None, False), (1, True), (5, False), (5, True)])
def test_a_sequence_in_eval_has_the_bits_of_one_in_training(
    isa: str, native: Any, rows: int | None, batch_first: bool, options: Any, dtype: str
) -> None:
    """Which goes the long way, one part after another."""
    gru: Any = gru_xp.GRU(7, 19, batch_first=batch_first, dtype=dtype, rng=0, **options)
    for steps, state in ((1, True), (4, False), (6, True)):
        x, h0 = arguments(gru, steps, rows, state=state)
        wanted = dict(zip(("y", "h_n"), gru.train()(x, h0), strict=True))
        direct = in_one_call(gru, x, h0)
        assert direct is not NotImplemented
        assert_same_bits(dict(zip(("y", "h_n"), direct, strict=True)), wanted)
        got = gru.eval()(x, h0)
        assert_same_bits(dict(zip(("y", "h_n"), got, strict=True)), wanted)
        assert all(each.flags.writeable for each in got)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sequence_has_the_same_bits_for_any_number_of_threads(
    isa: str, native: Any, dtype: str
) -> None:
    gru = gru_xp.GRU(70, 64, 2, bidirectional=True, dtype=dtype, rng=0).eval()
    x, h0 = arguments(gru, 12, 40, state=True)
    gru_xp.set_num_threads(1)
    alone = dict(zip(("y", "h_n"), gru(x, h0), strict=True))
    for count in (2, 3, 4):
        gru_xp.set_num_threads(count)
        assert_same_bits(dict(zip(("y", "h_n"), gru(x, h0), strict=True)), alone)


def test_a_sequence_does_not_change_its_arguments(native: Any) -> None:
    gru = gru_xp.GRU(3, 4, 2, rng=0).eval()
    x, h0 = arguments(gru, 5, 2, state=True)
    held = [each.copy() for each in (x, h0)]
    y, h_n = gru(x, h0)
    assert not any(np.shares_memory(out, each) for out in (y, h_n) for each in (x, h0))
    y[...] = h_n[...] = 7
    assert_same_bits({"x": x, "h0": h0}, {"x": held[0], "h0": held[1]})


UNUSUAL: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "x of another dtype": lambda x, h: (x.astype(np.float32), h),
    "h0 of another dtype": lambda x, h: (x, h.astype(np.float32)),
    "both of another dtype": lambda x, h: (x.astype(np.float32), h.astype(np.float32)),
    "16 bits": lambda x, h: (x.astype(np.float16), h),
    "integers": lambda x, h: (np.ones_like(x, dtype=np.int64), h),
    "h0 strided": lambda x, h: (x, np.repeat(h, 2, axis=-1)[..., ::2]),
    "other byte order": lambda x, h: (x.astype(x.dtype.newbyteorder()), h),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_an_unusual_sequence_equals_the_portable_one(native: Any, kind: str) -> None:
    gru: Any = gru_xp.GRU(5, 4, dtype="float64", rng=0).eval()
    x, h0 = UNUSUAL[kind](*arguments(gru, 3, 2, state=True))
    assert in_one_call(gru, x, h0) is NotImplemented
    got = gru(x, h0)
    with gru_xp.use_accelerators(False):
        wanted = gru(x, h0)
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_an_input_of_any_layout_is_taken(native: Any) -> None:
    gru: Any = gru_xp.GRU(5, 4, rng=0).eval()
    x, h0 = arguments(gru, 3, 2, state=True)
    wanted = dict(zip(("y", "h_n"), gru(x, h0), strict=True))
    for laid in (np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2], np.flip(np.flip(x).copy())):
        direct = in_one_call(gru, laid, h0)
        assert direct is not NotImplemented
        assert_same_bits(dict(zip(("y", "h_n"), direct, strict=True)), wanted)


@pytest.mark.parametrize(
    ("x", "h0"),
    [
        (np.ones((3, 2, 6), np.float32), None),
        (np.ones(5, np.float32), None),
        (np.ones((1, 3, 2, 5), np.float32), None),
        (np.ones((0, 2, 5), np.float32), None),
        (np.ones((3, 0, 5), np.float32), None),
        (np.ones((3, 2, 5), np.float32), np.ones((1, 3, 4), np.float32)),
        (np.ones((3, 2, 5), np.float32), np.ones((2, 2, 4), np.float32)),
        (np.ones((3, 5), np.float32), np.ones((1, 2, 4), np.float32)),
        ([[1.0] * 5], None),
        (None, None),
        (np.ones((3, 2, 5), np.float32), [[0.0] * 4]),
    ],
)
def test_a_sequence_of_another_shape_is_declined(native: Any, x: Any, h0: Any) -> None:
    """So the checks of the portable path say what is wrong, or take it."""
    assert in_one_call(gru_xp.GRU(5, 4, rng=0).eval(), x, h0) is NotImplemented


@pytest.mark.parametrize("loop", [Loop(lengths=[3, 1]), Loop(reverse=True)])
def test_lengths_and_a_reverse_direction_alone_are_declined(native: Any, loop: Any) -> None:
    import gru_xp_numpy

    gru: Any = gru_xp.GRU(5, 4, rng=0).eval()
    x, _ = arguments(gru, 3, 2, state=False)
    assert gru_xp_numpy.sequence(x, None, gru.params, loop, gru._form) is NotImplemented


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", FORMS, ids=lambda options: "-".join(map(str, options.values())))
def test_a_stream_has_the_bits_of_the_sequence(
    isa: str, native: Any, options: Any, dtype: str
) -> None:
    if options["bidirectional"]:
        options = {**options, "bidirectional": False, "num_layers": 2}
    gru: Any = gru_xp.GRU(7, 19, dtype=dtype, rng=0, **options)
    for rows in (None, 1, 5, 11):
        x, h0 = arguments(gru, 9, rows, state=True)
        y, h_n = gru.eval()(x, h0)
        stream = gru.stream(h0)
        assert type(stream._native).__module__ == "gru_xp_numpy._native"
        steps = [stream.step(each) for each in x[:4]]
        assert stream._quick is not None  # none was declined
        got = np.concatenate([np.stack(steps), stream(x[4:])])
        assert_same_bits({"y": got, "h_n": stream.state}, {"y": y, "h_n": h_n})


def test_a_stream_stays_with_the_instruction_set_of_its_weights(isa: str, native: Any) -> None:
    gru: Any = gru_xp.GRU(7, 19, rng=0).eval()
    x, _ = arguments(gru, 6, 3, state=False)
    wanted, stream = gru(x)[0], gru.stream()
    for other in ("plain", "avx2", "avx512"):
        native.set_isa(other)
        stream.reset()
        got = np.concatenate([stream.step(x[0])[None], stream(x[1:])])
        assert_same_bits({"y": got}, {"y": wanted})


def test_a_stream_takes_one_call_at_a_time(native: Any) -> None:
    gru: Any = gru_xp.GRU(64, 64, rng=0)
    stream = gru.stream()
    long = np.ones((200_000, 64), np.float32)
    thread = threading.Thread(target=lambda: stream(long))
    thread.start()
    time.sleep(0.05)  # of some 0.2 s that it takes
    with pytest.raises(RuntimeError, match="another thread is using this stream"):
        stream.step(long[0])
    thread.join()
    stream.step(long[0])


def test_a_stream_that_is_given_a_wrong_state_keeps_its_own(native: Any) -> None:
    stream = gru_xp.GRU(3, 4, rng=0).stream()._native
    stream.step(np.ones(3, np.float32))
    before = stream.state
    for wrong in (np.ones((2, 4)), np.ones((1, 3), np.float32), np.ones((1, 2, 5), np.float32)):
        with pytest.raises((TypeError, ValueError), match="gru_xp_numpy"):
            stream.state = wrong
    np.testing.assert_array_equal(stream.state, before)


@pytest.mark.parametrize("kind", ["none", "three", "no tuples", "another size", "another dtype"])
def test_weights_that_do_not_fit_one_another_are_declined(native: Any, kind: str) -> None:
    first, second = gru_xp.GRU(3, 4, 2, rng=0).params
    other = gru_xp.GRU(3, 5, 2, dtype="float64" if kind == "another dtype" else None, rng=0).params
    params: Any = {
        "none": (),
        "three": (first[:3],),
        "no tuples": (1, 2),
        "another size": (first, other[1]),
        "another dtype": (first, other[1]),
    }[kind]
    assert native.stream(params, True, False) is NotImplemented
    x = np.ones((2, 3), np.float32)
    assert native.sequence(x, None, params, True, False, False) is NotImplemented
    assert native.sequence(x, None, (first, second, first), True, False, True) is NotImplemented


@pytest.mark.parametrize("reset_after", [True, False])
def test_a_backward_of_the_other_forms_tape_is_an_error(native: Any, reset_after: bool) -> None:
    import gru_xp_numpy

    case = draw_case(2, 3, 4, "float32", reset_after=reset_after)
    _, tape = gru_xp_numpy.forward(*case[:4], case.loop, keep_tape=True)
    other = Loop(reset_after=not reset_after)
    with pytest.raises(ValueError, match="of the other reset_after"):
        gru_xp_numpy.backward(case.dh, case.dh_last, tape, case.weight_hh, other)


@pytest.mark.parametrize("size", [256, 1024])
def test_rounding_is_at_most_that_of_torch(isa: str, native: Any, size: int) -> None:
    """Over a thousand steps, against torch in float64; of GRUs that do not forget at once too."""
    torch = pytest.importorskip("torch", reason="compares with torch")
    torch.manual_seed(0)
    for scale in (1, 3):
        peer = torch.nn.GRU(size, size)
        x = torch.randn(1000, 1, size)
        with torch.no_grad():
            for weight in peer.parameters():
                weight *= scale
            exact = torch.nn.GRU(size, size, dtype=torch.float64)
            exact.load_state_dict(peer.state_dict())
            wanted = exact(x.double())[0].numpy()
            of_torch = peer(x)[0].numpy()
        ours = gru_xp.GRU(size, size).eval()
        ours.load_state_dict(peer.state_dict())
        error, allowed = (
            np.sqrt(np.mean((each - wanted) ** 2)) for each in (ours(x.numpy())[0], of_torch)
        )
        assert error <= allowed, (error, allowed)
