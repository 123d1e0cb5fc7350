"""README's code runs as it stands, and its words on the suite itself hold."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gru_xp.arrays import libraries

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=[block.splitlines()[-1][:30] for block in BLOCKS])
def test_a_block_of_code_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in libraries.NAMESPACES:
        if re.search(rf"^import {name}\b", block, re.MULTILINE) and libraries.unusable(name):
            pytest.skip(libraries.unusable(name))
    if "gru_xp.interop.onnx" in block:
        pytest.importorskip("onnx", reason="onnx is not installed")
    if 'device="cuda"' in block and not importlib.import_module("torch").cuda.is_available():
        pytest.skip("torch is installed but finds no CUDA device")
    exec(compile(block, "README.md", "exec"), {})


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 3


def test_the_files_that_it_links_to_are_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", (ROOT / "README.md").read_text())
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def run_pytest(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_backend_that_is_asked_for_and_missing_fails_the_run() -> None:
    missing = [name for name in libraries.NAMESPACES if libraries.unusable(name)]
    if not missing:
        pytest.skip("every backend is usable here")
    done = run_pytest("--backend", missing[0], "tests/test_cell_values.py")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"--backend {missing[0]}: {libraries.unusable(missing[0])}" in done.stderr


def test_the_header_lists_what_was_found_and_what_was_not() -> None:
    header = run_pytest("--collect-only", "tests/test_readme.py").stdout
    for name in libraries.NAMESPACES:
        wanted = f"backend {name}: not tested, " if libraries.unusable(name) else f"backend {name} "
        assert wanted in header
