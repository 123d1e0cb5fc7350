"""Build and run the accelerators' native tests, outside the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


class BuildError(Exception):
    """A build that failed; its text is what CMake or the compiler printed."""


def missing_tools() -> str:
    """Say what a build needs and is not here; empty if nothing is."""
    if not shutil.which("cmake"):
        return "cmake is not installed (pip install cmake, or the system's package)"
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "c++"]
    if not any(shutil.which(name.split()[0]) for name in compilers):
        return f"no C++ compiler: none of {', '.join(compilers)} is on PATH"
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
    sanitize : str
        As the compiler's ``-fsanitize`` takes it.
    lines : bool
        Whether a debug build knows its line numbers, for the sanitizers' reports.
    instruction_sets : sequence of str
        What to build kernels for; all if empty.
    """
    command = ["cmake", "-S", str(source), "-B", str(folder), "-DGRU_XP_NATIVE_TESTS=ON"]
    command += [f"-DGRU_XP_SANITIZE={sanitize}"]
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
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run the native tests that ``folder`` holds.

    Returns
    -------
    status : int
        The exit status; -1 after a timeout, or minus the number of the signal that ended it.
    printed : str
    """
    command = [str(folder / "backends" / "numpy" / "tests" / "native_tests"), *arguments]
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
