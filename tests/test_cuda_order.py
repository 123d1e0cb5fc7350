"""The persistent kernel's memory order, without a GPU: each of its threads is one of the CPU's.

ThreadSanitizer sees two accesses that nothing in the kernel's text orders, in whatever order they
came. Fibers, of which one runs at a time, cannot see that a release or an acquire is missing.

Reading what other blocks have written by ``__ldcg`` alone is a rule of the kernel's, and stricter
than PTX's memory model, which is content with the acquire. How far an order reaches (``.gpu``) is
not seen here, but in the compiled instructions.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests import cuda
from tests.cuda import KernelError, Machine
from tests.test_cuda_values import TOLERANCE, check, draw_case

THREADS = 64  # of a block: two warps
RACE, STALE_READ = 66, 67  # exit statuses
SECONDS = 60  # after which a program hangs
FLAGS = ("-std=c++20", "-O1", "-g1", "-fsanitize=thread", "-ffp-contract=off")
WRAPPED = [  # as cuda_on_threads.hpp has them
    f"--wrap=__tsan_{call}{size}"
    for call in ("read", "write", "unaligned_read", "unaligned_write")
    for size in (1, 2, 4, 8, 16)
]
# A thread that is still there at an exit must not change the status.
OPTIONS = f"halt_on_error=1 exitcode={RACE} report_thread_leaks=0 atexit_sleep_ms=0"
# A smaller block, and a CPU's atomics for the two instructions that fibers need no order in.
ADAPTED = {
    "threads = 256,": f"threads = {THREADS},",
    "*at += count;": "std::atomic_ref(*at).fetch_add(count, std::memory_order_release);",
    "return *at;": (
        "return std::atomic_ref(const_cast<unsigned&>(*at)).load(std::memory_order_acquire);"
    ),
}


class RaceError(KernelError):
    """Two accesses that nothing orders."""


class StaleReadError(KernelError):
    """A block's plain read of what another block has written."""


class HangError(KernelError):
    """A kernel that does not end."""


class ValuesError(KernelError):
    """A kernel that computes something else."""


class BuildError(Exception):
    """A program that cannot be compiled."""


class Case(NamedTuple):
    """What is computed, and what is fixed of the plan."""

    precision: str
    size: tuple[int, int, int]
    blocks: int
    groups: int
    fixed: dict[str, Any]


CASES = {
    "float32": Case("float32", (3, 2, 24), 3, 1, {"splits": 2, "slots": 2}),
    "float32 in turns": Case("float32", (3, 2, 24), 3, 1, {"splits": 2, "slots": 1}),
    "float32 in two groups": Case("float32", (3, 10, 24), 4, 2, {"early": 1}),
    "float32 in registers": Case(
        *("float32", (3, 2, 40), 3, 1),
        {"splits": 1, "slots": 1, "resident": 1, "held": 3, "streams": True, "early": 1},
    ),
    "float16": Case("float16", (3, 5, 40), 2, 1, {"early": 2}),
    "float16 streamed": Case("float16", (3, 5, 40), 2, 1, {"resident": 1, "streams": True}),
}
TILES = {"float32": "Scalar<2>", "float16": "Tensor<half,1,1>"}


class Sanitizer:
    """Compiles programs with ThreadSanitizer, and runs them."""

    def __init__(self, folder: Path, before: tuple[str, ...] = ()) -> None:
        self.folder, self.before = folder, before

    def compiled(self, text: str, *options: str) -> Path:
        """Compile a program, once."""
        built = self.folder / hashlib.sha256(repr((text, options)).encode()).hexdigest()
        if not built.exists():
            command = (str(cuda.COMPILER), *FLAGS, f"-Wl,{','.join(WRAPPED)}", *options)
            done = subprocess.run(
                (*command, f"-I{cuda.FOLDER}", "-x", "c++", "-", "-o", str(built)),
                input=text,
                text=True,
                capture_output=True,
                check=False,
            )
            if done.returncode:
                raise BuildError(done.stderr)
        return built

    def run(self, *program: str) -> None:
        """Run a program to its end."""
        try:
            done = subprocess.run(
                (*self.before, *program),
                env={**os.environ, "TSAN_OPTIONS": OPTIONS},
                text=True,
                capture_output=True,
                check=False,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise HangError from error
        if done.returncode:
            errors = {RACE: RaceError, STALE_READ: StaleReadError}
            if "unexpected memory mapping" in done.stderr:
                pytest.skip("ThreadSanitizer does not run where addresses are this random")
            raise errors.get(done.returncode, KernelError)(done.stderr)


class Kernel:
    """A kernel as CuPy would give it, that runs in a program of its own."""

    max_dynamic_shared_size_bytes = 48 << 10

    def __init__(self, sanitizer: Sanitizer, program: Path, function: str) -> None:
        self._sanitizer, self._program, self._function = sanitizer, program, function
        self.kernel = SimpleNamespace(ptr=0)

    def __call__(
        self, grid: tuple[int], block: tuple[int], arguments: tuple[Any, ...], shared_mem: int
    ) -> None:
        """Run it to its end; the file that it runs on is as in cuda_on_threads.hpp."""
        words, arrays = [], []
        end = 8 * len(arguments)
        for argument in arguments:
            words.append(int(argument) if np.ndim(argument) == 0 else end + -end % 64)
            if np.ndim(argument):
                arrays.append((argument.reshape(-1).view(np.uint8), words[-1]))
                end = words[-1] + argument.nbytes
        memory = np.zeros(end + -end % 64, np.uint8)
        memory[: 8 * len(words)] = np.array(words, np.int64).view(np.uint8)
        for array, begin in arrays:
            memory[begin : begin + array.size] = array
        file = self._program.with_suffix(f".{os.getpid()}")
        memory.tofile(file)
        numbers = map(str, (*grid, *block, shared_mem))
        self._sanitizer.run(str(self._program), self._function, *numbers, str(file))
        memory = np.fromfile(file, np.uint8)
        for array, begin in arrays:
            array[:] = memory[begin : begin + array.size]


@pytest.fixture(scope="module")
def sanitizer(tmp_path_factory: pytest.TempPathFactory) -> Sanitizer:
    """Provide what compiles and runs; skip where the machine cannot."""
    if cuda.COMPILER is None:
        pytest.skip("there is no g++ to compile the CUDA kernels for the CPU")
    folder = tmp_path_factory.mktemp("threads")
    try:
        program = Sanitizer(folder).compiled("#include <pthread.h>\nint main() {}\n")
    except BuildError as error:
        pytest.skip(f"g++ cannot link with -fsanitize=thread and --wrap: {error}")
    # At random addresses some versions run at one start, and not at another.
    for before in (("setarch", "-R"), ()):
        try:
            Sanitizer(folder, before).run(str(program))
        except (KernelError, OSError):
            continue
        return Sanitizer(folder, before)
    pytest.skip("programs with ThreadSanitizer do not run")


def run_case(
    machine: Machine,
    sanitizer: Sanitizer,
    case: Case,
    *,
    reverse: bool = False,
    fault: tuple[str, str] | None = None,
) -> None:
    """Check a case's values, forward and backward; `fault` is a text to replace, there once."""
    from gru_xp_cupy import compiled, persistent, plan
    from gru_xp_cupy.sources import source

    text = source("persistent.cu", device=cuda.FOLDER / "device.cuh")
    for right, wrong in (*ADAPTED.items(), *([fault] if fault else ())):
        assert text.count(right) == 1, f"not once: {right}"
        text = text.replace(right, wrong)
    calls = "".join(
        f'    if (!std::strcmp(words[1], "{each}")) return on_cpu::run({each}, words);\n'
        for each in cuda.KERNELS["persistent.cu"]
    )
    text = f'#include "cuda_on_threads.hpp"\n{text}int main(int, char** words) {{\n{calls}}}\n'

    def kernel(
        function: str, tile: str, early: int, held: int, streams: bool, _device: int
    ) -> Kernel:
        macros = {"TILE": tile, "EARLY": early, "HELD": held, "STREAMS": int(streams)}
        options = [f"-DGRU_XP_{name}={value}" for name, value in macros.items()]
        return Kernel(sanitizer, sanitizer.compiled(text, *options), function)

    def planned(problem: plan.Problem, device: plan.Device) -> plan.Plan:
        device = device._replace(multiprocessors=case.blocks)
        (found,) = (
            each
            for each in plan.plans(problem, device)
            if (each.tile, each.groups) == (TILES[case.precision], case.groups)
        )
        assert found.blocks == case.blocks
        return found._replace(**case.fixed)

    # The modules are the machine's own, and gone with it.
    vars(compiled).update(persistent=kernel)
    vars(persistent).update(plan=planned, THREADS=THREADS)
    vars(plan).update(THREADS=THREADS, _WARPS=THREADS // 32)
    drawn = draw_case(case.size, case.precision, reverse=reverse)
    try:
        check(persistent, drawn, TOLERANCE[case.precision])
    except AssertionError as error:
        raise ValuesError from error


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_what_threads_share_is_ordered(
    machine: Machine, sanitizer: Sanitizer, case: str, reverse: bool
) -> None:
    run_case(machine, sanitizer, CASES[case], reverse=reverse)


# What is planted: the right text, the wrong one, and the case that sees it.
FAULTS = {
    "arrivals that release nothing": (
        "std::memory_order_release",
        "std::memory_order_relaxed",
        "float32",
    ),
    "waits that acquire nothing": (
        "std::memory_order_acquire",
        "std::memory_order_relaxed",
        "float32",
    ),
    "a block that arrives before all of its threads": (
        "    __syncthreads();\n    if (threadIdx.x == 0) add_release",
        "    if (threadIdx.x == 0) add_release",
        "float32",
    ),
    "a block of which one thread waits": (
        "__nanosleep(20);\n    __syncthreads();",
        "__nanosleep(20);",
        "float32",
    ),
    "a wait for one block too few": (
        "times * blocks) < 0",
        "times * blocks) < -1",
        "float32 in two groups",
    ),
    "no wait forward": (
        "wait(of_group, s.columns, done + 1);\n        product<3>",
        "product<3>",
        "float16",
    ),
    "no wait backward": (
        "wait(of_group, s.columns, done + 1);\n        product<1>",
        "product<1>",
        "float16",
    ),
    "what is left over what others still read": ("step % 2 *", "0 *", "float16"),
    "sums read before all warps have left theirs": (
        "        if (done) break;\n    }\n    __syncthreads();\n}",
        "        if (done) break;\n    }\n}",
        "float32",
    ),
    "warps that do not take turns": (
        "if (turn + s.slots < s.splits) __syncthreads();",
        "",
        "float32 in turns",
    ),
    "the state of another thread's row": ("? at : first;", "? at : 1;", "float16"),
    "weights used before all threads have kept theirs": (
        "        product<3>",
        "        if (done == 0) keep(s, weights, 3, part.held);\n        product<3>",
        "float16",
    ),
    "weights of the row beside, of those that are read again": (
        "const int at = (block * rows + row) * block_terms",
        "const int at = (block * rows + (row ^ 1)) * block_terms",
        "float16 streamed",
    ),
    "weights of the block before, of those that are read again": (
        "all.in_panel(column(s, g) + unit + group(), k + j, place())",
        "all.in_panel(column(s, g) + unit + group(), k + j - 1, place())",
        "float16 streamed",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_race_is_found(machine: Machine, sanitizer: Sanitizer, fault: str) -> None:
    right, wrong, case = FAULTS[fault]
    # A read that comes so late that its block has seen a later arrival is ordered, yet wrong.
    with pytest.raises((RaceError, ValuesError)):
        run_case(machine, sanitizer, CASES[case], fault=(right, wrong))


@pytest.mark.parametrize("case", ["float32", "float16", "float16 streamed"])
def test_a_read_from_the_l1_cache_is_found(
    machine: Machine, sanitizer: Sanitizer, case: str
) -> None:
    with pytest.raises(StaleReadError):
        run_case(machine, sanitizer, CASES[case], fault=("__ldcg(", "*("))


# Each thread reads what its neighbour has written.
NEIGHBOURS = """
#include "cuda_on_threads.hpp"
void neighbours(unsigned* words) {
    words[threadIdx.x] = 1;
    ORDER;
    words[blockDim.x + threadIdx.x] = words[threadIdx.x ^ 1];
}
int main(int, char** words) { return on_cpu::run(neighbours, words); }
"""


def test_a_block_s_barrier_orders_and_an_exchange_of_a_warp_does_not(sanitizer: Sanitizer) -> None:
    def run(order: str) -> None:
        kernel = Kernel(sanitizer, sanitizer.compiled(NEIGHBOURS, f"-DORDER={order}"), "")
        words = np.zeros(2 * THREADS, np.uint32)
        kernel((1,), (THREADS,), (words,), 0)
        assert np.all(words == 1)

    run("__syncthreads()")
    with pytest.raises(RaceError):
        run("__shfl_xor_sync(0xffffffffu, 0.0f, 1)")
