"""NumPy's accelerator: its tanh and sigmoid, and which calls it leaves to the portable loop."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp.core import recurrence
from gru_xp.core.loop import PLAIN, Loop
from gru_xp.core.products import matmul
from tests.native import DTYPES, PLACE, PORTABLE, Case, assert_same_bits, draw_case, run

Floats = np.ndarray[Any, np.dtype[np.float32]]

EXHAUSTIVE = os.environ.get("GRU_XP_EXHAUSTIVE", "0") != "0"
CHUNK = 1 << 22
INFINITY = int(np.float32(np.inf).view(np.uint32))
TEN = int(np.float32(10).view(np.uint32))
# Half way between two multiples of ln(2) / 2, where the reduction of the argument is at its widest.
EDGES = [(k + 0.5) * np.log(2) / 2 for k in range(57)]


def between(start: int, stop: int, every: int) -> Iterator[Floats]:
    """Every so many floats from the one with the bits `start` on, in chunks."""
    for first in range(start, stop, CHUNK * every):
        bits = np.arange(first, min(first + CHUNK * every, stop), every, dtype=np.uint32)
        yield bits.view(np.float32)


def delicate() -> Iterator[Floats]:
    """All floats around 0, around the edges of the reduction, and where tanh becomes 1."""
    yield from between(0, 1 << 16, 1)
    for edge in EDGES[:28]:
        middle = int(np.float32(edge).view(np.uint32))
        yield from between(middle - (1 << 15), middle + (1 << 15), 1)
    yield from between(*(int(np.float32(x).view(np.uint32)) for x in (8.9, 9.6)), 1)


def error_in_ulp(got: Any, exact: Any, ulp: Any) -> float:
    return float(np.max(np.abs(got - exact) / ulp))


def ulp32(exact: Any) -> Any:
    """Distance of float32 numbers where `exact`, of float64, lies."""
    powers = (np.abs(exact).view(np.uint64) & np.uint64(0x7FF0000000000000)).view(np.float64)
    return np.maximum(powers * 2.0**-23, 2.0**-149)


def test_tanh_of_float32_is_within_two_ulp(isa: str, native: Any) -> None:
    """Over every float with GRU_XP_EXHAUSTIVE=1, which takes minutes.

    Otherwise over every 64th, and over all where the reduction of the argument is at its widest,
    around zero and around 9, where tanh becomes 1.
    """
    every = 1 if EXHAUSTIVE else 64
    for x in between(TEN, INFINITY, every):
        assert (native.tanh(x) == 1).all()
        assert (native.tanh(-x) == -1).all()
    chunks = [between(0, TEN, every), *([] if EXHAUSTIVE else [delicate()])]
    for x in (x for each in chunks for x in each):
        exact = np.tanh(x.astype(np.float64))
        ulp = ulp32(exact)
        for sign in (1, -1):
            assert error_in_ulp(native.tanh(sign * x), sign * exact, ulp) <= 2


def test_sigmoid_of_float32_is_within_rounding_of_one(isa: str, native: Any) -> None:
    """Over every float with GRU_XP_EXHAUSTIVE=1, otherwise over every 1024th."""
    for x in between(0, INFINITY, 1 if EXHAUSTIVE else 1024):
        exact = 1 / (1 + np.exp(-x.astype(np.float64)))
        for got, wanted in ((native.sigmoid(x), exact), (native.sigmoid(-x), 1 - exact)):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1.2e-7)
            assert (got >= 0).all()
            assert (got <= 1).all()


def doubles() -> Any:
    """Draw both signs: all magnitudes, all of [0, 20], and around the edges of the reduction."""
    rng = np.random.default_rng(0)
    near = np.array(EDGES).view(np.int64)[:, None] + np.arange(-1024, 1024)
    x = np.concatenate(
        [
            np.ldexp(rng.uniform(0.5, 1, 1 << 19), rng.integers(-1074, 1024, 1 << 19)),
            rng.uniform(0, 20, 1 << 20),
            rng.uniform(0, 0.5, 1 << 18),
            near.view(np.float64).ravel(),
        ]
    )
    return np.concatenate([x, -x])


@pytest.mark.skipif(
    np.finfo(np.longdouble).nmant <= 52, reason="longdouble, the oracle, is no wider than float64"
)
def test_float64_is_within_four_ulp(isa: str, native: Any) -> None:
    x = doubles()
    exact = np.tanh(x.astype(np.longdouble))
    ulp = np.maximum(np.ldexp(1.0, np.frexp(exact.astype(np.float64))[1] - 53), 2.0**-1074)
    assert error_in_ulp(native.tanh(x), exact, ulp) <= 4
    sigmoid = 0.5 * np.tanh(0.5 * x.astype(np.longdouble)) + 0.5
    assert error_in_ulp(native.sigmoid(x), sigmoid, 1.0) <= 4.5e-16


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_and_infinities_saturate(isa: str, native: Any, dtype: str) -> None:
    largest = np.finfo(dtype).max
    x = np.array([np.nan, np.inf, -np.inf, largest, -largest, 0], dtype)
    np.testing.assert_array_equal(native.tanh(x), np.array([np.nan, 1, -1, 1, -1, 0], dtype))
    np.testing.assert_array_equal(native.sigmoid(x), np.array([np.nan, 1, 0, 1, 0, 0.5], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", ["tanh", "sigmoid"])
def test_a_number_alone_has_the_bits_that_it_has_in_an_array(
    isa: str, native: Any, function: str, dtype: str
) -> None:
    x = np.random.default_rng(0).normal(size=43).astype(dtype)
    apply = getattr(native, function)
    alone = np.concatenate([apply(x[i : i + 1]) for i in range(len(x))])
    assert_same_bits({"alone": alone}, {"alone": apply(x)})


def forward(functions: Any, case: Case, loop: Loop = PLAIN) -> Any:
    return functions.forward(case.gx, case.h0, case.weight_hh, case.b_hn, loop, keep_tape=True)


@pytest.mark.parametrize("dtype", ["float16", "longdouble"])
def test_other_dtypes_are_left_to_the_portable_loop(native: Any, dtype: str) -> None:
    case = draw_case(3, 2, 4, dtype)
    assert forward(native_module(), case) is NotImplemented
    _, tape = forward(PORTABLE, case)
    back = (case.dh, case.dh_last, tape, case.weight_hh, PLAIN)
    assert native_module().backward(*back) is NotImplemented
    assert native_module().matmul(case.h0, case.weight_hh.T) is NotImplemented
    got, wanted = run(through_the_package(), case), run(PORTABLE, case)
    got["product"] = matmul(case.h0, case.weight_hh.T, case.gx[0, 0], place=PLACE)
    wanted["product"] = case.h0 @ case.weight_hh.T + case.gx[0, 0]
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array, name)


@pytest.mark.parametrize("dtype", ["object", "int64", "complex64"])
def test_what_is_no_real_number_is_declined(native: Any, dtype: str) -> None:
    case = draw_case(3, 2, 4, dtype if dtype != "int64" else "float64")
    case = Case(*(each.astype(dtype) for each in case[:6]))
    assert forward(native_module(), case) is NotImplemented
    assert native_module().matmul(case.h0, case.weight_hh.T) is NotImplemented
    x = case.h0[:, :1]
    args = (x, case.h0, case.weight_hh[:, :1], case.weight_hh, None, None)
    assert native_module().step(*args) is NotImplemented


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_mixed_dtypes_are_left_to_the_portable_loop(native: Any, place: int) -> None:
    case = draw_case(3, 2, 4, "float64")
    arguments = list(case)
    arguments[place] = arguments[place].astype(np.float32)
    mixed = Case(*arguments)
    assert forward(native_module(), mixed) is NotImplemented
    got, wanted = (forward(each, mixed)[0] for each in (through_the_package(), PORTABLE))
    assert_same_bits({"h": got}, {"h": wanted})


@pytest.mark.parametrize("place", range(8))
def test_a_backward_of_mixed_dtypes_is_declined(native: Any, place: int) -> None:
    case = draw_case(3, 2, 4, "float64")
    _, tape = forward(native_module(), case)
    arrays = [case.dh, case.dh_last, *tape, case.weight_hh]
    arrays[place] = arrays[place].astype(np.float32)
    dh, dh_last, *tape_arrays, weight_hh = arrays
    back = (dh, dh_last, type(tape)(*tape_arrays), weight_hh, PLAIN)
    assert native_module().backward(*back) is NotImplemented


STEPS = {
    "x of another dtype": lambda x, h: (x.astype(np.float32), h),
    "integers": lambda x, h: (x.astype(np.int64), h),
    "h of another dtype": lambda x, h: (x, h.astype(np.float16)),
    "x strided": lambda x, h: (np.repeat(x, 2, axis=1)[:, ::2], h),
    "h in Fortran's order": lambda x, h: (x, np.asfortranarray(h)),
    "other byte order": lambda x, h: (x.astype(x.dtype.newbyteorder()), h),
}


@pytest.mark.parametrize("kind", STEPS)
def test_a_step_with_unusual_arguments_equals_the_portable_one(native: Any, kind: str) -> None:
    cell = gru_xp.GRUCell(5, 4, dtype="float64", rng=0).eval()
    rng = np.random.default_rng(0)
    x, h = STEPS[kind](3 * rng.normal(size=(3, 5)), rng.normal(size=(3, 4)))
    assert native_module().step(x, h, *cell.params) is NotImplemented
    got = cell(x, h)
    with gru_xp.use_accelerators(False):
        wanted = cell(x, h)
    assert got.dtype == wanted.dtype
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-14)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("place", ["x", "h"])
def test_a_step_of_matrices_gets_the_portable_paths_error(native: Any, place: str) -> None:
    """They are arrays to NumPy, with a product of their own, but none to the package."""
    cell = gru_xp.GRUCell(5, 4, dtype="float64", rng=0).eval()
    arrays = {"x": np.ones((3, 5)), "h": np.ones((3, 4))}
    arrays[place] = np.asmatrix(arrays[place])
    for enabled in (True, False):
        with gru_xp.use_accelerators(enabled), pytest.raises(TypeError, match="got matrix"):
            cell(*arrays.values())


@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((3, 5), (2, 4)), ((5,), (3, 4)), ((), (4,))])
def test_a_step_of_wrong_shapes_gets_the_portable_paths_error(native: Any, shapes: Any) -> None:
    cell = gru_xp.GRUCell(5, 4, dtype="float64", rng=0).eval()
    x, h = (np.ones(shape) for shape in shapes)
    with pytest.raises(ValueError, match="GRUCell") as got:
        cell(x, h)
    with gru_xp.use_accelerators(False), pytest.raises(ValueError, match="GRUCell") as wanted:
        cell(x, h)
    assert str(got.value) == str(wanted.value)


def native_module() -> Any:
    import gru_xp_numpy

    return gru_xp_numpy


class through_the_package:  # noqa: N801
    """The recurrence as the package calls it, accelerator first."""

    @staticmethod
    def forward(*arguments: Any, **options: Any) -> Any:
        return recurrence.forward(*arguments, **options, place=PLACE)

    @staticmethod
    def backward(*arguments: Any, **options: Any) -> Any:
        return recurrence.backward(*arguments, **options, place=PLACE)
