"""Every example in a docstring runs as it stands, and prints what it says."""

from __future__ import annotations

import ast
import doctest
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = [ROOT / "gru_xp", *(ROOT / "backends").glob("*/gru_xp_*")]
FRAMEWORKS = ("equinox", "flax", "haiku", "jax", "keras", "mlx", "onnx", "paddle", "torch")


def examples(path: Path) -> Iterator[doctest.DocTest]:
    """Read the examples of a file without importing it, as it may need what is not installed."""
    parser = doctest.DocTestParser()

    def walk(node: ast.AST, name: str) -> Iterator[doctest.DocTest]:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node) or ""
            found = parser.get_doctest(text, {}, name, str(path), getattr(node, "lineno", 0))
            if found.examples:
                yield found
            for child in node.body:
                yield from walk(child, f"{name}.{getattr(child, 'name', '')}")

    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    yield from walk(ast.parse(path.read_text()), module)


FOUND = [
    each for folder in FOLDERS for path in sorted(folder.rglob("*.py")) for each in examples(path)
]


@pytest.mark.parametrize("example", FOUND, ids=[each.name for each in FOUND])
def test_an_example_runs_and_prints_what_it_says(
    example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "".join(each.source for each in example.examples)
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the frameworks
        for name in FRAMEWORKS:
            if re.search(rf"^import {name}\b|^from {name}\b|interop\.{name}\b", code, re.MULTILINE):
                pytest.importorskip(
                    name, reason=f"the example needs {name}, which is not installed"
                )
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert result.attempted == len(example.examples)
    assert result.failed == 0, "".join(said)


def test_what_users_call_has_examples() -> None:
    names = {each.name for each in FOUND}
    for name in ("cell.GRUCell", "layer.GRU", "stream.Stream", "functional.gru_cell"):
        assert f"gru_xp.{name}" in names
    assert len(FOUND) >= 15
