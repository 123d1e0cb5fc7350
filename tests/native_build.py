"""Build and run the accelerators' native tests, outside the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class BuildError(Exception):
    """A build that failed; its text is what CMake or the compiler printed."""


class Target(NamedTuple):
    """What builds are made with, and for."""

    compilers: tuple[str, ...] = ("g++", "c++")
    """The first that is there is taken. Of `HERE`, CMake looks for one itself, and at CXX."""
    processor: str = ""
    """Of a cross build; empty for this machine's."""
    emulator: tuple[str, ...] = ()
    """What runs such a build, and its arguments."""

    def candidates(self) -> tuple[str, ...]:
        """Names of the compilers of which one is taken."""
        chosen = os.environ.get("CXX") if self == HERE else None
        return (chosen.split()[0],) if chosen else self.compilers

    def compiler(self) -> str | None:
        """Path of the compiler, or None if there is none."""
        found = (shutil.which(name) for name in self.candidates())
        return next((path for path in found if path), None)


HERE = Target()
# With their version, as one without may be too old.
CLANG = Target(tuple(f"clang++-{version}" for version in range(24, 15, -1)))
AARCH64 = Target(
    ("aarch64-linux-gnu-g++",), "aarch64", ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu")
)


def missing_tools(target: Target = HERE) -> str:
    """Say what a build needs and is not here; empty if nothing is."""
    if not shutil.which("cmake"):
        return "cmake is not installed (pip install cmake, or the system's package)"
    if not target.compiler():
        return f"no C++ compiler: none of {', '.join(target.candidates())} is on PATH"
    if target.emulator and not shutil.which(target.emulator[0]):
        return f"{target.emulator[0]} is not on PATH"
    return ""


def best_instruction_set() -> str:
    """Name of the best instruction set of this processor, or "" where that is not to be found out.

    Only a build reads it, to leave out what it need not compile: the tests ask the processor.
    """
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return ""
    if "avx512bw" in flags and "avx512dq" in flags and "avx512vl" in flags:
        return "avx512"
    return "avx2" if "avx2" in flags and "fma" in flags else "plain"


def copy_sources(folder: Path) -> Path:
    """Copy all that the native tests are built of into ``folder / "source"``."""
    source = folder / "source"
    shutil.copytree(ROOT / "backends", source / "backends")
    shutil.copy(ROOT / "CMakeLists.txt", source)
    return source


def configure(
    source: Path,
    folder: Path,
    *,
    debug: bool,
    target: Target = HERE,
    sanitize: str = "",
    lines: bool = False,
    instruction_sets: Sequence[str] = (),
) -> None:
    """Configure a build in ``folder``; BuildError if CMake fails.

    Parameters
    ----------
    source : Path
        The repository, or a copy of what `copy_sources` copies.
    folder : Path
        Where to build.
    debug : bool
        Compile in less time, for slower code.
    target : Target
        What to build with, and for.
    sanitize : str
        As the compiler's ``-fsanitize`` takes it.
    lines : bool
        Whether a debug build knows its line numbers, for the sanitizers' reports.
    instruction_sets : sequence of str
        What to build kernels for; all if empty.
    """
    command = ["cmake", "-S", str(source), "-B", str(folder), "-DGRU_XP_NATIVE_TESTS=ON"]
    command += [f"-DGRU_XP_SANITIZE={sanitize}"]
    if target != HERE:
        command += [f"-DCMAKE_CXX_COMPILER={target.compiler()}"]
    if target.processor:
        command += ["-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={target.processor}"]
    command += [f"-DCMAKE_BUILD_TYPE={'Debug' if debug else 'Release'}"]
    command += [f"-DCMAKE_CXX_FLAGS_DEBUG={'-g1' if lines else ''}"]
    if instruction_sets:
        command += [f"-DGRU_XP_INSTRUCTION_SETS={';'.join(instruction_sets)}"]
    if shutil.which("ninja"):
        command += ["-G", "Ninja"]
    _run(command)


def build(folder: Path, *, jobs: int) -> str:
    """Build what was configured in ``folder``, return what was printed; BuildError if it fails."""
    return _run(["cmake", "--build", str(folder), "--parallel", str(jobs)])


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise BuildError(done.stdout)
    return done.stdout


def run_tests(
    folder: Path,
    arguments: Sequence[str],
    *,
    timeout: float,
    target: Target = HERE,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run the native tests that ``folder`` holds.

    Returns
    -------
    status : int
        The exit status; -1 after a timeout, or minus the number of the signal that ended it.
    printed : str
    """
    program = str(folder / "backends" / "numpy" / "tests" / "native_tests")
    command = [*target.emulator, program, *arguments]
    if target.emulator:
        command.append("--emulated")
    with_environment = {**os.environ, **(environment or {})}
    while True:
        try:
            done = subprocess.run(
                command,
                env=with_environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            said = error.stdout or b""
            text = said.decode(errors="replace") if isinstance(said, bytes) else said
            return -1, f"{text}\nFAILED: not done after {timeout:g} s"
        # Some kernels place memory where ThreadSanitizer keeps its own; not so without
        # randomisation of addresses.
        again = "unexpected memory mapping" in done.stdout and shutil.which("setarch")
        if not again or command[0] == "setarch":
            return done.returncode, done.stdout
        command = ["setarch", "-R", *command]
