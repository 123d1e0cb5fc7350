"""NumPy's accelerator: which bits a row has depends on that row alone.

Neither on the number of threads, nor on the rows beside it and what they hold, nor on how many
steps are computed in one call.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import gru_xp
from tests.native import (
    DTYPES,
    Case,
    Results,
    assert_same_bits,
    draw_case,
    rows_of,
    rows_of_results,
    run,
    train_cell,
    train_layer,
)

THREADS = (2, 3, 4)

# T, N, H by the way that backends/numpy/src/plan.hpp shares the work: it does from 5e6 operations
# on, 6 N H^2 a step.
SHARED = {
    "not": (3, 4, 20),
    "by rows": (12, 40, 64),
    "by rows, in whole tiles": (6, 70, 64),
    "by few rows": (400, 5, 33),
    "by rows, fewer than threads": (800, 2, 33),
    "by columns": (14, 7, 167),
    "by columns, as the weights outgrow a cache": (3, 20, 301),
    "by columns, unpacked as they are used once": (1, 1, 950),
}
# M, K, N and the order of the first matrix, which is interleaved unless it is C.
PRODUCTS = {
    "not": (5, 20, 30, "C"),
    "by rows": (300, 170, 130, "C"),
    "by rows, interleaved": (300, 170, 130, "F"),
    "by columns": (40, 600, 300, "C"),
    "by columns, unpacked as they are used once": (1, 1700, 1600, "C"),
    "of one term": (1700, 1, 1600, "C"),
    "by columns, interleaved": (150, 600, 130, "F"),
    "by rows, interleaved in parts": (2100, 40, 70, "F"),
}


def draw_product(rows: int, depth: int, columns: int, order: str, dtype: str) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    a = np.array(rng.normal(size=(rows, depth)), dtype, order=order)  # type: ignore[call-overload]
    b = np.array(rng.normal(size=(depth, columns)), dtype)
    return a, b, rng.normal(size=columns).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("way", SHARED)
def test_the_recurrence_has_the_same_bits_for_any_number_of_threads(
    isa: str, native: Any, way: str, reverse: bool, reset_after: bool, dtype: str
) -> None:
    import gru_xp_numpy

    # Rows of different lengths too, where that makes no share empty.
    options = {"ragged": reverse, "reverse": reverse, "reset_after": reset_after}
    case = draw_case(*SHARED[way], dtype, **options)  # type: ignore[arg-type]
    gru_xp.set_num_threads(1)
    alone = run(gru_xp_numpy, case)
    for count in (*THREADS, 4):  # the last one once more: the same on every run
        gru_xp.set_num_threads(count)
        assert_same_bits(run(gru_xp_numpy, case), alone)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", PRODUCTS)
def test_products_have_the_same_bits_for_any_number_of_threads(
    isa: str, native: Any, way: str, dtype: str
) -> None:
    arguments = draw_product(*PRODUCTS[way], dtype)
    gru_xp.set_num_threads(1)
    alone = native.matmul(*arguments)
    for count in (*THREADS, 4):
        gru_xp.set_num_threads(count)
        assert_same_bits({"product": native.matmul(*arguments)}, {"product": alone})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "rows"), [(20, 3), (256, 1), (300, 1), (300, 6)])
def test_a_cell_has_the_same_bits_for_any_number_of_threads(
    isa: str, native: Any, size: int, rows: int, dtype: str
) -> None:
    cell = gru_xp.GRUCell(size, size, dtype=dtype, rng=0)
    gru_xp.set_num_threads(1)
    alone = train_cell(cell, rows)
    for count in (*THREADS, 4):
        gru_xp.set_num_threads(count)
        assert_same_bits(train_cell(cell, rows), alone)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_layer_has_the_same_bits_for_any_number_of_threads(
    isa: str, native: Any, dtype: str
) -> None:
    gru = gru_xp.GRU(70, 64, 2, bidirectional=True, dtype=dtype, rng=0)
    gru_xp.set_num_threads(1)
    alone = train_layer(gru, 12, 40)
    for count in (*THREADS, 4):
        gru_xp.set_num_threads(count)
        assert_same_bits(train_layer(gru, 12, 40), alone)


@cache
def batch_of(size: int, dtype: str, reverse: bool) -> Case:
    return draw_case(3, 40, size, dtype, reverse=reverse)


@cache
def alone(isa: str, size: int, dtype: str, reverse: bool, row: int) -> Results:
    """A row of that batch in one of its own."""
    import gru_xp_numpy

    return run(gru_xp_numpy, rows_of(batch_of(size, dtype, reverse), [row]))


# A size of more terms than one chain of a sum has, 512, besides a small one
BATCHES = [*((rows, 19) for rows in range(2, 41)), *((rows, 530) for rows in (2, 3, 4, 5, 8, 9))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "size"), BATCHES)
def test_a_row_has_the_same_bits_at_every_place_of_any_batch(
    isa: str, native: Any, rows: int, size: int, dtype: str
) -> None:
    import gru_xp_numpy

    reverse = rows % 2 == 1
    chosen = (np.arange(rows) + rows) % 40  # which row of the batch is at which place
    got = run(gru_xp_numpy, rows_of(batch_of(size, dtype, reverse), chosen))
    for place, row in enumerate(chosen):
        wanted = alone(isa, size, dtype, reverse, int(row))
        assert_same_bits(rows_of_results(got, [place]), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [*range(1, 40), 171, 256, 257, 530])
def test_a_row_of_one_step_has_the_same_bits_alone(
    isa: str, native: Any, size: int, dtype: str
) -> None:
    """Alone its weights are used once, and not packed."""
    import gru_xp_numpy

    batch = draw_case(1, 3, size, dtype)
    together = run(gru_xp_numpy, batch)
    for row in range(3):
        alone = run(gru_xp_numpy, rows_of(batch, [row]))
        assert_same_bits(alone, rows_of_results(together, [row]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("way", PRODUCTS)
def test_a_row_of_a_product_has_the_same_bits_alone(
    isa: str, native: Any, way: str, order: str, dtype: str
) -> None:
    a, b, bias = draw_product(*PRODUCTS[way], dtype)
    b = np.array(b, order=order)  # type: ignore[call-overload]
    whole = native.matmul(a, b, bias)
    for row in {0, 1, 4, len(a) // 2, len(a) - 1}:
        got = native.matmul(a[row : row + 1], b, bias)
        assert_same_bits({"row": got}, {"row": whole[row : row + 1]})
    column = b.shape[1] - 2
    got = native.matmul(a, b[:, column : column + 1], bias[column : column + 1])
    assert_same_bits({"column": got}, {"column": whole[:, column : column + 1]})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("poison", ["nan", "inf", "largest"])
@pytest.mark.parametrize("rows", [2, 3, 5, 8, 11, 17])
def test_what_other_rows_hold_never_matters(
    isa: str, native: Any, rows: int, poison: str, dtype: str
) -> None:
    import gru_xp_numpy

    case = draw_case(4, rows, 19, dtype)
    value = np.finfo(dtype).max if poison == "largest" else float(poison)
    mine = rows // 2
    poisoned = [each.copy() for each in (case.gx, case.h0, case.dh, case.dh_last)]
    for array in poisoned:
        kept = array[..., mine, :].copy()
        array[...] = value
        array[..., mine, :] = kept
    gx, h0, dh, dh_last = poisoned
    got = run(gru_xp_numpy, case._replace(gx=gx, h0=h0, dh=dh, dh_last=dh_last))
    clean = run(gru_xp_numpy, case)
    assert_same_bits(rows_of_results(got, [mine]), rows_of_results(clean, [mine]))
    weight, bias = case.weight_hh.T, case.gx[0, 0]
    product, wanted = (native.matmul(each, weight, bias)[mine] for each in (h0, case.h0))
    assert_same_bits({"product": product}, {"product": wanted})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("first", [0, 1, 2, 5, 6])
@pytest.mark.parametrize("shape", [(6, 5, 19), (400, 4, 33)])  # of one share, and of several
def test_a_sequence_in_two_calls_has_the_bits_of_one(
    isa: str, native: Any, shape: tuple[int, ...], first: int, reverse: bool, dtype: str
) -> None:
    import gru_xp_numpy

    gru_xp.set_num_threads(3)
    whole = draw_case(*shape, dtype, reverse=reverse)
    steps = len(whole.gx)
    early, late = slice(0, first), slice(first, steps)  # in the order in which they run
    if reverse:
        early, late = slice(steps - first, steps), slice(0, steps - first)
    end = 0 if reverse else -1
    wanted = run(gru_xp_numpy, whole)

    begun = whole._replace(gx=whole.gx[early], dh=whole.dh[early])
    h = run(gru_xp_numpy, begun)["h"]
    middle = h[end] if first else whole.h0
    got_late = run(gru_xp_numpy, whole._replace(gx=whole.gx[late], dh=whole.dh[late], h0=middle))
    got_early = run(gru_xp_numpy, begun._replace(dh_last=got_late["dh0"]))
    parts = (got_late, got_early) if reverse else (got_early, got_late)
    got = {name: np.concatenate([each[name] for each in parts]) for name in wanted}
    got["dh0"] = got_early["dh0"]
    assert_same_bits(got, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [None, 1, 2, 5, 9])
@pytest.mark.parametrize(("inputs", "size"), [(5, 19), (7, 16), (300, 300), (530, 17), (9, 530)])
def test_layer_stream_and_cell_have_the_same_bits(
    isa: str, native: Any, inputs: int, size: int, rows: int | None, bias: bool, dtype: str
) -> None:
    """In eval, where the cell's step is its own way through the accelerator."""
    gru_xp.set_num_threads(2)
    gru = gru_xp.GRU(inputs, size, bias=bias, dtype=dtype, rng=0).eval()
    cell = gru_xp.GRUCell(inputs, size, bias, dtype=dtype).eval()
    cell.load_state_dict({name: gru.state_dict()[f"{name}_l0"] for name in cell.parameters()})
    batch = () if rows is None else (rows,)
    x = np.random.default_rng(0).normal(size=(7, *batch, inputs)).astype(dtype)
    wanted = gru(x)[0]

    stream, chunks = gru.stream(), gru.stream()
    states: list[Any] = [None]
    for sample in x:
        states.append(cell(sample, states[-1]))
    trained = gru.train()(x)[0]
    got = {
        "steps of a cell": np.stack(states[1:]),
        "steps of a stream": np.stack([stream.step(sample) for sample in x]),
        "chunks of a stream": np.concatenate([chunks(x[:1]), chunks(x[1:5]), chunks(x[5:])]),
        "training": trained,
        "a cell in training": np.stack(
            [cell.train()(sample, h) for sample, h in zip(x, states[:-1], strict=True)]
        ),
    }
    assert_same_bits(got, dict.fromkeys(got, wanted))
