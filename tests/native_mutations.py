"""The native mutation table: each fault below must be seen by the native tests.

`tests.sanitizers` runs it: it changes one text at a time in a copy of the C++ sources, builds what
that changes, for one instruction set, and runs the native tests. A run in which none fails is a
mutation that survived. Before that, the same tests must pass on the code as it is.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests import native_build

KERNEL_SET = "plain"
TIMEOUT_SECONDS = 60


class Mutation(NamedTuple):
    """One fault: in `file`, below backends/, `old` (which stands there once) becomes `new`."""

    name: str
    file: str
    old: str
    new: str
    quick: bool = False
    """Whether it is of the subset that a quick run takes."""


EQUATIONS = "include/gru_xp_include/equations.hpp"
FORWARD = "numpy/src/forward.hpp"
BACKWARD = "numpy/src/backward.hpp"
PRODUCT = "numpy/src/product.hpp"
TILE = "numpy/src/tile.hpp"
PACK = "numpy/src/pack.hpp"
SIMD = "numpy/src/simd.hpp"
PLAN = "numpy/src/plan.hpp"
SWEEP = "numpy/src/sweep.hpp"
STREAM = "numpy/src/stream.cpp"
SEQUENCES = "numpy/src/recurrence.cpp"
THREADS = "numpy/src/threads.cpp"
SCRATCH = "numpy/src/scratch.cpp"

MUTATIONS = [
    # The equations
    Mutation(
        "reset and update gates swapped",
        EQUATIONS,
        "    g.r = sigmoid<Math>(V(gx_r + gh_r));\n    g.z = sigmoid<Math>(V(gx_z + gh_z));\n",
        "    g.z = sigmoid<Math>(V(gx_r + gh_r));\n    g.r = sigmoid<Math>(V(gx_z + gh_z));\n",
    ),
    Mutation(
        "z for 1 - z",
        EQUATIONS,
        "Math::fma(g.z, h, V((Math::one() - g.z) * g.n))",
        "Math::fma(V(Math::one() - g.z), h, V(g.z * g.n))",
    ),
    Mutation(
        "gate gradient without the factor r",
        EQUATIONS,
        "d.gh_n = d.n * g.r;",
        "d.gh_n = d.n;",
        quick=True,
    ),
    # Forward
    Mutation("b_hn dropped", FORWARD, "if (p.b_hn) gh_n = ", "if (false) gh_n = "),
    Mutation(
        "two vectors of gates from one place",
        FORWARD,
        "return {load(at), load(at + apart)};",
        "return {load(at), load(at + 0 * apart)};",
    ),
    Mutation(
        "the last of an odd number of vectors left out",
        FORWARD,
        "        if (waits) of_one<true>(waiting);\n",
        "        (void)waits;\n",
    ),
    Mutation(
        "padding one step late, forward", FORWARD, "t >= p.lengths[row]", "t > p.lengths[row]"
    ),
    Mutation("r for r * h", FORWARD, "Vec<T>(gate * load_upto(this->h + at, left))", "gate"),
    Mutation(
        "the candidate without its update gate",
        FORWARD,
        "            g.z = load_upto(this->h_next + at, left);\n",
        "",
    ),
    Mutation(
        "r and z swapped in packing",
        PACK,
        "side_by_side ? v % 3 : v / units",
        "side_by_side ? v % 3 : (v < 2 * units ? 1 - v / units : 2)",
    ),
    # Backward
    Mutation(
        "padding one step late, backward",
        BACKWARD,
        "time >= p.lengths[row]",
        "time > p.lengths[row]",
    ),
    Mutation(
        "carried gradient not added",
        BACKWARD,
        "load_upto(p.dh + here, left) + past;",
        "load_upto(p.dh + here, left);",
    ),
    Mutation(
        "reverse ignored",
        BACKWARD,
        "t(of.reverse ? number : of.steps - 1 - number)",
        "t(of.steps - 1 - number)",
    ),
    Mutation(
        "gradient of h past r left out",
        BACKWARD,
        "load_upto(past, left) + of_reset_h * r",
        "load_upto(past, left)",
    ),
    Mutation(
        "gradient of r without the slope of its sigmoid",
        EQUATIONS,
        "return of_reset_h * h * (r * (Math::one() - r));",
        "return of_reset_h * h * r;",
    ),
    Mutation(
        "the candidate's gradient by r's weights",
        BACKWARD,
        "row = of_candidate ? 2 * size : 0;",
        "row = 0;",
    ),
    # Tiles, packing, products
    Mutation(
        "a block's last term left out",
        SWEEP,
        "count = many && left > block ? block : left;",
        "count = many && left > block ? block - 1 : left;",
    ),
    Mutation(
        "tiles share the sums they keep between blocks",
        SWEEP,
        "if (depth > block || a.rest_count > 0) offset += R * n * w;",
        "",
    ),
    Mutation(
        "a chain's sums forget those before it",
        TILE,
        "store(sum, load(sum) + acc[i][v]);",
        "store(sum, acc[i][v]);",
    ),
    Mutation(
        "a chain goes on beyond its end",
        TILE,
        "count - from < chain ? count : from + chain;",
        "count - from < chain ? count : from + chain + 1;",
    ),
    Mutation(
        "the last of four vectors left out",
        TILE,
        "return group >= count() ? vectors : group * most;",
        "return group * most;",
    ),
    Mutation(
        "row stride of a tile",
        TILE,
        "a[k * most_rows + i] : a[i * a_row + k]",
        "a[k * most_rows + i] : a[i * (a_row - 1) + k]",
    ),
    Mutation(
        "a column too few packed", PACK, "j < columns ? load_upto", "j + 1 < columns ? load_upto"
    ),
    Mutation(
        "bias added once a block",
        PRODUCT,
        "k + depth == p.depth && p.bias ? ",
        "p.bias ? ",
    ),
    Mutation(
        "last vector read beyond the end",
        SIMD,
        "return count >= width<T> ? load(p) : load_first(p, int(count));",
        "(void)count; return load(p);",
        quick=True,
    ),
    Mutation(
        "last vector not stored",
        SIMD,
        "    else\n        store_first(p, v, int(count));\n",
        "",
    ),
    # A few rows where the weights lie
    Mutation(
        "the first of two chains lost",
        PACK,
        "sum[i] = from + c == 0 ? acc[c][i] : sum[i] + acc[c][i];",
        "sum[i] = from == 0 ? acc[c][i] : sum[i] + acc[c][i];",
    ),
    Mutation(
        "both chains of the same terms",
        PACK,
        "const index at = from + c * chain + k;",
        "const index at = from + k;",
    ),
    Mutation(
        "few rows that are all the first",
        PACK,
        "fma(splat(x[i * x_row + at + j]), row[j], acc[c][i]);",
        "fma(splat(x[0 * i * x_row + at + j]), row[j], acc[c][i]);",
    ),
    Mutation(
        "a share of few rows from the first row on",
        "numpy/src/forward.hpp",
        "(second ? p.reset_h : step.h) + row * size;",
        "(second ? p.reset_h : step.h) + 0 * row * size;",
    ),
    Mutation(
        "few rows' products all in one row",
        PRODUCT,
        "store_upto(p.out + (row + i) * p.columns + column, sums[i], left);",
        "store_upto(p.out + row * p.columns + column, sums[i], left);",
    ),
    Mutation(
        "pieces of a vector all in one place",
        SIMD,
        "            to += Piece;\n",
        "",
    ),
    # Sequences and streams
    Mutation(
        "the reverse direction's last state is the first",
        SEQUENCES,
        "if (f.reverse) std::swap(first, last);",
        "",
    ),
    Mutation(
        "both directions in one place",
        SEQUENCES,
        "(2 * row + direction) * p.size",
        "(2 * row) * p.size",
    ),
    Mutation(
        "a layer's input is its own output",
        SEQUENCES,
        "between + layer % 2 * output;",
        "between;",
    ),
    Mutation(
        "a stream's layer takes the state before",
        STREAM,
        "input = next_state(layers_[size_t(stage / of_layer - 1)]);",
        "input = state(layers_[size_t(stage / of_layer - 1)]);",
    ),
    Mutation(
        "a stream stays where it was",
        STREAM,
        "    turned_ = !turned_;\n    std::copy_n(state",
        "    std::copy_n(state",
    ),
    Mutation(
        "a chunk does not move the state",
        STREAM,
        "        std::copy_n(own + all, one, next_state(layer));\n",
        "",
    ),
    # Threads
    Mutation(
        "the last of a share's rows or columns left out",
        PLAN,
        "return {at(share), at(share + 1)};",
        "return {at(share), at(share + 1) - (share + 1 < shares)};",
    ),
    Mutation(
        "shares do not wait for one another",
        THREADS,
        "done < std::min(stage, together) * uint64_t(pieces)",
        "(done & 0 && together)",
        quick=True,
    ),
    Mutation(
        "a piece that somebody has is taken too",
        THREADS,
        "if (place.taken() || ",
        "if (",
    ),
    Mutation(
        "a piece that is done is taken again",
        THREADS,
        "stage + 1 < stages ? place.after() : place.as_taken()",
        "place.after()",
    ),
    Mutation(
        "nobody does another's piece",
        THREADS,
        "for (int i = 0, piece = own; i < pieces; ++i, ++piece) {",
        "for (int i = 0, piece = own; i < 1; ++i, ++piece) {",
    ),
    Mutation(
        "who sleeps is not woken",
        THREADS,
        "if (wake_up > 0 && sleepers_.load() > 0) wake(wake_up);",
        "(void)wake_up;",
    ),
    Mutation(
        "lent threads are not used",
        THREADS,
        "    size_ = lender_ ? wanted",
        "    lender_ = nullptr, size_ = lender_ ? wanted",
    ),
    Mutation(
        "lent to calls without a limit too",
        THREADS,
        "if (caller_limit > 0) lender_ = ",
        "lender_ = ",
    ),
    Mutation(
        "workers join lent threads",
        THREADS,
        "const int given = lender ? work.pieces - 1 : 0;",
        "const int given = 0;",
    ),
    Mutation(
        "a child borrows threads of its parent",
        THREADS,
        "        current_lender.store(nullptr);\n",
        "",
    ),
    Mutation(
        "work goes on after a failure",
        THREADS,
        "        if (failed_.load(std::memory_order_relaxed)) return;\n",
        "",
    ),
    Mutation(
        "a worker stays on its caller's processor",
        THREADS,
        "            leave(caller_.load(std::memory_order_relaxed));\n",
        "            (void)leave;\n",
    ),
    Mutation(
        "any number of threads",
        THREADS,
        "chosen_count.store(std::min(count, most_threads()), ",
        "chosen_count.store(count, ",
    ),
    Mutation(
        "workers that are too many stay",
        THREADS,
        "    found->shrink(workers);\n",
        "",
    ),
    Mutation(
        "workers that became too many in a call stay",
        THREADS,
        "pool().shrink(std::max(chosen, caller_limit) - 1);",
        "(void)chosen;",
    ),
    Mutation(
        "one row's gradient of only the first terms",
        "numpy/src/backward.hpp",
        "        if (k > 0) add_to(total, sum, units);\n",
        "",
    ),
    Mutation(
        "one row's product of only the first terms",
        "numpy/src/product.hpp",
        "        if (k > 0) add_to(out, sum, columns);\n",
        "",
    ),
    Mutation(
        "a product of one term from its first row",
        "numpy/src/product.hpp",
        "splat(p.a[row * p.a_row]);",
        "splat(p.a[0 * row]);",
    ),
    Mutation(
        "few rows' steps are short, however long the weights are read",
        PLAN,
        "std::max(1.0, double(rows) / 10);",
        "double(rows) / 10;",
    ),
    Mutation(
        "a short call is shared after a pause",
        PLAN,
        "            alone_ = true;\n",
        "            alone_ = false;\n",
    ),
    Mutation(
        "a short call is never shared",
        PLAN,
        "if (threads_ > 1) last_end.store(",
        "if (threads_ < 1) last_end.store(",
    ),
    Mutation(
        "a longer call is not shared after a pause",
        PLAN,
        "work < 2 * least;",
        "work < 200 * least;",
    ),
    Mutation(
        "work of no stage is begun",
        THREADS,
        "work.pieces <= most_threads() && work.stages > 0 &&",
        "work.pieces <= most_threads() &&",
    ),
    Mutation(
        "AVX2 where there is none, or none where it is",
        "numpy/src/processor.cpp",
        "return (saved & 0x6) == 0x6 && leaf7",
        "return (saved & 0x6) != 0x6 && leaf7",
    ),
    Mutation(
        "a group's quota without those above it",
        THREADS,
        'if (slash == std::string::npos || path == "/") break;',
        "break;",
    ),
    Mutation(
        "scratch memory of any size is kept",
        SCRATCH,
        "    if (size > largest_kept) return false;\n",
        "    if (size > largest_kept) return true;\n",
    ),
    Mutation(
        "scratch memory given out twice",
        SCRATCH,
        "return place.exchange(nullptr, std::memory_order_acquire);",
        "return place.load(std::memory_order_acquire);",
        quick=True,
    ),
]


def stale(backends: Path) -> list[str]:
    """Names of mutations whose text does not stand just once in its file."""
    return [
        each.name
        for each in MUTATIONS
        if (backends / each.file).read_text(encoding="utf-8").count(each.old) != 1
    ]


def outcome(mutation: Mutation, backends: Path, folder: Path, *, jobs: int) -> str:
    """Build and test one mutation in a copy of the sources; say what saw it, if anything did."""
    path = backends / mutation.file
    source = path.read_text(encoding="utf-8")
    path.write_text(source.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        native_build.build(folder, jobs=jobs)
    except native_build.BuildError as error:
        return f"DOES NOT BUILD\n{error}"
    finally:
        path.write_text(source, encoding="utf-8")
    status, printed = native_build.run_tests(
        folder, ["--quick", "--set", KERNEL_SET], timeout=TIMEOUT_SECONDS
    )
    failed = re.search(r"^FAILED:? (.*)", printed, re.MULTILINE)
    if status and failed:
        return f"killed by {failed[1]}"
    return f"killed by signal {-status}" if status < 0 else f"SURVIVED (exit status {status})"


def run(*, quick: bool, jobs: int, report: Callable[[str], None]) -> tuple[bool, str]:
    """Run the table, or its quick subset; return whether all were killed, and a summary."""
    with tempfile.TemporaryDirectory(prefix="gru-xp-mutations-") as name:
        source = native_build.copy_sources(Path(name))
        backends, folder = source / "backends", Path(name) / "build"
        if names := stale(backends):
            return False, f"the code has moved on from these mutations: {', '.join(names)}"
        native_build.configure(source, folder, debug=True, instruction_sets=[KERNEL_SET])
        native_build.build(folder, jobs=jobs)
        arguments = ["--quick", "--set", KERNEL_SET]
        status, printed = native_build.run_tests(folder, arguments, timeout=TIMEOUT_SECONDS)
        if status:
            return False, f"the tests fail without a mutation\n{printed}"
        chosen = [each for each in MUTATIONS if each.quick or not quick]
        killed = 0
        for mutation in chosen:
            start = time.monotonic()
            result = outcome(mutation, backends, folder, jobs=jobs)
            killed += result.startswith("killed")
            report(f"  {mutation.name:46} {result} ({time.monotonic() - start:.1f} s)")
    return killed == len(chosen), f"{killed} of {len(chosen)} mutations killed"
