"""NumPy's accelerator among threads and processes: the GIL, forks, how many threads it takes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp.core.accelerators import GROUP
from tests.native import assert_same_bits, draw_case, run, train_cell, train_layer

# T, N, H: of one share, by rows, by few rows, by columns; see tests/test_native_bits.py
SHAPES = ((3, 4, 20), (12, 40, 64), (400, 5, 33), (24, 3, 167))


def test_calls_from_several_threads_at_once_have_the_bits_of_one(isa: str, native: Any) -> None:
    import gru_xp_numpy

    cases = [draw_case(*shape, dtype) for dtype in ("float32", "float64") for shape in SHAPES]
    jobs = [lambda case=case: run(gru_xp_numpy, case) for case in cases]  # type: ignore[misc]
    jobs += [lambda: train_layer(gru_xp.GRU(70, 64, rng=0), 12, 40)]
    jobs += [lambda: train_cell(gru_xp.GRUCell(300, 300, rng=0), 2)]
    gru_xp.set_num_threads(1)
    alone = [job() for job in jobs]
    gru_xp.set_num_threads(3)
    with ThreadPoolExecutor(4) as pool:
        for got, wanted in zip(pool.map(lambda job: job(), jobs * 3), alone * 3, strict=True):
            assert_same_bits(got, wanted)


def long_calls(native: Any) -> dict[str, Any]:
    """Calls of some tenths of a second."""
    import gru_xp_numpy

    case = draw_case(160, 64, 256, "float64")
    _, tape = gru_xp_numpy.forward(*case[:4], case.loop, keep_tape=True)
    matrix = np.ones((1400, 1400))
    weights = (np.ones((900, 300)), np.ones((900, 300)))
    return {
        "forward": lambda: gru_xp_numpy.forward(*case[:4], case.loop, keep_tape=True),
        "backward": lambda: gru_xp_numpy.backward(case.dh, None, tape, case.weight_hh, case.loop),
        "matmul": lambda: native.matmul(matrix, matrix, None),
        "step": lambda: native.step(
            np.ones((3000, 300)), np.ones((3000, 300)), *weights, None, None
        ),
    }


@pytest.mark.parametrize("name", ["forward", "backward", "matmul", "step"])
def test_other_threads_go_on_during_a_long_call(native: Any, name: str) -> None:
    assert native.set_isa("plain")  # the slowest
    gru_xp.set_num_threads(1)
    call = long_calls(native)[name]
    window: list[float] = []

    def work() -> None:
        start = time.perf_counter()
        call()
        end = time.perf_counter()
        window.extend((start, end))

    ticks = []
    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        ticks.append(time.perf_counter())
        time.sleep(0.001)
    thread.join()
    start, end = window
    # Holding the GIL, the call would leave ticks at its two ends at most.
    early, late = start + (end - start) / 4, end - (end - start) / 4
    assert any(early < tick < late for tick in ticks)


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process whose environment says nothing else about threads."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if name != "OMP_NUM_THREADS" and not name.startswith("GRU_XP_")
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**clean, **environment},
    )


FORK = """
import os, signal
import gru_xp, gru_xp_numpy
from tests.native import draw_case, run
gru_xp.set_num_threads(4)
cases = [draw_case(12, 40, 64, "float32"), draw_case(24, 3, 167, "float64")]
def bits():
    return [array.tobytes() for case in cases for array in run(gru_xp_numpy, case).values()]
wanted = bits()
def both_sides(depth):
    child = os.fork()
    signal.alarm(30)  # ends whoever waits for threads that it does not have
    right = bits() == wanted
    if child == 0:
        if depth:
            right = both_sides(depth - 1) and right
        os._exit(0 if right else 1)
    return os.waitpid(child, 0)[1] == 0 and right
print(both_sides(1), bits() == wanted)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_after_a_fork_parent_child_and_grandchild_compute_on(native: Any) -> None:
    done = python(FORK)
    assert done.stdout == "True True\n", done.stderr


COUNT = "import gru_xp; print(gru_xp.get_num_threads())"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "1,4"}, 1),
        ({"OMP_NUM_THREADS": "100000"}, None),
        ({"OMP_NUM_THREADS": "none"}, None),
        ({"GRU_XP_NUM_THREADS": "3"}, 3),
        ({"GRU_XP_NUM_THREADS": " 3 ", "OMP_NUM_THREADS": "1"}, 3),
        ({}, None),
    ],
    ids=str,
)
def test_the_environment_sets_how_many_threads(
    native: Any, environment: dict[str, str], expected: int | None
) -> None:
    done = python(COUNT, **environment)
    assert done.stderr == ""
    if expected is None:  # as many as there are processors to run on
        if not hasattr(os, "sched_getaffinity"):
            pytest.skip("this system does not say on which processors a process may run")
        expected = len(os.sched_getaffinity(0))
        quota = Path("/sys/fs/cgroup/cpu.max")  # a container's own
        if quota.exists() and not (text := quota.read_text()).startswith("max"):
            share, period = map(int, text.split())
            expected = min(expected, -(-share // period))
    assert int(done.stdout) == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_process_on_one_processor_has_one_thread(native: Any) -> None:
    one = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    assert python(one + COUNT).stdout == "1\n"


@pytest.mark.parametrize("text", ["abc", "0", "-1", "2.5", ""])
def test_a_count_of_threads_that_is_none_is_ignored_with_one_warning(
    native: Any, text: str
) -> None:
    done = python(COUNT + f"\n{COUNT}", GRU_XP_NUM_THREADS=text)
    assert done.stdout == 2 * python(COUNT).stdout
    assert done.stderr.count("RuntimeWarning") == 1
    assert f"GRU_XP_NUM_THREADS={text!r} is ignored: expected a positive integer" in done.stderr


ISA = "import gru_xp_numpy; print(gru_xp_numpy.isa())"


def test_the_environment_chooses_the_instruction_set(isa: str, native: Any) -> None:
    done = python(ISA, GRU_XP_ISA=isa)
    assert (done.stdout, done.stderr) == (f"{isa}\n", "")


def test_an_instruction_set_that_there_is_not_is_ignored_with_one_warning(native: Any) -> None:
    done = python(ISA, GRU_XP_ISA="mmx")
    assert done.stdout == python(ISA).stdout
    assert done.stderr.count("RuntimeWarning") == 1
    assert "GRU_XP_ISA='mmx' is ignored: expected plain, avx2 or avx512" in done.stderr


@pytest.mark.parametrize("count", [0, -1, True, False, 2.5, "2", None])
def test_what_is_no_count_of_threads_is_an_error(count: Any) -> None:
    before = gru_xp.get_num_threads()
    whole = isinstance(count, int)
    with pytest.raises(ValueError if whole else TypeError, match="set_num_threads: expected"):
        gru_xp.set_num_threads(count)
    assert gru_xp.get_num_threads() == before


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="there is no /proc here")
@pytest.mark.parametrize(
    ("of_all", "of_call", "more"), [(1, 2, 1), (2, 1, 0), (2, 0, 1), (1, 0, 0), (3, 2, 1)]
)
def test_a_call_has_a_number_of_threads_of_its_own(
    native: Any, of_all: int, of_call: int, more: int
) -> None:
    """Whatever has been set for all, which it leaves as it is; 0 asks for that."""
    code = f"""
import os
import numpy as np
from gru_xp_numpy import _native

a = np.ones((900, 900), np.float32)
_native.set_num_threads({of_all})
before = len(os.listdir("/proc/self/task"))
_native.matmul(a, a, None, {of_call})
print(len(os.listdir("/proc/self/task")) - before, _native.num_threads())
"""
    assert python(code).stdout == f"{more} {of_all}\n"


@pytest.mark.parametrize("count", [1, 7, np.int8(3)])
def test_a_count_of_threads_that_was_set_is_what_one_gets(native: Any, count: Any) -> None:
    gru_xp.set_num_threads(count)
    assert gru_xp.get_num_threads() == count


@pytest.mark.parametrize("count", [65536, 10**12])
def test_a_count_far_above_the_processors_is_lowered_with_a_word(native: Any, count: int) -> None:
    most = max(256, 4 * (os.cpu_count() or 1))
    with pytest.warns(RuntimeWarning, match=rf"threads were requested, the maximum .* is {most}"):
        gru_xp.set_num_threads(count)
    assert gru_xp.get_num_threads() == most


EXHAUSTION = """
import os, resource
import numpy as np
import gru_xp_numpy
from tests.native import draw_case, run

def used():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()

case = draw_case(12, 400, 64, "float32")  # more than lies about in the process
gru_xp_numpy.set_num_threads(4)
ended = {}
for step in range(600):
    child = os.fork()
    if child == 0:  # has no workers yet
        limit = used() + step * (64 << 10)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            run(gru_xp_numpy, case)
            os._exit(0)
        except MemoryError:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    ended[status] = ended.get(status, 0) + 1
print(ended.pop(0, 0) > 0, ended.pop(256, 0) > 0, ended)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_threads_begun_where_memory_has_run_out_give_a_memory_error_or_are_fewer(
    native: Any,
) -> None:
    done = python(EXHAUSTION)
    assert done.stdout == "True True {}\n", done.stdout + done.stderr


HIDDEN = 'import sys; sys.modules["gru_xp_numpy._native"] = None\n'
NUMBERS = """
import numpy as np, gru_xp
x = np.linspace(-1, 1, 30, dtype=np.float32).reshape(2, 3, 5)
h = gru_xp.GRUCell(5, 4, rng=0).eval()(x[0])
gru = gru_xp.GRU(5, 4, rng=0)
arrays = [h, *gru(x), *gru.backward(np.ones((2, 3, 4), np.float32)), *gru.gradients().values()]
print(*[array.tobytes().hex() for array in arrays])
"""
REASON = """
print(gru_xp.get_num_threads())
print(*[each.accelerator_reason for each in gru_xp.backends() if each.name == "numpy"])
"""


@pytest.mark.skipif(
    not entry_points(group=GROUP, name="numpy"), reason="gru_xp runs from a folder, not installed"
)
def test_without_the_extension_one_warning_says_what_to_do() -> None:
    done = python(HIDDEN + NUMBERS + REASON)
    numbers, threads, reason = done.stdout.splitlines()
    assert done.stderr.count("RuntimeWarning") == 1
    assert "accelerator gru_xp_numpy failed to load: ImportError: its C++ extension" in reason
    assert "pip install --force-reinstall" in reason
    assert reason in done.stderr
    assert threads == "1"
    for code in (HIDDEN + NUMBERS, NUMBERS):
        off = python(code, GRU_XP_ACCELERATORS="0")
        assert (off.stdout, off.stderr) == (numbers + "\n", "")
