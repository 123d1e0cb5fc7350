"""What a type checker sees of the package, as a user's script is checked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="the extra gru-xp[dev] has the type checker")

SCRIPT = """
import numpy as np
import gru_xp
from gru_xp import GRU, GRUCell

x = np.ones((4, 2, 3), dtype=np.float32)
cell = GRUCell(3, 5, rng=0)
h = cell(x[0])
dx, dh = cell.backward(h)
before: bool = not GRUCell(3, 5, reset_after=False, backend="torch").reset_after
gru = GRU(3, 5, 2, bidirectional=True, device="cpu", dtype="float32", rng=np.random.default_rng(0))
y, h_n = gru(x, lengths=[4, 2])
_, _, gates = gru(x, return_gates=True)
last = GRU(3, 5, backend="numpy").stream().step(x[0])
weights = gru.state_dict()

def use(model: GRU) -> None:  # of any library
    model(x)

use(gru)
total: float = float(h.sum() + dx.sum() + y.mean() + last.max() + weights["weight_ih_l0"].sum())
"""
WRONG = {
    "h.no_such_method()": "has no attribute",
    "dx.no_such_method()": "has no attribute",
    "y.no_such_method()": "has no attribute",
    "h_n.no_such_method()": "has no attribute",
    "last.no_such_method()": "has no attribute",
    'weights["weight_ih_l0"].no_such_method()': "has no attribute",
    "cell.Wrxx": "has no attribute",
    'GRUCell(3, 5, backend="nmpy")': "No overload variant",
    'GRU(3, 5, backend="nmpy")': "No overload variant",
    'GRU(3, 5, bias="no")': "No overload variant",
    'GRUCell(3, 5, reset_after="no")': "No overload variant",
    "GRUCell(3, 5, True, False)": "No overload variant",
    "GRUCell(3, 5, seed=0)": "No overload variant",
    'cell("text")': "incompatible type",
}


def check(code: str, folder: Path) -> list[str]:
    """Lines of what mypy says of a script of its own."""
    (folder / "script.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "script.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error: " in line]


def test_a_users_script_has_numpys_types(tmp_path: Path) -> None:
    assert check(SCRIPT, tmp_path) == []


def test_what_does_not_exist_is_an_error(tmp_path: Path) -> None:
    first = SCRIPT.count("\n") + 1
    errors = check(SCRIPT + "\n".join(WRONG), tmp_path)
    for number, (line, words) in enumerate(WRONG.items(), first):
        said = [error for error in errors if error.startswith(f"script.py:{number}: ")]
        assert any(words in error for error in said), (line, errors)
