"""NumPy's accelerator against the portable loop and NumPy's own products, on awkward sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp.core import recurrence
from tests.native import (
    DTYPES,
    PLACE,
    PORTABLE,
    Case,
    assert_close,
    assert_same_bits,
    draw_case,
    run,
    train_cell,
    train_layer,
)

# Around the tiles (1 to 8 rows) and the vectors (4, 8 or 16 of float32, half as many of float64).
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 17)
SIZES = (1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 65)
DEPTHS = (63, 64, 65, 129, 511, 513, 1025)  # around the 64 terms that one chain of a sum has


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rows", ROWS)
def test_the_recurrence_equals_the_portable_one_at_every_edge(
    isa: str, native: Any, rows: int, size: int, dtype: str, reset_after: bool
) -> None:
    import gru_xp_numpy

    options = {"ragged": rows % 2 == 0, "reverse": size % 2 == 0, "reset_after": reset_after}
    case = draw_case(5, rows, size, dtype, **options)  # type: ignore[arg-type]
    assert_close(run(gru_xp_numpy, case), run(PORTABLE, case))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_last", [True, False])
@pytest.mark.parametrize("form", ["bias", "no bias", "reset before"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(("steps", "rows"), [(0, 3), (4, 0), (0, 0), (1, 3), (2, 3), (5, 6)])
def test_every_option_equals_the_portable_loop(
    isa: str,
    native: Any,
    steps: int,
    rows: int,
    ragged: bool,
    reverse: bool,
    form: str,
    with_last: bool,
    dtype: str,
) -> None:
    import gru_xp_numpy

    options = {"ragged": ragged, "reverse": reverse, "with_last": with_last}
    options |= {"bias": form == "bias", "reset_after": form != "reset before"}
    case = draw_case(steps, rows, 19, dtype, **options)  # type: ignore[arg-type]
    got = run(gru_xp_numpy, case)
    assert_close(got, run(PORTABLE, case))
    h, none = gru_xp_numpy.forward(*case[:4], case.loop, keep_tape=False)
    assert none is None
    assert_same_bits({"h": h}, {"h": got["h"]})


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depth", DEPTHS)
def test_the_recurrence_equals_the_portable_one_across_chains_and_blocks_of_a_sum(
    isa: str, native: Any, depth: int, dtype: str, reset_after: bool
) -> None:
    import gru_xp_numpy

    case = draw_case(2, 3, depth, dtype, reset_after=reset_after)
    assert_close(run(gru_xp_numpy, case), run(PORTABLE, case))


LAYERS = [(inputs, 17, 3, 5) for inputs in SIZES]
LAYERS += [(inputs, 9, 2, 3) for inputs in DEPTHS]
LAYERS += [(3, 5, steps, rows) for steps, rows in ((511, 1), (64, 8), (171, 3), (205, 5))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("inputs", "size", "steps", "rows"), LAYERS)
def test_outputs_and_gradients_of_a_layer_equal_the_portable_ones(
    isa: str, native: Any, inputs: int, size: int, steps: int, rows: int, dtype: str
) -> None:
    gru = gru_xp.GRU(inputs, size, bidirectional=True, dtype=dtype, rng=0)
    got = train_layer(gru, steps, rows)
    with gru_xp.use_accelerators(False):
        wanted = train_layer(gru, steps, rows)
    assert_close(got, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["bias", "no bias", "reset before"])
@pytest.mark.parametrize(
    ("rows", "inputs", "size"),
    [
        *((rows, *size) for rows in (0, 1, 2, 4, 9) for size in ((1, 1), (5, 7), (17, 16))),
        (1, 513, 65),
        (3, 33, 511),
    ],
)
def test_a_cell_equals_the_portable_one(
    isa: str, native: Any, rows: int, inputs: int, size: int, form: str, dtype: str
) -> None:
    cell = gru_xp.GRUCell(
        inputs, size, form != "no bias", reset_after=form != "reset before", dtype=dtype, rng=0
    )
    got = train_cell(cell, rows)
    with gru_xp.use_accelerators(False):
        wanted = train_cell(cell, rows)
    assert_close(got, wanted)


def misaligned(array: Any) -> Any:
    """Lay an array where no number of its kind should begin."""
    held = np.empty(array.nbytes + 1, np.uint8)[1:]
    held[...] = np.frombuffer(array.tobytes(), np.uint8)
    return held.view(array.dtype).reshape(array.shape)


def strided(array: Any) -> Any:
    """Lay an array in every second place of every axis of a larger one of NaN."""
    fill = 77 if array.dtype.kind == "i" else np.nan
    wide = np.full([2 * length for length in array.shape], fill, array.dtype)
    every_second = (slice(None, None, 2),) * array.ndim
    wide[every_second] = array
    return wide[every_second]


def read_only(array: Any) -> Any:
    held = array.copy()
    held.flags.writeable = False
    return held


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "read-only": read_only,
    "Fortran's order": np.asfortranarray,
    "strided": strided,
    "reversed": lambda array: np.flip(np.flip(array).copy()),
    "misaligned": misaligned,
    "repeated by a stride of 0": lambda array: np.broadcast_to(array[:1], array.shape),
    "repeated number": lambda array: np.broadcast_to(array.ravel()[0], array.shape),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_bits_of_a_contiguous_array(
    isa: str, native: Any, layout: str, ragged: bool, dtype: str
) -> None:
    import gru_xp_numpy

    drawn = draw_case(4, 3, 19, dtype, ragged=ragged)
    laid = Case(*(each if each is None else LAYOUTS[layout](each) for each in drawn[:7]))
    plain = Case(*(each if each is None else np.array(each, order="C") for each in laid[:7]))
    got = run(relaid(gru_xp_numpy, LAYOUTS[layout]), laid)
    wanted = run(relaid(gru_xp_numpy, lambda tape: np.array(LAYOUTS[layout](tape))), plain)
    assert_same_bits(got, wanted)
    for one, other in zip(laid[:7], plain[:7], strict=True):  # no argument has changed
        np.testing.assert_array_equal(one, other)


def relaid(module: Any, layout: Callable[[Any], Any]) -> Any:
    """Run a module's functions with the tape laid out anew in between."""

    class Relaid:
        backward = module.backward

        @staticmethod
        def forward(*arguments: Any, **options: Any) -> Any:
            h, tape = module.forward(*arguments, **options)
            laid = type(tape)(*(layout(each) for each in tape))
            return h, laid

    return Relaid


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_other_byte_order_gives_the_values_of_the_machines(native: Any, dtype: str) -> None:
    import gru_xp_numpy

    case = draw_case(4, 3, 19, dtype)
    swapped = Case(*(each.astype(each.dtype.newbyteorder()) for each in case[:6]))
    assert gru_xp_numpy.forward(*swapped[:4], case.loop, keep_tape=True) is NotImplemented
    for place in range(4):
        arrays = list(case[:4])
        arrays[place] = swapped[place]
        h, _ = recurrence.forward(*arrays, case.loop, keep_tape=True, place=PLACE)
        np.testing.assert_allclose(
            h, run(PORTABLE, case)["h"], rtol=0, atol=64 * np.finfo(dtype).eps
        )


@pytest.mark.parametrize("kind", ["int8", "int32", "uint64", ">i4"])
def test_lengths_of_every_integer_dtype(native: Any, kind: str) -> None:
    import gru_xp_numpy

    case = draw_case(4, 6, 5, "float64", ragged=True)
    got = run(gru_xp_numpy, case._replace(lengths=case.lengths.astype(kind)))
    assert_same_bits(got, run(gru_xp_numpy, case))


PLACES = ("gx", "h0", "weight_hh", "b_hn", "dh", "dh_last")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", PLACES)
def test_nan_and_infinities_spread_as_in_the_portable_loop(
    isa: str, native: Any, place: str, value: float, dtype: str
) -> None:
    import gru_xp_numpy

    case = draw_case(3, 6, 19, dtype)
    array = getattr(case, place).copy()
    array.flat[array.size // 2] = value
    case = case._replace(**{place: array})
    with np.errstate(invalid="ignore"):
        wanted = run(PORTABLE, case)
    if np.isnan(value):  # an infinity may saturate a gate, and go no further
        assert any(np.isnan(each).any() for each in wanted.values())
    assert_close(run(gru_xp_numpy, case), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3])
def test_weights_that_are_not_finite_stay_out_of_empty_rows_of_one_step(
    isa: str, native: Any, rows: int, dtype: str
) -> None:
    """One row alone goes a way of its own."""
    import gru_xp_numpy

    case = draw_case(1, rows, 19, dtype)
    lengths, weight_hh = np.zeros(rows, np.int64), np.full_like(case.weight_hh, np.inf)
    got = run(gru_xp_numpy, case._replace(lengths=lengths, weight_hh=weight_hh))
    wanted = case.dh[0] + case.dh_last
    np.testing.assert_allclose(got["dh0"], wanted, rtol=4 * np.finfo(dtype).eps)
