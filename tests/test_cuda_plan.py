"""How the persistent kernel is laid out on devices, and the times that are expected of it."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from statistics import geometric_mean
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.cuda import Machine

if TYPE_CHECKING:
    from gru_xp_cupy.plan import Problem

HOPPER = (132, 227 << 10, 90)
TURING = (40, 64 << 10, 75)
RECORD = Path(__file__).parents[1] / "backends" / "cupy" / "record" / "h200.jsonl"


def test_sizes_whose_weights_a_hopper_device_holds(machine: Machine) -> None:
    from gru_xp_cupy.plan import Device, Problem, plan

    def layouts(rows: int, size: int, precision: str) -> list[Any]:
        return [plan(Problem(rows, size, precision, gates), Device(*HOPPER)) for gates in (3, 1)]

    for rows in (1, 16, 64):
        for precision in ("float16", "bfloat16"):
            for size in (1024, 2048):
                assert not any(each.streams for each in layouts(rows, size, precision))
            assert all(each.streams for each in layouts(rows, 4096, precision))
        assert not any(each.streams for each in layouts(rows, 1024, "tf32"))
        assert all(each.streams for each in layouts(rows, 2048, "tf32"))
    assert not any(each.streams for each in layouts(1, 1024, "float32"))
    assert all(each.streams for each in layouts(1, 2048, "float32"))
    assert layouts(1 << 14, 1024, "float16") == [None, None]


def tile_of(layout: Any) -> tuple[int, int]:
    """Rows of a plan's tile, and its units divided by 8."""
    name, _, numbers = layout.tile.partition("<")
    if name == "Scalar":
        return int(numbers.rstrip(">")), 1
    _, down, across = numbers.rstrip(">").split(",")
    return 16 * int(down), int(across)


@pytest.mark.parametrize("rows", [1, 5, 16, 64, 200])
@pytest.mark.parametrize("size", [8, 256, 1000, 1024, 2048, 4096])
@pytest.mark.parametrize("precision", ["float16", "float32", "tf32"])
def test_every_layout_covers_rows_and_units_and_fits(
    machine: Machine, rows: int, size: int, precision: str
) -> None:
    from gru_xp_cupy.plan import THREADS, Device, Problem, plans

    itemsize = 2 if precision == "float16" else 4
    for gates in (3, 1):
        for layout in plans(Problem(rows, size, precision, gates), Device(*HOPPER)):
            _, across = tile_of(layout)
            assert layout.units % (8 * across) == 0
            assert layout.units <= THREADS
            columns = -(-size // layout.units)
            assert layout.blocks == layout.groups * columns <= HOPPER[0]
            assert layout.groups * layout.rows >= rows > (layout.groups - 1) * layout.rows
            assert layout.shared_bytes <= HOPPER[1]
            assert layout.splits % layout.slots == 0
            blocks = -(-3 * size // gates * itemsize // 64)
            held = layout.held // (gates * across)
            assert layout.streams == (held + layout.resident < -(-blocks // layout.splits))
            assert held <= blocks // layout.splits  # every split has so many
            assert not layout.held or layout.early == 1  # with more, registers would spill
            assert layout.step > 0


def test_what_does_not_fit_is_declined(machine: Machine) -> None:
    from gru_xp_cupy.plan import Device, Problem, plan

    def tile(size: int, precision: str, *device: int, **options: bool) -> str:
        layout = plan(Problem(5, size, precision, 3), Device(*device, **options))
        return "none" if layout is None else layout.tile.partition(",")[0]

    assert tile(1024, "float64", *HOPPER) == "none"
    assert tile(1024, "float16", *HOPPER) == "Tensor<half"
    assert tile(1020, "float16", *HOPPER) == "none"  # no multiple of 16 bytes
    assert tile(1020, "float32", *HOPPER).startswith("Scalar<")
    assert tile(1024, "tf32", *HOPPER) == "Tensor<float"
    assert tile(256, "tf32", *TURING).startswith("Scalar<")
    assert tile(256, "float16", *TURING) == "none"
    assert tile(1024, "float32", *HOPPER, cooperative=False) == "none"


def test_a_driver_that_cannot_run_all_blocks_at_once_is_believed(machine: Machine) -> None:
    from gru_xp_cupy import persistent

    from tests.test_cuda_values import draw_case

    case = draw_case((2, 3, 24), "float32")
    machine.blocks_at_once = 0
    assert persistent.forward(*case.forward, case.loop, keep_tape=True) is NotImplemented
    gates = case.dh, case.dh, case.dh, case.dh, case.dh
    result = persistent.backward(case.dh, None, gates, case.forward[2], case.loop)
    assert result is NotImplemented


@pytest.mark.parametrize(
    ("precision", "size", "shared"),
    [
        *product(
            ("float16", "tf32", "float32"), ((3, 16, 64), (3, 35, 136), (2, 50, 72)), (227 << 10,)
        ),
        ("float16", (3, 16, 136), 32 << 10),
        ("tf32", (3, 16, 136), 28 << 10),
        ("tf32", (3, 16, 136), 36 << 10),
        ("tf32", (3, 35, 136), 40 << 10),
        ("float32", (3, 1, 136), 20 << 10),
    ],
)
def test_the_kernel_does_what_the_cost_model_counts(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    size: tuple[int, int, int],
    shared: int,
) -> None:
    """Check those counts that can be observed when the kernel runs on a CPU."""
    from gru_xp_cupy import persistent
    from gru_xp_cupy.plan import COUNT_WORDS, THREADS, loaded_rows

    from tests.test_cuda_values import draw_case

    arrived: list[Any] = []

    def zeros(count: int, dtype: Any) -> Any:
        array = zeros_of(count, dtype)
        if array.dtype == np.uint32:
            arrived.append(array)
        return array

    zeros_of = persistent.cupy.zeros
    monkeypatch.setattr(persistent.cupy, "zeros", zeros)
    machine.tf32 = precision == "tf32"
    machine.attributes["MaxSharedMemoryPerBlockOptin"] = shared
    dtype = "float32" if machine.tf32 else precision
    case = draw_case(size, dtype, ragged=False)
    steps, rows, hidden = size
    _, tape = persistent.forward(*case.forward, case.loop, keep_tape=True)
    counted = [machine.counts()]
    persistent.backward(case.dh, None, tape, case.forward[2], case.loop)
    counted.append(machine.counts())
    for function, count, arrivals in zip(persistent.GATES, counted, arrived, strict=True):
        launch = persistent._launch(function, rows, hidden, dtype)
        assert launch is not None
        layout, _ = launch
        assert layout.streams or layout.held or shared == 227 << 10
        held = shared < 227 << 10 and precision != "float16" and rows <= 16
        assert bool(layout.held) == held
        expected = {
            name: steps * layout.blocks * value for name, value in layout.counts._asdict().items()
        }
        # The last group may have fewer rows than the others, which the model ignores. All 8 columns
        # of a scalar tile load the same bytes, which a GPU reads only once.
        tensor = precision != "float32"
        at_start = layout.groups * 3 * hidden**2 * case.dh.itemsize
        if layout.streams:  # from panels, which have zeros behind the last unit and the last term
            gates = persistent.GATES[function]
            columns = gates * tile_of(layout)[1]
            at_start = layout.blocks * gates * layout.units * layout.splits * layout.resident * 64
            at_start += layout.blocks * THREADS * (layout.held // columns * columns) * 16
        elif layout.held:  # of which warps without a part load some, too
            at_start = count.read_only
        read_again = count.read_only - at_start
        of_groups = [min(layout.rows, rows - first) for first in range(0, rows, layout.rows)]
        loads = [loaded_rows(each, tensor=tensor) for each in of_groups]
        share = sum(loads) / (layout.groups * loads[0])
        asked = 1 if tensor else 8
        assert count.loaded == pytest.approx(asked * share * expected["loaded"] * 1024)
        # So it may have fewer tiles of rows.
        tiles = [-(-each // tile_of(layout)[0]) for each in of_groups]
        share = sum(tiles) / (layout.groups * tiles[0])
        assert count.kept == pytest.approx(share * expected["resident"] * 1024)
        assert read_again == pytest.approx(share * expected["streamed"] * 1024)
        # A tensor tile computes all of its rows, of which the model counts those in whole 16s.
        share *= tiles[0] * tile_of(layout)[0] // 16 / -(-layout.rows // 16)
        assert count.instructions == pytest.approx(share * expected["instructions"] * 1e3)
        # One barrier a step.
        columns = layout.blocks // layout.groups
        assert arrivals.reshape(layout.groups, COUNT_WORDS)[:, 0].tolist() == (
            [columns * steps] * layout.groups
        )


# Panels with the loads of a lane contiguous, not those of a warp; the values are still right.
BY_LANES = (
    ("load * warp_lanes + of_lane", "load + of_lane * loads"),
    ("return i * warp_lanes + lane();", "return i + lane() * loads;"),
)


@pytest.mark.parametrize(
    ("faults", "whole"), [((), True), (BY_LANES, False)], ids=["warps", "lanes"]
)
@pytest.mark.parametrize("precision", ["float16", "tf32"])
def test_a_warp_loads_the_state_from_whole_lines(
    machine: Machine, precision: str, faults: tuple[tuple[str, str], ...], whole: bool
) -> None:
    from gru_xp_cupy import persistent

    from tests.test_cuda_values import TOLERANCE, check, draw_case

    machine.tf32, machine.faults = precision == "tf32", faults
    case = draw_case((3, 16, 64), "float32" if machine.tf32 else precision, ragged=False)
    check(persistent, case, TOLERANCE[precision])
    _, tape = persistent.forward(*case.forward, case.loop, keep_tape=True)
    forward = machine.counts()
    persistent.backward(case.dh, None, tape, case.forward[2], case.loop)
    for count in (forward, machine.counts()):
        assert (count.lines * 128 == count.loaded > 0) == whole


def problem_of(line: dict[str, Any], rows: int, size: int) -> Problem:
    """The problem of a line of the record."""
    from gru_xp_cupy.plan import Problem

    return Problem(rows, size, line["precision"], 1 if line["way"] == "backward" else 3)


def recorded(what: str) -> list[dict[str, Any]]:
    """Lines of a kind in the record of an H200."""
    lines = map(json.loads, RECORD.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["what"] == what]


def test_the_cost_model_has_what_a_gpu_took(machine: Machine) -> None:
    from gru_xp_cupy.plan import Device, plans

    errors: dict[tuple[str, bool], list[float]] = {}
    chosen: dict[Problem, list[tuple[float, float]]] = {}
    for line in recorded("layout"):
        problem, precision = problem_of(line, *line["size"]), line["precision"]
        for layout in plans(problem, Device(*HOPPER)):
            if layout.has_layout(line["layout"]):
                errors.setdefault((precision, layout.streams), []).append(layout.step / line["us"])
                chosen.setdefault(problem, []).append((layout.step, line["us"]))
    assert sum(map(len, errors.values())) >= 400  # others were not laid out as the plan would now
    # In the geometric mean, the expected time of a step is within the bounds below. Of the layouts
    # that were timed, the model chooses one close to the best.
    for key, bound in (
        (("float16", False), 1.1),
        (("tf32", False), 1.2),
        (("float32", False), 1.25),
        (("float16", True), 1.35),
        (("tf32", True), 1.35),
    ):
        assert len(errors[key]) >= 20, key
        mean = geometric_mean(max(each, 1 / each) for each in errors[key])
        assert mean < bound, (key, mean)
    lost = [min(pairs)[1] / min(time for _, time in pairs) for pairs in chosen.values()]
    assert len(lost) >= 40
    assert geometric_mean(lost) < 1.05


def test_the_cost_model_has_what_two_launches_took(machine: Machine) -> None:
    from gru_xp_cupy.plan import Device, step_of_two_launches

    errors: dict[tuple[bool, str], list[float]] = {}
    for line in recorded("loop"):
        if line["path"] != "a kernel a step":
            continue
        problem = problem_of(line, line["N"], line["H"])
        error = step_of_two_launches(problem, Device(*HOPPER)) / line["us"]
        key = line["precision"] == "float32", line["way"]
        errors.setdefault(key, []).append(max(error, 1 / error))
    assert len(errors) == 6
    for key, each in errors.items():
        assert geometric_mean(each) < 1.2, key


def test_the_faster_path_is_expected_to_be(machine: Machine) -> None:
    from gru_xp_cupy.plan import Device, plan, step_of_two_launches

    device, right, loops = Device(*HOPPER), [], {}
    for line in recorded("loop"):
        key = problem_of(line, line["N"], line["H"]), line["way"]
        loops.setdefault(key, {})[line["path"]] = line["us"]
    for (problem, _), times in loops.items():
        if len(times) < 2:
            continue
        made, steps = plan(problem, device), step_of_two_launches(problem, device)
        assert made is not None
        faster = made.step < steps
        taken, other = times["persistent kernel"], times["a kernel a step"]
        right.append(((taken if faster else other) / min(taken, other), problem))
    assert len(right) >= 20
    assert geometric_mean(each for each, *_ in right) < 1.05
    assert max(right)[0] < 1.3, max(right)


def test_a_copy_of_the_weights_counts_at_the_start(machine: Machine) -> None:
    """Backward always takes one, forward where weights are read again."""
    from gru_xp_cupy.choices import expected
    from gru_xp_cupy.plan import HOPPER_START, HOPPER_START_OF_COPY, Device, Problem, plan

    device = Device(*HOPPER)
    for size, gates, copies in ((2048, 3, False), (4096, 3, True), (2048, 1, True)):
        problem = Problem(16, size, "float16", gates)
        times = expected(plan(problem, device), problem, device)
        of_megabyte = HOPPER_START_OF_COPY if copies else HOPPER_START
        assert times.start == pytest.approx(6 * size**2 / 1e6 * of_megabyte)


DEVICES = {
    "H100": (132, 227 << 10, 90),
    "A100": (108, 163 << 10, 80),
    "RTX 4090": (128, 99 << 10, 89),
    "an older one": TURING,
    "one without cooperative launch": (132, 227 << 10, 90, False),
}
CHOICES = {  # of N = 1, 16, 64 and 256
    ("H100", "forward", "float16, H = 1024"): ["one", "one", "one", "two"],
    ("H100", "forward", "float16, H = 2048"): ["one", "one", "one", "two"],
    ("H100", "backward", "float16, H = 2048"): ["one", "one", "two", "two"],
    ("H100", "forward", "TF32, H = 2048"): ["one*", "one*", "two", "two"],
    ("H100", "forward", "float32, H = 1024"): ["one", "one", "two", "two"],
    ("A100", "forward", "float16, H = 1024"): ["one", "one", "one", "two"],
    ("A100", "forward", "float16, H = 2048"): ["one*", "two", "two", "two"],
    ("A100", "backward", "float32, H = 1024"): ["one", "two", "two", "two"],
    ("RTX 4090", "forward", "float16, H = 2048"): ["one*", "one*", "two", "two"],
    ("RTX 4090", "forward", "TF32, H = 1024"): ["one", "one", "one", "two"],
    ("an older one", "forward", "TF32, H = 1024"): ["two"] * 4,
    ("one without cooperative launch", "forward", "float16, H = 512"): ["two"] * 4,
}


def cells(text: str, function: str, sizes: str) -> list[str]:
    """Cells of a row of `gru_xp_cupy.choices.table`."""
    _, _, of_function = text.partition(function)
    (row,) = re.findall(rf"^{re.escape(sizes)} +(.+)$", of_function.partition("backward")[0], re.M)
    return re.findall(r"[a-z]+\*? \S+ \([^)]*\)", row)


@pytest.mark.parametrize(("device", "function", "sizes"), CHOICES)
def test_the_table_tells_which_way_is_taken(
    machine: Machine, device: str, function: str, sizes: str
) -> None:
    from gru_xp_cupy.choices import table
    from gru_xp_cupy.plan import Device

    told = cells(table(Device(*DEVICES[device])), function, sizes)
    assert [each.split()[0] for each in told] == CHOICES[device, function, sizes]


@pytest.mark.parametrize("device", DEVICES)
def test_the_table_tells_why(machine: Machine, device: str) -> None:
    """The first path is the faster one; times are the model's; a dash means it does not fit."""
    from gru_xp_cupy.choices import MANY, table
    from gru_xp_cupy.plan import (
        Device,
        Problem,
        plan,
        start_of_one_launch,
        step_of_two_launches,
    )

    properties = Device(*DEVICES[device])
    lines = table(properties).splitlines()
    assert re.sub(" +", " ", lines[0]) == "forward N = 1 N = 16 N = 64 N = 256"
    compared = 0
    for number, line in enumerate(lines):
        found = re.match(r"(float16|TF32|float32), H = (\d+)", line)
        if not found:
            continue
        precision, size = found[1].replace("TF", "tf"), int(found[2])
        gates = 3 if number <= 15 else 1
        for rows, cell in zip((1, 16, 64, 256), line[18:].split(")"), strict=False):
            problem = Problem(rows, size, precision, gates)
            layout, two = plan(problem, properties), step_of_two_launches(problem, properties)
            one = (
                "-"
                if layout is None
                else f"{'one*' if layout.streams else 'one'} {layout.step:.3g}"
            )
            first, _, other = cell.strip().partition(" (")
            taken = [f"two {two:.3g}", one]
            copies = layout is not None and (layout.streams or gates == 1)
            start = start_of_one_launch(problem, copies=copies)
            if layout is not None and layout.step + start / MANY < two:
                taken.reverse()
            assert [first, other] == taken
            compared += 1
    assert compared == 2 * 15 * 4
