"""The CPU execution of the CUDA kernels sees faults that are planted into them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cuda import KernelError, Machine
from tests.test_cuda_values import (
    TOLERANCE,
    check,
    check_held,
    check_streamed,
    check_tf32,
    draw_case,
)

# What is planted: the right text, the wrong one, and the precision that sees it.
FAULTS = {
    "no barrier between steps forward": (
        "        wait(of_group, s.columns, done + 1);\n        product<3>",
        "        product<3>",
        "float16",
    ),
    "no barrier between steps backward": (
        "        wait(of_group, s.columns, done + 1);\n        product<1>",
        "        product<1>",
        "float32",
    ),
    "a barrier that lets go one block early": (
        "- times * blocks) < 0",
        "- times * blocks) < -1",
        "tf32",
    ),
    "one count of arrivals for all groups": (
        "line = 32;",
        "line = 0;",
        "float16",
    ),
    "the rows of the first group for all": (
        "s.first_row = s.group * p.rows_of_group;",
        "s.first_row = 0;",
        "tf32",
    ),
    "what is left for the next step over what others still read": (
        "first + step % 2 * numbers",
        "first",
        "float16",
    ),
    "no barrier of the block before the sums are read": (
        "        if (done) break;\n    }\n    __syncthreads();",
        "        if (done) break;\n    }",
        "float32",
    ),
    "rows and units of a tile swapped": (
        "store(g, row, group(), sum)",
        "store(g, group(), row, sum)",
        "float32",
    ),
    "rows and columns of a tensor core's tile swapped": (
        "store(g, 16 * i + group(), 2 * place(), float2{sum[0], sum[1]});",
        "store(g, 2 * place(), 16 * i + group(), float2{sum[0], sum[1]});",
        "float16",
    ),
    "the lower rows of a tensor core's tile taken for the upper": (
        "float2{sum[2], sum[3]}",
        "float2{sum[0], sum[1]}",
        "bfloat16",
    ),
    "rows of a panel in the other order": (
        "in_panel(row % Tile::rows, ",
        "in_panel(Tile::rows - 1 - row % Tile::rows, ",
        "float32",
    ),
    "terms of a panel beside their places": (
        "in_panel(row % Tile::rows, term % block_terms)",
        "in_panel(row % Tile::rows, (term + 1) % block_terms)",
        "float16",
    ),
    "the initial state where the one after the first step belongs": (
        "exchange.leave(exchange.of(0), row, unit, h);",
        "exchange.leave(exchange.of(1), row, unit, h);",
        "tf32",
    ),
    "one of the slots left out": (
        "slot < s.slots; ++slot",
        "slot + 1 < s.slots; ++slot",
        "float16",
    ),
    "no check of the lengths": (
        "padding[i] = t >= lengths.of_first[i];",
        "padding[i] = 0;",
        "float32",
    ),
    "lengths count from one": ("t >= lengths.of_first[i]", "t > lengths.of_first[i]", "float32"),
    "no check of the lengths after the first chunk": (
        "padding[i] = is_padding(lengths.of_rows, t, at);",
        "",
        "float32",
    ),
    "the lengths of the first chunk for every chunk": (
        "if (first == mine.first) {",
        "if (true) {",
        "float16",
    ),
    "the inputs of the first chunk for every chunk": ("            load(next);\n", "", "float16"),
    "a chunk that is not stored": ("            store(chunk);\n", "", "tf32"),
    "the last chunk not stored": (
        "if (done + 1 < steps) arrive(of_group);\n        store_chunk(last);",
        "if (done + 1 < steps) arrive(of_group);",
        "float32",
    ),
    "the products of one row for all": (
        "at[rows[i] * s.row_sums + g * s.units]",
        "at[rows[0] * s.row_sums + g * s.units]",
        "float16",
    ),
    "the eighth row after a row where its next word belongs": (
        "word % 2 * 2 + row / 8 % 2",
        "row / 8 % 2 * 2 + word % 2",
        "float16",
    ),
    "sums over the weights": (
        "reinterpret_cast<float*>(s.weights + gates * s.units * s.stride)",
        "reinterpret_cast<float*>(s.weights + gates * s.units * s.stride / 2)",
        "float32",
    ),
    "more shared memory than the launch gives": (
        "s.resident | 1) *",
        "s.resident | 3) *",
        "float32",
    ),
    "the time of the other direction": (
        "reverse ? done : steps - 1 - done",
        "reverse ? steps - 1 - done : done",
        "float16",
    ),
    "the next step's numbers of the wrong time": (
        "load_ahead(reverse ? t + 1 : t - 1);",
        "load_ahead(t);",
        "float16",
    ),
    "a step past the gates that forgets z": (
        "padding ? total : total * widen(x.z)",
        "total",
        "float32",
    ),
    "a weight of the next split": (
        "split * s.resident * block_terms +",
        "(split * s.resident + 1) * block_terms +",
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


# Faults of weights that are read again.
STREAMED_FAULTS = {
    "the first half twice": (
        "load_streamed(x[1], s, left, all, k + ahead);",
        "load_streamed(x[1], s, left, all, k);",
    ),
    "a half of the pass before": (
        "            load_streamed(x[0], s, left, all, k + 2 * ahead);\n",
        "",
    ),
    "the second half left out": ("            add_streamed(sums, x[1], k + ahead);\n", ""),
    "terms behind the last": (
        "if (k + j >= end) break;\n            uint4 b[columns];",
        "uint4 b[columns];",
    ),
    "one resident block too many": (
        "kept = min(begin + held + s.resident, end);",
        "kept = min(begin + held + s.resident + 1, end);",
    ),
}


@pytest.mark.parametrize("fault", STREAMED_FAULTS)
def test_a_planted_fault_of_weights_that_are_read_again_is_found(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    machine.faults = (STREAMED_FAULTS[fault],)
    with pytest.raises((AssertionError, KernelError)):
        check_streamed(machine, monkeypatch, 33, "tf32", "Tensor<float,1,2>")


# Faults of weights in registers.
HELD_FAULTS = {
    "the weights of the next block": (
        "column(s, g) + unit + group(), begin + k, place()",
        "column(s, g) + unit + group(), begin + k + 1, place()",
    ),
    "one block in registers left out": (
        "if (first + j < held)\n",
        "if (first + j + 1 == held) continue;\n                if (first + j < held)\n",
    ),
    "blocks behind those in registers left out": (
        "                else if (k + j < kept)\n"
        "                    add_block(sums, a[round % 2][j], s, k + j);\n",
        "",
    ),
    "resident blocks counted from the first": (
        "(k - begin - held) * block_terms",
        "(k - begin) * block_terms",
    ),
    "fewer blocks on the chip": (
        "kept = min(begin + held + s.resident, end);",
        "kept = min(begin + s.resident, end);",
    ),
    "the wrong half after the blocks in registers": (
        "for (int k = begin + rounds * ahead;",
        "if (rounds == 1) load(a[1], s, left, begin, kept);\n"
        "        for (int k = begin + rounds * ahead;",
    ),
    "the resident weights of other blocks": (
        "k = first_of(s, split) + held + block % s.resident",
        "k = first_of(s, split) + block % s.resident",
    ),
}


@pytest.mark.parametrize("fault", HELD_FAULTS)
def test_a_planted_fault_of_weights_in_registers_is_found(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    machine.faults = (HELD_FAULTS[fault],)
    with pytest.raises((AssertionError, KernelError)):
        check_held(machine, monkeypatch, 5, "float16", "Tensor<half,1,2>", 8, 18)


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float32", "tf32"])
def test_without_a_fault_none_is_found(machine: Machine, precision: str) -> None:
    assert not sees(machine, precision)


@pytest.mark.parametrize(
    ("right", "wrong", "resident", "held"),
    [
        ("return __uint_as_float(to_tf32(x));", "return x;", 0, 0),
        (
            "__device__ static uint4 weights(uint4 bytes) { return rounded(bytes, T()); }",
            "__device__ static uint4 weights(uint4 bytes) { return bytes; }",
            0,
            0,
        ),
        ("b[g] = Tile::weights(x[j].b[g]);", "b[g] = x[j].b[g];", 2, 0),
        ("of.b[k][g] = Tile::weights(", "of.b[k][g] = (", 0, 18),
    ],
)
def test_a_factor_that_is_cut_off_and_not_rounded_to_tf32_is_found(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    right: str,
    wrong: str,
    resident: int,
    held: int,
) -> None:
    machine.faults = ((right, wrong),)
    with pytest.raises(AssertionError):
        check_tf32(machine, monkeypatch, resident, held)


def test_a_barrier_that_waits_for_too_many_is_a_deadlock(machine: Machine) -> None:
    from gru_xp_cupy import persistent

    machine.faults = (("- times * blocks) < 0", "- times * blocks) < 1"),)
    case: Any = draw_case((2, 2, 24), "float32")
    with pytest.raises(KernelError, match="deadlock"):
        check(persistent, case, TOLERANCE["float32"])
