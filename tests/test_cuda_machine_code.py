"""What NVRTC makes of the persistent kernel, instruction by instruction.

The kernel must keep enough loads in flight, spill no registers, bypass the L1 cache for data that
other blocks have written, and wait no longer than it must. Each check must also detect planted
faults.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.test_cuda_compile import RECORDED, Choice, assert_nothing_spilled, shares, tiles

ARCHITECTURES = (80, 90, 100, 120)
GATES = {"persistent_forward": 3, "persistent_backward": 1}
ARRIVALS = {"persistent_forward": 2, "persistent_backward": 1}  # in the text: first and each step
INPUTS = {"persistent_forward": 3, "persistent_backward": 6}  # of a unit of a row in a step
# Of the arithmetic of a row: three tanh; and most of its multiplications and additions.
ROW = {"persistent_forward": ("MUFU.EX2", 3), "persistent_backward": (("FMUL", "FADD"), 10)}
# In the text: forward in one place; backward before the first step and in each.
ASKED_FOR = {"persistent_forward": 3, "persistent_backward": 12}
LOAD, BYPASSING_L1 = "LDG.E.128", "LDG.E.128.STRONG.GPU"
TENSOR = {
    "half": "HMMA.16816.F32",
    "bfloat16": "HMMA.16816.F32.BF16",
    "float": "HMMA.1688.F32.TF32",
}


class Instruction(NamedTuple):
    """A machine instruction of a kernel."""

    opcode: str
    operands: tuple[str, ...]
    target: int | None
    """Index of the instruction to which a branch jumps; None for other instructions."""

    @property
    def loads(self) -> bool:
        """Whether it loads 128 bits from global memory."""
        return self.opcode.startswith(LOAD)

    @property
    def written(self) -> range:
        """Registers that such a load writes."""
        first = int(self.operands[0].removeprefix("R"))
        return range(first, first + 4)

    @property
    def read(self) -> set[int]:
        """Registers that are read, but for the sums of tensor cores."""
        operands = self.operands
        if operands and re.match(r"R\d", operands[0]):
            operands = operands[1:]
        widths = (4, 2) if self.opcode.startswith("HMMA") else (1,) * len(operands)
        found: set[int] = set()
        for operand, width in zip(operands, widths, strict=False):
            for number, pair in re.findall(r"\bR(\d+)\b(\.64)?", operand):
                found.update(range(int(number), int(number) + (2 if pair else width)))
        return found


Kernel = list[Instruction]


@cache
def nvdisasm() -> str:
    """Path of NVIDIA's disassembler."""
    try:
        files = importlib.metadata.files("nvidia-cuda-nvdisasm") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.stem == "nvdisasm" and file.parent.name == "bin":
            return str(file.locate())
    found = shutil.which("nvdisasm")
    if found is None:
        pytest.skip("reading machine code needs nvdisasm: pip install gru-xp[kernels]")
    return found


@lru_cache(maxsize=4)
def kernels(choice: Choice, fault: tuple[str, str] | None = None) -> dict[str, Kernel]:
    """Both kernels' instructions."""
    program = nvdisasm()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cubin"
        # CuPy leaves out the last byte, which it takes for the end of a string.
        file.write_bytes(choice.compile(fault).cubin + b"\0")
        run = subprocess.run([program, "-c", str(file)], capture_output=True, text=True, check=True)
    found = dict(_parsed(run.stdout))
    assert set(found) == set(GATES)
    return found


def _parsed(text: str) -> Iterator[tuple[str, Kernel]]:
    sections = re.split(r"^\.text\.(\w+):\n", text, flags=re.MULTILINE)
    for name, section in zip(sections[1::2], sections[2::2], strict=True):
        label, instruction = r"^(\.L\w+):", r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ +)?([^;]*?)\s*;"
        labels: dict[str, int] = {}
        lines: list[str] = []
        for found in re.finditer(f"{label}|{instruction}", section, re.MULTILINE):
            if found[1]:
                labels[found[1]] = len(lines)
            else:
                lines.append(found[2])
        yield name, [_instruction(line, labels) for line in lines]


def _instruction(line: str, labels: dict[str, int]) -> Instruction:
    opcode, _, rest = line.partition(" ")
    label = re.search(r"`\((\.L\w+)\)", rest)
    target = labels[label[1]] if label and opcode.startswith("BRA") else None
    operands = rest.partition("(*")[0].split(",")  # a remark may follow
    return Instruction(opcode, tuple(each.strip() for each in operands), target)


def count(kernel: Kernel, opcode: str) -> int:
    """How many instructions have this opcode, with whatever follows it."""
    return sum(each.opcode.startswith(opcode) for each in kernel)


def after_first_barrier(kernel: Kernel) -> tuple[Kernel, Kernel]:
    """Return the code before the steps, which loads the weights that stay, and the rest."""
    at = next(at for at, each in enumerate(kernel) if each.opcode.startswith("BAR"))
    return kernel[:at], kernel[at:]


def product_loops(kernel: Kernel, choice: Choice) -> list[Kernel]:
    """Loops that load terms and multiply: over resident weights, and over those read again."""
    multiply = "HMMA" if choice.tile.tensor else "FFMA"
    ends: dict[int, int] = {}
    for at, each in enumerate(kernel):
        if each.target is not None and each.target < at:
            ends[each.target] = at
    products = [
        (begin, end)
        for begin, end in ends.items()
        if count(kernel[begin : end + 1], multiply) and count(kernel[begin : end + 1], LOAD)
    ]
    innermost = [
        (begin, end)
        for begin, end in products
        if not any(begin <= b and e <= end and (b, e) != (begin, end) for b, e in products)
    ]
    assert len(innermost) == 1 + choice.streams
    return [kernel[begin : end + 1] for begin, end in sorted(innermost)]


def round_trips(loop: Kernel) -> list[int]:
    """Return the number of loads that each wait in one iteration of a loop waits for.

    The code waits where the result of a load is read. It then waits for all earlier loads, because
    the hardware waits for a counter of loads, not for a single load.
    """
    under_way: set[int] = set()
    loads = 0
    for _ in range(2):  # the first leaves the loads in flight at the start of the second
        waits: list[int] = []
        for each in loop:
            if under_way & each.read:
                waits.append(loads)
                under_way, loads = set(), 0
            if each.loads:
                under_way.update(each.written)
                loads += 1
    return waits


def check_loads_are_under_way(kernel: Kernel, function: str, choice: Choice) -> None:
    """An iteration of a loop waits once, while the loads of both buffer halves are in flight.

    Up to 9.0, no multiplication comes between the loads of a half. From 10.0 on, the compiler mixes
    them with multiplications of the other half, which cause no wait there.
    """
    at_once = choice.tile.ahead * loads_of_a_block(choice)
    assert at_once >= 8
    resident, *streamed = product_loops(kernel, choice)
    waits = round_trips(resident)
    assert len(waits) == 1
    assert waits[0] >= 2 * at_once
    for loop in streamed:
        waits = round_trips(loop)
        assert len(waits) == 1
        assert waits[0] >= 16
        assert loads_without_multiplication(loop, choice) >= 8
    if choice.architecture <= 90:
        assert loads_without_multiplication(resident, choice) >= at_once


def loads_of_a_block(choice: Choice) -> int:
    """Loads of the state that a lane makes of one block of terms: ``Tile::loads``."""
    return choice.tile.rows // 8 if choice.tile.tensor else choice.tile.rows


def loads_without_multiplication(loop: Kernel, choice: Choice) -> int:
    """The most that follow one another without a multiplication between, in passes of a loop."""
    multiply = "HMMA" if choice.tile.tensor else "FFMA"
    most = now = 0
    for each in (*loop, *loop):
        now = 0 if each.opcode.startswith(multiply) else now + each.loads
        most = max(most, now)
    return most


def check_no_local_memory(kernel: Kernel, function: str, choice: Choice) -> None:
    assert not [each for each in kernel if each.opcode.startswith(("LDL", "STL"))]


def check_which_loads_bypass_l1(kernel: Kernel, function: str, choice: Choice) -> None:
    """Loads of the state, which other blocks write, bypass L1; loads of the weights do not."""
    weights, steps = after_first_barrier(kernel)
    assert count(weights, LOAD) > 0
    assert count(weights, BYPASSING_L1) == 0
    assert count(steps, BYPASSING_L1) >= 2 * choice.tile.ahead * loads_of_a_block(choice)
    _, *streamed = product_loops(kernel, choice)
    read_again = 0
    for loop in streamed:
        state = count(loop, BYPASSING_L1)
        again = count(loop, LOAD) - state
        columns = GATES[function] * choice.tile.across
        assert state * columns == again * loads_of_a_block(choice) > 0
        read_again += again + again // 2  # two halves in the loop, and the first before it
    assert count(steps, LOAD) - count(steps, BYPASSING_L1) == read_again


def check_fences(kernel: Kernel, function: str, choice: Choice) -> None:
    """Each arrival has one fence, that of its release, directly before it increments the counter.

    Each load of the counter is followed by an invalidation of the L1 cache. The compiler peels the
    first iteration of the polling loop, so both occur twice. (On 8.0, an instruction that does not
    access memory may come between them.)
    """
    fences = [at for at, each in enumerate(kernel) if each.opcode.startswith("MEMBAR")]
    assert [kernel[at].opcode for at in fences] == ["MEMBAR.ALL.GPU"] * ARRIVALS[function]
    counts = [at for at, each in enumerate(kernel) if re.match("RED|ATOM", each.opcode)]
    assert len(counts) == len(fences)
    for fence, at in zip(fences, counts, strict=True):
        assert re.fullmatch(r"REDG?\.E\.ADD\.STRONG\.GPU", kernel[at].opcode)
        barriers = [i for i in range(fence) if kernel[i].opcode.startswith("BAR")]
        assert barriers
        between = kernel[barriers[-1] + 1 : at]
        assert not any(touches_memory(each) for each in between)
        assert fence < at

    loads = [at for at, each in enumerate(kernel) if each.opcode == "LDG.E.STRONG.GPU"]
    assert loads
    assert count(kernel, "CCTL.IVALL") == len(loads)
    for at in loads:
        followed = next(
            each
            for each in kernel[at + 1 :]
            if touches_memory(each) or each.opcode.startswith(("CCTL", "BAR", "BRA"))
        )
        assert followed.opcode == "CCTL.IVALL"


def touches_memory(instruction: Instruction) -> bool:
    return bool(re.match("LD[GLS.]|LD$|ST[GLS.]|ST$|RED|ATOM", instruction.opcode))


def check_tensor_cores(kernel: Kernel, function: str, choice: Choice) -> None:
    found = {each.opcode for each in kernel if each.opcode.partition(".")[0].endswith("MMA")}
    number = re.match(r"Tensor<(\w+)", choice.tile.name)
    assert found == ({TENSOR[number[1]]} if number else set())


def check_registers_are_not_copied(kernel: Kernel, function: str, choice: Choice) -> None:
    """Tensor cores take most factors from the registers into which they were loaded.

    A copy of each, or a zero before each load, would cost more instructions than the products.
    """
    if not choice.tile.tensor:
        return
    for loop in product_loops(kernel, choice):
        copies = sum(count(loop, opcode) for opcode in ("MOV", "IMAD.MOV", "CS2R"))
        assert copies <= count(loop, "HMMA") // 8 + 5


def check_weights_in_registers(kernel: Kernel, function: str, choice: Choice) -> None:
    """They are multiplied before the loop over those in shared memory, and not loaded again."""
    if not choice.tile.tensor:
        return
    in_loops = sum(count(loop, "HMMA") for loop in product_loops(kernel, choice))
    columns = GATES[function] * choice.tile.across
    blocks = -(-(choice.held // columns) // choice.tile.ahead) * choice.tile.ahead
    # Two for each 16 bytes of weights and 16 rows; the last of these blocks may be in memory.
    assert count(kernel, "HMMA") - in_loops == blocks * columns * 2


def check_what_comes_after_the_wait(kernel: Kernel, function: str, choice: Choice) -> None:
    """Loads of the state follow soon, as a warp knows its part, except with the largest tiles."""
    columns = GATES[function] * choice.tile.across
    if loads_of_a_block(choice) * columns > 12:  # `large` in product.cuh
        return
    wait = max(at for at, each in enumerate(kernel) if each.opcode == "LDG.E.STRONG.GPU")
    barrier = next(at for at in range(wait, len(kernel)) if kernel[at].opcode.startswith("BAR"))
    load = next(at for at in range(barrier, len(kernel)) if kernel[at].opcode == BYPASSING_L1)
    assert load - barrier <= 80
    assert count(kernel[barrier:load], "MUFU") == 0  # of a division


def check_later_rows_are_asked_for(kernel: Kernel, function: str, choice: Choice) -> None:
    """All inputs of a later row in the next step are prefetched into the L2 cache."""
    assert count(kernel, "CCTL.E.PF2") == ASKED_FOR[function]


def check_inputs_are_not_waited_for(kernel: Kernel, function: str, choice: Choice) -> None:
    """A thread waits for the other blocks while its loads of the first chunk are in flight."""
    wait = next(at for at, each in enumerate(kernel) if each.opcode == "LDG.E.STRONG.GPU")
    arrival = max(at for at in range(wait) if re.match("RED|ATOM", kernel[at].opcode))
    under_way: set[int] = set()
    loads = 0
    for each in kernel[arrival:wait]:
        assert not under_way & each.read
        if re.fullmatch(r"LDG\.E(\.U16)?(\.CONSTANT)?", each.opcode):
            under_way.add(int(each.operands[0].removeprefix("R")))
            loads += 1
    assert loads == choice.early * INPUTS[function]


def check_rows_overlap(kernel: Kernel, function: str, choice: Choice) -> None:
    """A thread computes the gates of all rows of a chunk without a branch between them."""
    opcode, of_row = ROW[function]
    targets = {each.target for each in kernel}
    most = now = 0
    for at, each in enumerate(kernel):
        now = 0 if at in targets or each.target is not None else now
        now += each.opcode.startswith(opcode)
        most = max(most, now)
    assert most >= choice.early * of_row


def check_one_instruction_rounds_to_bfloat16(kernel: Kernel, function: str, choice: Choice) -> None:
    """Each number that a thread stores for a row takes one.

    Forward, these are the state, twice, and four numbers for the backward pass. Backward, they are
    three gradients for the other blocks and four for the caller.
    """
    stored = {"persistent_forward": 6, "persistent_backward": 7}[function]
    if "bfloat16" in choice.tile.name:
        assert count(kernel, "F2FP.BF16") >= stored * choice.early


Check = Callable[[Kernel, str, Choice], None]
CHECKS: tuple[Check, ...] = (
    check_loads_are_under_way,
    check_no_local_memory,
    check_which_loads_bypass_l1,
    check_fences,
    check_tensor_cores,
    check_registers_are_not_copied,
    check_weights_in_registers,
    check_what_comes_after_the_wait,
    check_later_rows_are_asked_for,
    check_inputs_are_not_waited_for,
    check_rows_overlap,
    check_one_instruction_rounds_to_bfloat16,
)


def choices() -> list[Choice]:
    """Every tile, with the most rows loaded one step ahead and every placement of the weights."""
    return [
        Choice(architecture, tile, early, held, streams)
        for architecture in ARCHITECTURES
        for kind in tiles(architecture)
        for tile in kind
        for held, early in shares(tile)
        for streams in (False, True)
    ]


@pytest.mark.parametrize("choice", choices(), ids=str)
def test_the_machine_code_is_what_is_meant(choice: Choice) -> None:
    assert_nothing_spilled(choice.compile(), *GATES)
    for function, kernel in kernels(choice).items():
        for check in CHECKS:
            check(kernel, function, choice)


class Fault(NamedTuple):
    """What is planted."""

    right: str
    wrong: str
    seen_by: Check
    tile: str = "Tensor<half,1,1>"
    streams: bool = False
    held: bool = False
    early: int = 1
    functions: tuple[str, ...] = tuple(GATES)


LOAD_OF_THE_STATE = "a[j][i] = __ldcg(reinterpret_cast<const uint4*>(panel) + Tile::load_at(i));"
RESIDENT = (
    "            load(a[(rounds + 1) % 2], s, left, k + ahead, kept);\n",
    "            add_resident(sums, a[rounds % 2], s, k);\n",
    "            load(a[rounds % 2], s, left, k + 2 * ahead, kept);\n",
    "            add_resident(sums, a[(rounds + 1) % 2], s, k + ahead);\n",
)
STREAMED = (
    "            load_streamed(x[1], s, left, all, k + ahead);\n",
    "            add_streamed(sums, x[0], k);\n",
    "            load_streamed(x[0], s, left, all, k + 2 * ahead);\n",
    "            add_streamed(sums, x[1], k + ahead);\n",
)
FAULTS = {
    "one block of terms at a time": Fault(
        "ahead = 4 / Down;", "ahead = 1;", check_loads_are_under_way
    ),
    "one block of terms at a time, without tensor cores": Fault(
        "ahead = 8 / Rows;", "ahead = 1;", check_loads_are_under_way, "Scalar<1>"
    ),
    "each half used as soon as it is loaded": Fault(
        "".join(RESIDENT),
        "".join(RESIDENT[each] for each in (1, 0, 3, 2)),
        check_loads_are_under_way,
    ),
    "each half used as soon as it is loaded, of weights that are read again": Fault(
        "".join(STREAMED),
        "".join(STREAMED[each] for each in (1, 0, 3, 2)),
        check_loads_are_under_way,
        streams=True,
    ),
    "what is loaded is looked at": Fault(
        LOAD_OF_THE_STATE,
        f"{{ {LOAD_OF_THE_STATE} if (a[j][i].x == 1) a[j][i].x = 0; }}",
        check_loads_are_under_way,
    ),
    "more than the registers hold": Fault(
        "ahead = 4 / Down;", "ahead = 16;", check_no_local_memory
    ),
    "the state through the L1 cache": Fault("__ldcg(", "*(", check_which_loads_bypass_l1),
    "weights that bypass the L1 cache": Fault(
        "return load_read_only(first + at);",
        "return __ldcg(reinterpret_cast<const uint4*>(first + at));",
        check_which_loads_bypass_l1,
        streams=True,
    ),
    "no fence before the count": Fault("red.release.gpu", "red.relaxed.gpu", check_fences),
    "a fence for the block alone": Fault("red.release.gpu", "red.release.cta", check_fences),
    "a second fence": Fault(
        "if (threadIdx.x == 0) add_release",
        "__threadfence();\n    if (threadIdx.x == 0) add_release",
        check_fences,
    ),
    "a second count": Fault(
        "add_release(arrived, 1u);",
        "{ add_release(arrived, 1u); add_release(arrived, 0u); }",
        check_fences,
    ),
    "no barrier of the block before the count": Fault(
        "    __syncthreads();\n    if (threadIdx.x == 0) add_release",
        "    if (threadIdx.x == 0) add_release",
        check_fences,
    ),
    "an L1 cache that is not invalidated": Fault("ld.acquire.gpu", "ld.relaxed.gpu", check_fences),
    "numbers of another type": Fault(
        "m16n8k16.row.col.f32.f16.f16.f32",
        "m16n8k16.row.col.f32.bf16.bf16.f32",
        check_tensor_cores,
    ),
    "the registers of a factor from two loads": Fault(
        "multiply_add(sum, first.x, first.y, first.z, first.w,",
        "multiply_add(sum, first.x, second.y, first.z, second.w,",
        check_registers_are_not_copied,
    ),
    "a zero before each load": Fault(
        LOAD_OF_THE_STATE,
        f"{{ a[j][i] = uint4{{0, 0, 0, 0}}; if (Tile::row(i) < s.rows) {LOAD_OF_THE_STATE} }}",
        check_registers_are_not_copied,
    ),
    "a zero before each load of weights that are read again": Fault(
        "x[j].b[g] = all.in_panel(column(s, g) + unit + group(), k + j, place());",
        "{ x[j].b[g] = uint4{0, 0, 0, 0}; if (g + group() < s.size) "
        "x[j].b[g] = all.in_panel(column(s, g) + unit + group(), k + j, place()); }",
        check_registers_are_not_copied,
        streams=True,
    ),
    "weights in registers loaded in each step": Fault(
        "const typename Part<Gates>::Held& of_lane) {",
        "const typename Part<Gates>::Held&) { const auto of_lane = part.hold(s, weights);",
        check_which_loads_bypass_l1,
        held=True,
    ),
    "weights in registers at an index that is not constant": Fault(
        "#pragma unroll\n        for (int round = 0;",
        "#pragma unroll 1\n        for (int round = 0;",
        check_no_local_memory,
        held=True,
    ),
    "weights in registers multiplied twice": Fault(
        "Tile::add(sums, a[round % 2][j], of_lane.b[first + j]);",
        "for (int i = 0; i < 2; ++i) Tile::add(sums, a[round % 2][j], of_lane.b[first + j]);",
        check_weights_in_registers,
        held=True,
    ),
    "the part of a warp computed after the wait": Fault(
        "if (Part<Gates>::large) part = Part<Gates>(s, warp());",
        "part = Part<Gates>(s, warp() + (*reinterpret_cast<const volatile int*>(left) == 77));",
        check_what_comes_after_the_wait,
    ),
    "inputs looked at when they are loaded": Fault(
        "return {gx[0], gx[p.size], gx[2 * p.size]};",
        "return {gx[0].bits == 0x7e00 ? T{} : gx[0], gx[p.size], gx[2 * p.size]};",
        check_inputs_are_not_waited_for,
        functions=("persistent_forward",),
    ),
    "gradients looked at when they are loaded": Fault(
        "p.n[at], p.gh_n[at], p.h_prev[at], p.dh[at]};",
        "p.n[at], p.gh_n[at], p.h_prev[at], p.dh[at].bits == 0x7e00 ? T{} : p.dh[at]};",
        check_inputs_are_not_waited_for,
        functions=("persistent_backward",),
    ),
    "one row after another": Fault(
        "    Gates<Real<T>> g = gates<",
        "    if (padding) return {};\n    Gates<Real<T>> g = gates<",
        check_rows_overlap,
        early=4,
        functions=("persistent_forward",),
    ),
    "one row after another backward": Fault(
        "    GateGradients<Real<T>> d = gate_gradients<",
        "    if (padding) return {};\n    GateGradients<Real<T>> d = gate_gradients<",
        check_rows_overlap,
        early=4,
        functions=("persistent_backward",),
    ),
    "bfloat16 by integer arithmetic": Fault(
        "#if __CUDA_ARCH__ >= 800",
        "#if __CUDA_ARCH__ >= 8000",
        check_one_instruction_rounds_to_bfloat16,
        "Tensor<bfloat16,1,1>",
    ),
    "later rows not asked for": Fault(
        '"prefetch.global.L2 [%0];"', '""', check_later_rows_are_asked_for
    ),
    "tensor cores for what must not be rounded": Fault(
        "using Tile = GRU_XP_TILE;",
        "using Tile = Tensor<float, 1, 1>;",
        check_tensor_cores,
        "Scalar<1>",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(fault: str) -> None:
    right, wrong, check, name, streams, held, early, functions = FAULTS[fault]
    tile = next(tile for kind in tiles(RECORDED) for tile in kind if tile.name == name)
    choice = Choice(RECORDED, tile, early, tile.held if held else 0, streams)
    for function in functions:
        check(kernels(choice)[function], function, choice)
        faulty = kernels(choice, (right, wrong))[function]
        with pytest.raises(AssertionError):
            check(faulty, function, choice)
