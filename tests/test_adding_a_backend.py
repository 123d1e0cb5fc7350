"""The page backends/README.md: following its steps as they are printed adds a backend."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gru_xp.arrays import libraries

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "backends" / "README.md").read_text(encoding="utf-8")

for _name in ("click", "filelock", "matplotlib", "rich", "safetensors", "threadpoolctl"):
    pytest.importorskip(_name, reason="the command line is the extra gru-xp[cli]")


@pytest.fixture(autouse=True)
def _is_asked_for(request: pytest.FixtureRequest) -> None:
    asked = request.config.getoption("--backend") or ["array_api_strict"]
    if "array_api_strict" not in asked or libraries.unusable("array_api_strict"):
        pytest.skip("about array-api-strict")


def section(title: str) -> str:
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## )", PAGE, re.DOTALL | re.MULTILINE)
    return str(text)


def files(text: str, language: str) -> list[tuple[str, str]]:
    """Return the blocks of a language, each with the path of the file that is named above it."""
    blocks = re.findall(
        rf"^`([^`\n]+)`:\n\n```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE
    )
    assert len(blocks) == text.count(f"```{language}\n")
    return blocks


def commands(text: str) -> list[str]:
    blocks = re.findall(r"^```shell\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


def run(command: str, *more: str, path: Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a command of the page, with one more folder to import from."""
    program, *arguments = command.split()
    # Without the cache, which a later pytest --last-failed in this clone would read.
    options = ["-p", "no:cacheprovider"] if program == "pytest" else []
    return subprocess.run(
        [sys.executable, "-m", program.replace("-", "_"), *arguments, *options, *more],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(path), "GRU_XP_ACCELERATORS": "1"},
    )


def row(printed: str, *words: str) -> str:
    """Return the one line that has all the words."""
    (line,) = (each for each in printed.splitlines() if all(word in each for word in words))
    return line


def count(printed: str, outcome: str) -> tuple[int, int]:
    """Count the tests with an outcome: those with the accelerator on, and those with it off."""
    ids = re.findall(rf"^{outcome} \S+\[(.*)\]", printed, re.MULTILINE)
    portable = sum("-portable" in each for each in ids)
    return len(ids) - portable, portable


# --- An accelerator

ACCELERATOR = section("Add an accelerator")
INSTALL, INFO, CHECK, PYTEST = commands(ACCELERATOR)


def installed(folder: Path, old: str = "", new: str = "") -> Path:
    """Install the page's package into a folder of its own, and return that folder.

    pip fetches nothing. `old`, if given, is replaced by `new` in the package's text.
    """
    # From this version on it builds wheels by itself.
    pytest.importorskip("setuptools", "70.1", reason="setuptools 70.1 builds the example")
    written = 0
    for name, text in files(ACCELERATOR, "python") + files(ACCELERATOR, "toml"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text.replace(old, new) if old else text)
        written += text.count(old) if old else 1
    assert written == (1 if old else 2)
    target = folder / "installed"
    offline = "--quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation"
    done = run(INSTALL, *offline.split(), "--target", str(target), path=target, cwd=folder)
    assert done.returncode == 0, done.stderr
    return target


def test_the_steps_of_the_page_add_an_accelerator(tmp_path: Path) -> None:
    path = installed(tmp_path)

    info = run(INFO, path=path)
    assert info.returncode == 0, info.stderr
    of_strict = info.stdout.partition("backend array_api_strict")[2]
    assert "recurrence: gru_xp_strict" in of_strict.splitlines()[2]

    checked = run(CHECK, path=path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    for loop in ("portable", "gru_xp_strict"):
        for dtype in ("float32", "float64"):
            assert row(checked.stdout, " device1 ", f" {dtype} ", f" {loop} ").endswith(" ok")

    tested = run(PYTEST, "-rp", path=path)
    assert tested.returncode == 0, tested.stdout
    assert row(tested.stdout, "backend array_api_strict").endswith("; gru_xp_strict")
    accelerated, portable = count(tested.stdout, "PASSED")
    assert accelerated > portable > 20  # one test runs with it on only


def assert_check_fails(path: Path) -> None:
    checked = run(CHECK, path=path)
    assert checked.returncode == 1, checked.stdout + checked.stderr
    assert row(checked.stdout, " device1 ", " float64 ", " portable ").endswith(" ok")
    assert row(checked.stdout, " device1 ", " float64 ", " gru_xp_strict ").endswith(" FAILED")


def test_both_commands_fail_where_two_gates_are_swapped(tmp_path: Path) -> None:
    path = installed(tmp_path, "gx_r, gx_z, gx_n =", "gx_z, gx_r, gx_n =")
    assert_check_fails(path)
    tested = run(PYTEST, "-rf", "-k", "scalar_reference", path=path)
    assert tested.returncode == 1, tested.stdout
    assert count(tested.stdout, "FAILED") == (16, 0)


def test_the_check_fails_where_two_gates_are_swapped_on_the_way_back(tmp_path: Path) -> None:
    assert_check_fails(installed(tmp_path, "([dr, dz, dn], ", "([dz, dr, dn], "))


# --- An array library

LIBRARY = section("Add an array library")
LISTS = (
    "test_backends_tells_of_every_known_library",
    "test_the_type_of_the_argument_backend_names_every_library",
)
COPY_FIRST = """
import os
import sys
from importlib.machinery import PathFinder


class Copy:  # comes before the finder of an editable installation, which ignores sys.path
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "gru_xp":
            return PathFinder.find_spec(name, path or [os.path.dirname(__file__)])


sys.meta_path.insert(0, Copy)
"""


def cloned(folder: Path) -> Path:
    """Copy the parts of the repository that the steps change or run, and add a library ``mylib``.

    ``mylib`` is a copy of array-api-strict, which `gru_xp` does not know by that name.
    """
    import array_api_strict

    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "gru_xp", folder / "gru_xp", ignore=ignored)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copytree(Path(array_api_strict.__file__).parent, folder / "mylib", ignore=ignored)
    for path in (folder / "mylib").glob("*.py"):
        path.write_text(
            path.read_text().replace("import array_api_strict", "import mylib as array_api_strict")
        )
    (folder / "sitecustomize.py").write_text(COPY_FIRST)
    return folder


def change(path: Path, diff: str) -> None:
    """Apply a diff whose old lines occur once in the file."""
    lines = diff.splitlines(keepends=True)
    old, new = ("".join(each[1:] for each in lines if each[0] in kind) for kind in (" -", " +"))
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"not once in {path.name}:\n{old}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_the_steps_of_the_page_add_an_array_library(tmp_path: Path) -> None:
    check, test = commands(LIBRARY)
    clone = cloned(tmp_path)
    unknown = run(check, path=clone, cwd=clone)
    assert unknown.returncode == 2
    assert "'mylib' is not one of 'auto', 'numpy'" in unknown.stderr

    for name, diff in files(LIBRARY, "diff"):
        change(clone / name, diff)
    (clone / "mylib").rename(clone / "elsewhere")
    missing = run(check, path=clone, cwd=clone)
    assert "mylib is not installed: pip install mylib" in missing.stderr
    (clone / "elsewhere").rename(clone / "mylib")

    checked = run(check, path=clone, cwd=clone)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert row(checked.stdout, "mylib ", " device1 ", " float64 ", " portable ").endswith(" ok")

    lists = [f"tests/test_backend.py::{name}" for name in LISTS]
    tested = run(test, *lists, "-rp", path=clone, cwd=clone)
    assert tested.returncode == 0, tested.stdout
    assert len(re.findall(r"^PASSED \S+\[mylib", tested.stdout, re.MULTILINE)) > 20
    assert all(f"PASSED {each}" in tested.stdout for each in lists)
