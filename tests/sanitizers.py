"""Build and run the accelerators' native tests, in every way.

    python -m tests.sanitizers [--quick] [--only plain|clang|aarch64|address|thread|mutations]

As they are, by clang, by a cross compiler for aarch64 under an emulator, with sanitizers, and with
faults. Needs CMake and a C++ compiler with its sanitizers, no Python package; a way whose compiler
is not there is left out, and says so. Builds in temporary folders. The exit status is 0 if all is
well, 1 if a test failed or a mutation survived, and 2 if there is nothing to build with.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from tests import native_build, native_mutations

TIMEOUT_SECONDS = 3600
OPTIONS = {
    # GCC's stack for that check is aligned less than vectors of AVX-512 need.
    "ASAN_OPTIONS": "halt_on_error=1:detect_stack_use_after_return=0",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}


class Build(NamedTuple):
    """One build of the native tests, and which of them it runs."""

    title: str
    target: native_build.Target = native_build.HERE
    sanitize: str = ""
    tests: tuple[str, ...] = ()
    """All, if there is none."""


# In the order of their time, longest first.
BUILDS = {
    "address": Build(
        "AddressSanitizer and UndefinedBehaviorSanitizer", sanitize="address,undefined"
    ),
    # Only what runs on several threads: on one there is nothing to see, and it is slow.
    "thread": Build(
        "ThreadSanitizer",
        sanitize="thread",
        tests=("step", "sequence", "shares", "counts", "threads"),
    ),
    "aarch64": Build("for aarch64, emulated", target=native_build.AARCH64),
    "clang": Build("by clang", target=native_build.CLANG),
    "plain": Build("an ordinary build"),
}


def build_and_run(name: str, *, quick: bool, jobs: int) -> tuple[bool | None, str]:
    """Return whether one build passes, None if it was left out, and what to say of it."""
    title, target, sanitize, tests = BUILDS[name]
    if missing := native_build.missing_tools(target):
        return None, f"left out: {missing}"
    best = "plain" if target.processor else native_build.best_instruction_set()
    # Shares meet in the same places whatever the instruction set.
    sets = ["plain"] if sanitize == "thread" else ["plain", best]
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"gru-xp-{name}-") as temporary:
        folder = Path(temporary) / "build"
        native_build.configure(
            native_build.copy_sources(Path(temporary)),  # they may change while it builds
            folder,
            debug=bool(sanitize),
            target=target,
            sanitize=sanitize,
            lines=not quick,  # they take a third of the time to compile
            instruction_sets=sets if quick and best else (),
        )
        native_build.build(folder, jobs=jobs)
        built = time.monotonic()
        arguments = [*(["--quick"] if quick else [])]
        for each in tests:
            arguments += ["--test", each]
        status, printed = native_build.run_tests(
            folder, arguments, timeout=TIMEOUT_SECONDS, target=target, environment=OPTIONS
        )
    took = f"built in {built - start:.0f} s, run in {time.monotonic() - built:.1f} s"
    where = printed.partition("\n")[0]
    if status == 0:
        return True, f"{title}: clean ({where}; {took})"
    return False, f"{title}: exit status {status} ({took})\n{printed}"


def main() -> int:
    """Run all of it, or the one part that is named."""
    parser = argparse.ArgumentParser(description="Run the native tests in every way.")
    parser.add_argument("--quick", action="store_true", help="a fixed subset of everything")
    parser.add_argument("--only", choices=[*BUILDS, "mutations"])
    options = parser.parse_args()
    if missing := native_build.missing_tools():
        print(f"the native tests cannot be built: {missing}", file=sys.stderr)
        return 2

    names = [options.only] if options.only else [*BUILDS, "mutations"]
    cores = os.cpu_count() or 1
    workers = min(len(names), cores)
    jobs = cores // workers

    def report(line: str) -> None:
        print(line, flush=True)

    def part(name: str) -> Callable[[], tuple[bool | None, str]]:
        if name == "mutations":
            return lambda: native_mutations.run(quick=options.quick, jobs=jobs, report=report)
        return lambda: build_and_run(name, quick=options.quick, jobs=jobs)

    start = time.monotonic()
    well, nothing = True, False
    with ThreadPoolExecutor(workers) as pool:
        parts = {pool.submit(part(name)): name for name in names}
        for done in as_completed(parts):
            try:
                passed, said = done.result()
            except native_build.BuildError as error:
                passed, said = False, f"could not be built\n{error}"
            well = well and passed is not False
            nothing = passed is None and bool(options.only)
            how = {None: "-", True: "ok", False: "FAILED"}[passed]
            report(f"{how:6} {parts[done]:10} {said}")
    if nothing:
        return 2
    report(f"{'all is well' if well else 'FAILED'}, {time.monotonic() - start:.0f} s")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
