"""CuPy's accelerator, run on the CPU, computes what the portable loop computes."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

from gru_xp.arrays.place import Place
from gru_xp.core import equations, portable
from gru_xp.core.loop import Loop
from gru_xp.core.tape import Tape
from tests.cuda import Machine

if TYPE_CHECKING:
    from gru_xp_cupy.plan import Plan

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
# Roundings of the numbers, or of the products' factors where these are rounded further.
TOLERANCE = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-6, "float64": 2e-15, "tf32": 2e-3}
# T, N, H around the edges: 8 columns and 1 to 16 rows of a tile, 16 or 32 terms of a block, 16
# units of one of the 4 multiprocessors, 8 warps.
SIZES = [(1, 1, 8), (4, 3, 24), (3, 8, 40), (2, 16, 64), (3, 17, 72), (2, 35, 136)]
EXACT = Place.named("numpy", dtype="float64")
ORDERS = (0, 1)  # blocks side by side, and one after another


class Case(NamedTuple):
    """Arguments of the recurrence, forward and backward."""

    forward: tuple[Any, ...]
    dh: Any
    dh_last: Any
    loop: Loop


def draw_case(
    size: tuple[int, int, int], dtype: str, *, ragged: bool = True, reverse: bool = False
) -> Case:
    steps, rows, hidden = size
    rng = np.random.default_rng(rows * hidden)

    def draw(*shape: int, scale: float = 0.5) -> Any:
        return rng.uniform(-scale, scale, shape).astype(DTYPES[dtype])

    lengths = rng.integers(0, steps + 1, rows) if ragged else None
    gx = draw(steps, rows, 3 * hidden)
    if lengths is not None:
        gx[np.arange(steps)[:, None] >= lengths] = np.nan  # what padding holds is never used
    weights = draw(3 * hidden, hidden, scale=hidden**-0.5)
    return Case(
        (gx, draw(rows, hidden), weights, draw(hidden)),
        draw(steps, rows, hidden),
        draw(rows, hidden),
        Loop(lengths=lengths, reverse=reverse),
    )


def exactly(case: Case, tape: Tape | None = None) -> tuple[Any, ...]:
    """Results in float64: h, tape, and the gradients that belong to `tape`, or else to its own."""
    arrays = [np.asarray(each, np.float64) for each in (*case.forward, case.dh, case.dh_last)]
    h, own = portable.forward(*arrays[:4], case.loop, keep_tape=True, place=EXACT)
    kept = own if tape is None else Tape(*(np.asarray(each, np.float64) for each in tape))
    assert own is not None
    assert kept is not None
    _, _, weight, _, dh, dh_last = arrays
    return h, own, *portable.backward(dh, dh_last, kept, weight, case.loop, place=EXACT)


def assert_close(got: Any, wanted: Any, tolerance: float) -> None:
    error = np.max(np.abs(np.asarray(got, np.float64) - wanted), initial=0)
    assert error <= tolerance * max(1, np.max(np.abs(wanted), initial=0))  # not NaN either


def check(path: Any, case: Case, tolerance: float) -> None:
    before = [np.array(each, copy=True) for each in (*case.forward, case.dh, case.dh_last)]
    h, tape = path.forward(*case.forward, case.loop, keep_tape=True)
    wanted_h, wanted_tape, *_ = exactly(case)
    assert_close(h, wanted_h, tolerance)
    valid = np.ones(h.shape[:2], bool)
    if case.loop.lengths is not None:
        valid = np.arange(len(h))[:, None] < case.loop.lengths
    for got, wanted in zip(tape, wanted_tape, strict=True):
        assert np.all(np.isfinite(got))
        assert_close(got[valid], wanted[valid], tolerance)
    gradients = path.backward(case.dh, case.dh_last, tape, case.forward[2], case.loop)
    for got, wanted in zip(gradients, exactly(case, tape)[2:], strict=True):
        assert got.dtype == case.dh.dtype
        assert_close(got, wanted, 4 * tolerance)
    for array, copy in zip((*case.forward, case.dh, case.dh_last), before, strict=True):
        assert array.tobytes() == copy.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_kernel_a_step_computes_the_recurrence(
    machine: Machine, size: tuple[int, int, int], reverse: bool, dtype: str
) -> None:
    from gru_xp_cupy import steps

    check(steps, draw_case(size, dtype, reverse=reverse), TOLERANCE[dtype])
    number = {"float16": "half", "float32": "float", "float64": "double"}.get(dtype, dtype)
    forward, backward = (f"{way}_gates {number}" for way in ("forward", "backward"))
    # The last one takes what is left to the initial state.
    assert machine.launched == [forward] * size[0] + [backward] * (size[0] + 1)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float32", "tf32"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_persistent_kernel_computes_the_recurrence(
    machine: Machine, size: tuple[int, int, int], reverse: bool, precision: str, order: int
) -> None:
    from gru_xp_cupy import persistent

    machine.tf32, machine.seed = precision == "tf32", order
    dtype = "float32" if machine.tf32 else precision
    check(persistent, draw_case(size, dtype, reverse=reverse), TOLERANCE[precision])
    tile = "Scalar" if precision == "float32" else "Tensor"
    forward, backward = machine.launched  # one launch each, whatever T is
    assert forward.startswith(f"persistent_forward {tile}<")
    assert backward.startswith(f"persistent_backward {tile}<")


@pytest.mark.parametrize("path", ["persistent", "steps"])
def test_a_length_may_need_64_bits(machine: Machine, path: str) -> None:
    """The lengths of arrays on a GPU are not checked: greater ones mean T, and negative ones 0."""
    kernels = importlib.import_module(f"gru_xp_cupy.{path}")
    case = draw_case((3, 35, 136), "float16", ragged=False)

    def run(greatest: int, least: int) -> list[bytes]:
        lengths = np.resize([greatest, least], 35)
        loop = replace(case.loop, lengths=lengths)
        h, tape = kernels.forward(*case.forward, loop, keep_tape=True)
        gradients = kernels.backward(case.dh, case.dh_last, tape, case.forward[2], loop)
        return [each.tobytes() for each in (h, *gradients)]

    assert run(2**32 + 1, 2 - 2**32) == run(3, 0)  # 1 and 2 in 32 bits


@pytest.mark.parametrize("shared", [227 << 10, 40 << 10], ids=["resident", "streamed"])
@pytest.mark.parametrize("precision", ["float16", "float32", "tf32"])
def test_every_layout_computes_the_recurrence(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, precision: str, shared: int
) -> None:
    from gru_xp_cupy import persistent
    from gru_xp_cupy.plan import Device, Problem, plans

    dtype = "float32" if precision == "tf32" else precision
    streamed = shared < 100 << 10
    rows, hidden = 50, 136
    machine.tf32 = precision == "tf32"
    device = Device(12, shared, 90)
    # Of each tile the layout in most groups of rows, with and without weights in registers.
    layouts = {
        gates: {
            (each.tile, each.held): each
            for each in plans(Problem(rows, hidden, precision, gates), device)
            if streamed == (each.streams or each.held > 0)
        }
        for gates in (3, 1)
    }
    forward, back = layouts.values()
    assert len(forward.keys() & back.keys()) >= 4
    assert any(each.streams for each in forward.values()) == streamed
    tensor = precision != "float32"  # whose tiles are so large that there are several splits
    assert (streamed and tensor) == any(each.slots < each.splits for each in forward.values())
    assert any(each.groups > 1 for each in forward.values())
    case = draw_case((3, rows, hidden), dtype)
    for key in forward.keys() & back.keys():
        lay_out(machine, monkeypatch, {3: forward[key], 1: back[key]})
        check(persistent, case, TOLERANCE[precision])


def lay_out(machine: Machine, monkeypatch: pytest.MonkeyPatch, layouts: dict[int, Plan]) -> None:
    """Make the forward (3 gates) and backward (1 gate) kernels use these layouts."""
    from gru_xp_cupy import persistent

    monkeypatch.setattr(persistent, "plan", lambda problem, _: layouts[problem.gates])
    persistent._launch_on.cache_clear()
    machine.blocks_at_once = max(each.blocks for each in layouts.values())


@pytest.mark.parametrize(
    ("rows", "precision", "tile"),
    [
        (33, "float16", "Tensor<half,1,1>"),
        (33, "tf32", "Tensor<float,1,2>"),
        (33, "tf32", "Tensor<float,4,1>"),
        (1, "float32", "Scalar<1>"),
    ],
)
def test_any_number_of_blocks_of_terms_is_read_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, rows: int, precision: str, tile: str
) -> None:
    check_streamed(machine, monkeypatch, rows, precision, tile)


def check_streamed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, rows: int, precision: str, tile: str
) -> None:
    """Test every number of blocks that are read again; the last buffer may be partly full."""
    from gru_xp_cupy import persistent

    machine.tf32 = precision == "tf32"
    case = draw_case((2, rows, 136), "float32" if machine.tf32 else precision)
    whole = shares(rows, 136, precision, tile, 4)[1].resident
    if whole < 6:  # not an assertion, as which a fault is found
        raise ValueError(f"{whole} blocks are too few")
    for resident in range(1, whole):
        layouts = shares(rows, 136, precision, tile, 4, resident=resident, streams=True)
        lay_out(machine, monkeypatch, layouts)
        check(persistent, case, TOLERANCE[precision])


@pytest.mark.parametrize(
    "layout",
    [
        (5, "float16", "Tensor<half,1,2>", 8, 18),
        (5, "float16", "Tensor<half,1,1>", 8, 12),
        (5, "bfloat16", "Tensor<bfloat16,1,1>", 8, 18),
        (16, "tf32", "Tensor<float,1,1>", 16, 18),
        (20, "tf32", "Tensor<float,1,1>", 16, 12),
        (1, "float32", "Scalar<1>", 16, 12),
        (3, "float32", "Scalar<1>", 32, 12),
    ],
)
def test_weights_may_stay_in_registers(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, layout: tuple[int, str, str, int, int]
) -> None:
    check_held(machine, monkeypatch, *layout)


def check_held(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
    precision: str,
    tile: str,
    multiprocessors: int,
    held: int,
) -> None:
    """With few blocks in shared memory, and with all that remain or nearly so."""
    from gru_xp_cupy import persistent

    machine.tf32 = precision == "tf32"
    case = draw_case((2, rows, 264), "float32" if machine.tf32 else precision)
    for resident in (1, 2, 3, 4, -2, -1, 0):
        layouts = shares(rows, 264, precision, tile, multiprocessors, resident=resident, held=held)
        lay_out(machine, monkeypatch, layouts)
        check(persistent, case, TOLERANCE[precision])


def shares(
    rows: int,
    hidden: int,
    precision: str,
    tile: str,
    multiprocessors: int,
    *,
    resident: int = 0,
    held: int = 0,
    streams: bool = False,
) -> dict[int, Plan]:
    """Return layouts of a tile in one group, with `resident` blocks of terms in shared memory.

    If `resident` is 0, all blocks that are not in registers are in shared memory; if it is
    negative, that many fewer are. If `streams`, at least one block is read again.
    """
    from gru_xp_cupy.plan import Device, Problem, plans

    device = Device(multiprocessors, 227 << 10, 90)
    found = {}
    for gates in (3, 1):
        problem = Problem(rows, hidden, precision, gates)
        layout = next(each for each in plans(problem, device) if each.tile == tile)
        across = int(tile.rpartition(",")[2].rstrip(">")) if "," in tile else 1
        most = layout.resident - held // (gates * across)
        if most < 2:
            raise ValueError(f"{layout.resident} blocks are too few")
        kept = min(resident if resident > 0 else max(1, most + resident), most - streams)
        early = 1 if held else layout.early
        found[gates] = layout._replace(resident=kept, held=held, streams=kept < most, early=early)
    return found


@pytest.mark.parametrize(("resident", "held"), [(0, 0), (2, 0), (0, 18)])
def test_tf32_rounds_the_weights_and_the_state_to_the_nearest(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, resident: int, held: int
) -> None:
    check_tf32(machine, monkeypatch, resident, held)


def check_tf32(machine: Machine, monkeypatch: pytest.MonkeyPatch, resident: int, held: int) -> None:
    """Check layouts with the given `resident` and `held`; see `shares`."""
    from gru_xp_cupy import persistent

    def rounded(array: Any) -> Any:
        bits = np.asarray(array, np.float32).view(np.uint32)
        return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)

    machine.tf32 = True
    layouts = shares(5, 136, "tf32", "Tensor<float,1,1>", 4, resident=resident, held=held)
    lay_out(machine, monkeypatch, layouts)
    case = draw_case((1, 5, 136), "float32", ragged=False)
    gx, h0, weight, b_hn = case.forward
    h, _ = persistent.forward(*case.forward, case.loop, keep_tape=True)
    # One step from a state of which only the product sees the rounded one.
    exact = [np.asarray(each, np.float64) for each in (gx[0], h0, b_hn)]
    product = rounded(h0).astype(np.float64) @ rounded(weight).astype(np.float64).T
    wanted, _ = equations.step(exact[0], product, exact[2], exact[1], xp=EXACT.xp)
    assert_close(h[0], wanted, 3e-7)
