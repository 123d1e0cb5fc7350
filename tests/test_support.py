"""The table of what works where is what the tests' outcome says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import support

CELL, GRU = ("cell", "numpy", "CPU"), ("layers", "jax", "jit")


def report(outcome: Any, *shown: tuple[str, str, str], when: Any = "call") -> pytest.TestReport:
    properties = [("feature", list(each)) for each in shown]  # as pytest-xdist hands them on
    return pytest.TestReport(
        "t", ("t", 0, "t"), {}, outcome, None, when, user_properties=properties
    )


def recorded(file: Path, *reports: pytest.TestReport) -> dict[str, Any]:
    recorder = support.Recorder(file)
    for each in reports:
        recorder.pytest_runtest_logreport(each)
    recorder.write()
    return {name: said for name, said in json.loads(file.read_text()).items() if said}


def test_a_feature_counts_where_it_passed_and_never_failed(tmp_path: Path) -> None:
    file = tmp_path / "support.json"
    both = {"cell": {"numpy": ["CPU"]}, "layers": {"jax": ["jit"]}}
    assert recorded(file, report("passed", CELL, GRU)) == both
    failed = report("passed", CELL, GRU), report("failed", GRU), report("passed", GRU)
    assert recorded(file, *failed) == {"cell": {"numpy": ["CPU"]}}
    broken = report("passed", CELL), report("failed", CELL, when="teardown")
    assert recorded(file, *broken) == {}
    assert recorded(file, report("passed", CELL, when="setup"), report("skipped", CELL)) == {}


@pytest.mark.parametrize("parallel", [False, True])
def test_pytest_records_what_its_tests_show(tmp_path: Path, parallel: bool) -> None:
    if parallel:
        pytest.importorskip("xdist", reason="runs tests in several processes")
    file = tmp_path / "support.json"
    chosen = ["tests/test_cell_dtypes.py", "-k", "16_bit_floats or several_widths"]
    options = ["--backend", "numpy", f"--support={file}", *["-n2"] * parallel]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen, *options]
    subprocess.run(command, cwd=support.ROOT, check=True, capture_output=True)
    said = {name: where for name, where in json.loads(file.read_text()).items() if where}
    # NumPy has no bfloat16, and the other test is marked as showing nothing.
    assert list(said) == ["cell", "reset_after=False", "float16"]
    assert all(where == {"numpy": ["CPU"]} for where in said.values())


def test_a_difference_from_the_committed_record_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "support.json"
    monkeypatch.setattr(sys, "argv", ["support", str(file)])
    now = json.loads(support.RECORD.read_text())
    file.write_text(json.dumps(now))
    assert support.main() == 0
    del now["cell"]["numpy"]
    file.write_text(json.dumps(now))
    assert support.main() == 1
    assert "cell, numpy: ['CPU'] committed, None now" in capsys.readouterr().out


def test_the_page_has_the_table_of_the_committed_records() -> None:
    drawn = support.table(support.recorded())
    assert support.page_with(drawn) == support.PAGE.read_text()
    assert "kernels" in drawn  # the GPU's record is in it
    assert drawn.count("\n") == 2 + len(support.FEATURES)
