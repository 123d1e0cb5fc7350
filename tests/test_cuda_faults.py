"""The CPU execution of the CUDA kernels sees faults that are planted into them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cuda import KernelError, Machine
from tests.test_cuda_values import TOLERANCE, check, draw_case
from tests.test_cuda_values import (
    test_tf32_rounds_the_weights_and_the_state_to_the_nearest as check_tf32,
)

# What is planted: the right text, the wrong one, and the precision that sees it.
FAULTS = {
    "no barrier between steps forward": (
        "        wait(arrived, step + 1);\n    }\n}",
        "    }\n}",
        "float16",
    ),
    "no barrier between steps backward": (
        "        wait(arrived, step + 1);\n        product<1>",
        "        product<1>",
        "float32",
    ),
    "a barrier that lets go one block early": (
        "times * gridDim.x;",
        "times * gridDim.x - 1;",
        "tf32",
    ),
    "no barrier of the block before the sums are read": (
        "            part_of_product<Gates, 1>(s, source, first_row, unit, split);\n    }\n"
        "    __syncthreads();",
        "            part_of_product<Gates, 1>(s, source, first_row, unit, split);\n    }",
        "float32",
    ),
    "rows and units of a tile swapped": (
        "store(g, row, group(), sum)",
        "store(g, group(), row, sum)",
        "float32",
    ),
    "rows and columns of a tensor core's tile swapped": (
        "store(g, group(), 2 * place() + 1, sum[1]);",
        "store(g, 2 * place() + 1, group(), sum[1]);",
        "float16",
    ),
    "the lower rows of a tensor core's tile taken for the upper": (
        "store(g, group() + 8, 2 * place(), sum[2]);",
        "store(g, group() + 8, 2 * place(), sum[0]);",
        "bfloat16",
    ),
    "a tile of units skipped": (
        "g % Across * tile_columns;\n            b[g]",
        "0;\n            b[g]",
        "tf32",
    ),
    "one of the splits left out": (
        "split < s.splits; ++split",
        "split + 1 < s.splits; ++split",
        "float16",
    ),
    "no check of the lengths": ("return lengths && t >= lengths[row];", "return false;", "float32"),
    "lengths count from one": ("t >= lengths[row]", "t > lengths[row]", "float32"),
    "terms beyond the state": ("row < rows && k < size ?", "row < rows ?", "float16"),
    "sums over the weights": (
        "reinterpret_cast<float*>(s.weights + gates * units * s.stride)",
        "reinterpret_cast<float*>(s.weights + gates * units * s.stride / 2)",
        "float32",
    ),
    "more shared memory than the launch gives": ("blocks | 1) *", "blocks | 3) *", "float32"),
    "the time of the other direction": (
        "reverse ? step : steps - 1 - step",
        "reverse ? steps - 1 - step : step",
        "float16",
    ),
    "a step past the gates that forgets z": ("past = total * g.z;", "past = total;", "float32"),
    "the weights not transposed for the way back": (
        "(Index(gate) * size + k) * size + unit",
        "(Index(gate) * size + unit) * size + k",
        "tf32",
    ),
}
SIZES = [(4, 3, 24), (3, 17, 72), (3, 35, 136)]


def sees(machine: Machine, precision: str) -> bool:
    from gru_xp_cupy import persistent

    dtype = "float32" if precision == "tf32" else precision
    machine.tf32 = precision == "tf32"
    for size in SIZES:
        for order in range(2):
            machine.seed = order
            for reverse in (False, True):
                try:
                    check(persistent, draw_case(size, dtype, reverse=reverse), TOLERANCE[precision])
                except (AssertionError, KernelError):
                    return True
    return False


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(machine: Machine, fault: str) -> None:
    right, wrong, precision = FAULTS[fault]
    machine.faults = ((right, wrong),)
    assert sees(machine, precision)


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float32", "tf32"])
def test_without_a_fault_none_is_found(machine: Machine, precision: str) -> None:
    assert not sees(machine, precision)


@pytest.mark.parametrize(
    "fault",
    [
        ("    return __uint_as_float(to_tf32(x));", "    return x;"),
        ("rounded(load(group()), T())", "load(group())"),
    ],
)
def test_a_factor_that_is_cut_off_and_not_rounded_to_tf32_is_found(
    machine: Machine, fault: tuple[str, str]
) -> None:
    machine.faults = (fault,)
    with pytest.raises(AssertionError):
        check_tf32(machine)


def test_a_barrier_that_waits_for_too_many_is_a_deadlock(machine: Machine) -> None:
    from gru_xp_cupy import persistent

    machine.faults = (("times * gridDim.x;", "times * gridDim.x + 1;"),)
    case: Any = draw_case((2, 2, 24), "float32")
    with pytest.raises(KernelError, match="deadlock"):
        check(persistent, case, TOLERANCE["float32"])
