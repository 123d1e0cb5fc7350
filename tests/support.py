"""Which feature works with which array library: a table made of the tests' own outcome.

A test that is marked ``feature("dropout")`` shows that feature for the library of its `lib`; one
without `lib` names the library: ``feature("OneHot", library="jax", under="jit")``.
``pytest --support=FILE`` writes what has passed. ``python -m tests.support FILE`` compares it with
the committed record, from which the table in ``docs/support.md`` is made; ``--write`` renews both.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.library import Library

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs" / "support.json"
GPU_RECORD = ROOT / "backends" / "cupy" / "record" / "support.json"
PAGE = ROOT / "docs" / "support.md"

FEATURES = {
    "cell": "`GRUCell`, `gru_cell`: one step and its gradients",
    "layers": "`GRU`, `gru`: sequences, several layers, both directions, and their gradients",
    "lengths": "sequences of different lengths in a batch",
    "reset_after=False": "the reset gate before the product (`reset_after=False`)",
    "gates": "the gates of every step (`return_gates`)",
    "dropout": "dropout between layers",
    "Stream": "`Stream`: one step after another, state carried",
    "OneHot": "`OneHot`: indices in place of one-hot rows",
    "float32": "float32",
    "float64": "float64",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "autograd": "derivatives by the library (`torch.autograd`, `jax.grad`)",
    "vmap": "`torch.vmap`, `jax.vmap`",
    "higher": "forward mode and second derivatives by the library",
    "devices": "arrays that are spread over several devices",
    "files": "`save` and `load`",
    "training": "training of the character model",
}
LIBRARIES = {
    "numpy": "NumPy",
    "torch": "PyTorch",
    "jax": "JAX",
    "cupy": "CuPy",
    "array_api_strict": "array-api-strict",
    "dask": "Dask",
    "ndonnx": "ndonnx",
}
# What a test's parameter shows besides, by its name and value.
PARAMETERS = {
    "reset_after": {False: "reset_after=False"},
    "dtype": {name: name for name in ("float16", "bfloat16", "float32", "float64")},
}
# The line of the page after which the table stands.
MARK = "<!-- The outcome of the tests: python -m tests.support -->\n\n"

Support = dict[str, dict[str, list[str]]]


def shown_by(item: pytest.Item) -> Iterator[tuple[str, str, str]]:
    """Yield what the test shows if it passes: a feature, a library, and where."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    for mark in item.iter_markers("feature"):
        library, place = mark.kwargs.get("library"), "CPU"
        if library is None:
            assert "lib" in parameters, f"{item.nodeid} shows a feature of which library?"
            lib: Library = parameters["lib"]
            library = lib.name
            if library == "cupy" or re.search("cuda|gpu", str(lib.device), re.IGNORECASE):
                place = "GPU"
        features = [*mark.args]
        for name, values in PARAMETERS.items():
            if (value := parameters.get(name)) in values:
                features.append(values[value])
        for feature in features:
            assert feature in FEATURES, (
                f"{item.nodeid}: {feature} is none of tests.support.FEATURES"
            )
            assert library in LIBRARIES, f"{item.nodeid}: {library}"
            yield feature, library, mark.kwargs.get("under", place)


class Recorder:
    """What has passed, as a plugin of pytest, also where tests run in several processes."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.passed: set[tuple[str, str, str]] = set()
        self.failed: set[tuple[str, str, str]] = set()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:  # a report takes them to the process that writes the file
            item.user_properties += [("feature", each) for each in shown_by(item)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        shown: set[Any] = {
            tuple(each) for name, each in report.user_properties if name == "feature"
        }
        if report.failed:
            self.failed |= shown
        elif report.passed and report.when == "call":
            self.passed |= shown

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        # The workers of pytest-xdist have this attribute. They report to the process that writes.
        if not hasattr(session.config, "workerinput"):
            self.write()

    def write(self) -> None:
        """Write what has passed and never failed."""
        self.file.write_text(as_text(in_order(self.passed - self.failed)))


def in_order(shown: set[tuple[str, str, str]]) -> Support:
    """Sort what was shown: by feature, library, and where."""
    return {
        feature: {
            library: sorted(
                {where for one, other, where in shown if (one, other) == (feature, library)}
            )
            for library in LIBRARIES
            if any(each[:2] == (feature, library) for each in shown)
        }
        for feature in FEATURES
    }


def as_text(support: Support) -> str:
    """Write a record, a feature a line."""
    lines = (f"  {json.dumps(feature)}: {json.dumps(support[feature])}" for feature in support)
    return "{\n" + ",\n".join(lines) + "\n}\n"


def table(support: Support) -> str:
    """Draw a record as the table of the page."""
    lines = ["| | " + " | ".join(LIBRARIES.values()) + " |", "|---" * (len(LIBRARIES) + 1) + "|"]
    for feature, said in FEATURES.items():
        cells = (", ".join(support[feature].get(library, [])) or "-" for library in LIBRARIES)
        lines.append(f"| {said} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def recorded() -> Support:
    """Read the committed records: the one of every change, and the GPU's."""
    support: Support = json.loads(RECORD.read_text())
    for feature, libraries in json.loads(GPU_RECORD.read_text()).items():
        for library, places in libraries.items():
            have = support[feature].setdefault(library, [])
            have += [place for place in places if place not in have]
    return support


def page_with(drawn: str) -> str:
    """Return the page with its table replaced."""
    before, mark, rest = PAGE.read_text().partition(MARK)
    assert mark, f"{PAGE.name} has no place for the table"
    return before + mark + drawn + rest[rest.index("\n\n") + 1 :]


def main() -> int:
    """Compare what has passed with what is committed."""
    parser = argparse.ArgumentParser(prog="python -m tests.support", description=main.__doc__)
    parser.add_argument("file", type=Path, help="what pytest --support=FILE wrote")
    parser.add_argument("--write", action="store_true", help="commit to it: renew record and page")
    options = parser.parse_args()
    now: Support = json.loads(options.file.read_text())
    if options.write:
        RECORD.write_text(as_text(now))
        PAGE.write_text(page_with(table(recorded())))
        return 0
    committed: Support = json.loads(RECORD.read_text())
    differences = [
        f"{feature}, {library}: {one} committed, {other} now"
        for feature in FEATURES
        for library in LIBRARIES
        if (one := committed[feature].get(library)) != (other := now[feature].get(library))
    ]
    print("\n".join(differences) or f"{RECORD.name} says what has passed")
    if differences:
        print(f"To renew it: python -m tests.support {options.file} --write")
    return bool(differences)


if __name__ == "__main__":
    sys.exit(main())
