"""What the tests of NumPy's accelerator share: random inputs, whole calls, comparisons."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

import gru_xp
from gru_xp.arrays.place import Place
from gru_xp.core import portable
from gru_xp.core.loop import Loop

PLACE = Place.named("numpy")
PORTABLE = SimpleNamespace(
    forward=partial(portable.forward, place=PLACE), backward=partial(portable.backward, place=PLACE)
)
DTYPES = ("float32", "float64")

Results = dict[str, np.ndarray[Any, Any]]


class Case(NamedTuple):
    """Arguments of the recurrence, forward and backward."""

    gx: Any
    h0: Any
    weight_hh: Any
    b_hn: Any
    dh: Any
    dh_last: Any
    lengths: Any = None
    reverse: bool = False
    reset_after: bool = True

    @property
    def loop(self) -> Loop:
        """What the recurrence is to run."""
        return Loop(lengths=self.lengths, reverse=self.reverse, reset_after=self.reset_after)


def draw_case(
    steps: int,
    rows: int,
    size: int,
    dtype: str,
    *,
    seed: int = 0,
    ragged: bool = False,
    reverse: bool = False,
    bias: bool = True,
    with_last: bool = True,
    reset_after: bool = True,
) -> Case:
    """Random arguments; with `ragged`, lengths from 0 to T, and NaN in the padding of gx.

    Where the reset gate acts before the product there is no bias in the loop.
    """
    rng = np.random.default_rng([seed, steps, rows, size])

    def draw(*shape: int) -> Any:
        return rng.normal(size=shape).astype(dtype)

    gx, lengths = draw(steps, rows, 3 * size), None
    if ragged:
        lengths = np.arange(rows) % (steps + 1)
        gx[np.arange(steps)[:, None] >= lengths] = np.nan
    bound = 1 / np.sqrt(size)
    return Case(
        gx,
        draw(rows, size),
        rng.uniform(-bound, bound, (3 * size, size)).astype(dtype),
        draw(size) if bias and reset_after else None,
        draw(steps, rows, size),
        draw(rows, size) if with_last else None,
        lengths,
        reverse,
        reset_after,
    )


def run(functions: Any, case: Case) -> Results:
    """States, tape and gradients by the pair of functions of a module."""
    h, tape = functions.forward(
        case.gx, case.h0, case.weight_hh, case.b_hn, case.loop, keep_tape=True
    )
    back = functions.backward(case.dh, case.dh_last, tape, case.weight_hh, case.loop)
    gates = {name: array for name, array in tape._asdict().items() if array is not None}
    assert ("gh_n" in gates) == case.reset_after
    if case.lengths is not None:  # in padding the gates mean nothing
        valid = np.arange(len(case.gx))[:, None, None] < case.lengths[:, None]
        for name in gates.keys() - {"h_prev"}:
            gates[name] = np.where(valid, gates[name], gates[name].dtype.type(0))
    return {"h": h, **gates, **dict(zip(("dgx", "dgh_n", "dh0"), back, strict=True))}


def rows_of(case: Case, rows: Any) -> Case:
    """Take some of the rows, in an order, into a batch of their own."""
    return case._replace(
        gx=case.gx[:, rows],
        h0=case.h0[rows],
        dh=case.dh[:, rows],
        dh_last=case.dh_last[rows],
        lengths=None if case.lengths is None else case.lengths[rows],
    )


def rows_of_results(results: Results, rows: Any) -> Results:
    """Take some rows of what `run` returned."""
    return {
        name: array[rows] if name == "dh0" else array[:, rows] for name, array in results.items()
    }


def train_layer(gru: gru_xp.GRU, steps: int, rows: int, seed: int = 0) -> Results:
    """Outputs of a GRU and all of its gradients."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Any:
        return rng.normal(size=shape).astype(gru.dtype)

    y, h_n = gru(draw(steps, rows, gru.input_size))
    dx, dh0 = gru.backward(draw(*y.shape), draw(*h_n.shape))
    return {"y": y, "h_n": h_n, "dx": dx, "dh0": dh0, **gru.gradients()}


def train_cell(cell: gru_xp.GRUCell, rows: int, seed: int = 0) -> Results:
    """State after a step of a GRUCell, in eval and in training, and all of its gradients."""
    rng = np.random.default_rng(seed)

    def draw(width: int) -> Any:
        return rng.normal(size=(rows, width)).astype(cell.dtype)

    x, h = draw(cell.input_size), draw(cell.hidden_size)
    quick = cell.eval()(x, h)
    h_t = cell.train()(x, h)
    dx, dh = cell.backward(draw(cell.hidden_size))
    return {"quick": quick, "h_t": h_t, "dx": dx, "dh": dh, **cell.gradients()}


def assert_same_bits(got: Results, wanted: Results) -> None:
    """Compare names, shapes, dtypes and every bit, those of NaN too."""
    assert list(got) == list(wanted)
    for name, array in wanted.items():
        assert got[name].shape == array.shape, name
        assert got[name].dtype == array.dtype, name
        if got[name].tobytes() != array.tobytes():
            np.testing.assert_array_equal(got[name], array, name)
            raise AssertionError(f"{name}: equal numbers of different bits")


def assert_close(got: Results, wanted: Results) -> None:
    """Compare as tests/test_recurrence.py does, NaN in the same places."""
    assert list(got) == list(wanted)
    for name, array in wanted.items():
        assert got[name].shape == array.shape, name
        assert got[name].dtype == array.dtype, name
        finite = np.abs(array[np.isfinite(array)])
        atol = 64 * np.finfo(array.dtype).eps * max(1.0, float(finite.max(initial=0.0)))
        np.testing.assert_allclose(got[name], array, rtol=0, atol=atol, err_msg=name)
