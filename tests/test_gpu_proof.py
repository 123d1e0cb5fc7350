"""``backends/cupy/gpu_proof.sh`` and what it runs, without a GPU: stand-ins for tools and CuPy."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gru_xp.arrays import libraries
from tests.cuda import Machine

FOLDER = Path(__file__).parents[1] / "backends" / "cupy"
TOOLS = ("compute-sanitizer", "gru-xp", "nvidia-smi", "pip", "python")
PRECISIONS = ("float32", "tf32", "float16", "bfloat16", "float64")


def prove(tmp_path: Path, *arguments: str, fails: str) -> subprocess.CompletedProcess[str]:
    """Run the script where every tool tells its arguments, and fails if these match a pattern."""
    for needed in ("bash", "timeout"):
        if shutil.which(needed) is None:
            pytest.skip(f"the script needs {needed}")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in TOOLS:
        tool = tools / name
        tool.write_text(f'#!/bin/sh\necho {name} "$@"\ncase "$*" in {fails}) exit 3;; esac\n')
        tool.chmod(0o755)
    return subprocess.run(
        ["bash", str(FOLDER / "gpu_proof.sh"), *arguments],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_part_runs_and_its_output_is_kept(tmp_path: Path) -> None:
    done = prove(tmp_path, "a/folder", fails="nothing")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "a" / "folder"
    summary = (folder / "summary.txt").read_text()
    assert summary == done.stdout
    parts = [line.split()[0] for line in summary.splitlines()]
    watched = [
        f"{tool}-{path}"
        for path in ("steps", "persistent")
        for tool in ("memcheck", "racecheck", "synccheck")
    ]
    assert parts == [
        *("gpu", "gpu-driver", "install", "versions", "info", "check"),
        *("tests-cuda", "tests-cupy", "tests-persistent"),
        *watched,
        *(f"bench-{precision}" for precision in PRECISIONS),
    ]
    assert (folder / "install.txt").read_text() == "pip install --no-build-isolation --no-deps .\n"
    told = (folder / "racecheck-persistent.txt").read_text()
    assert told.endswith("--error-exitcode 1 python backends/cupy/gpu_paths.py persistent\n")
    bench = (folder / "bench-tf32.txt").read_text()
    assert bench.startswith("gru-xp bench --backend cupy --peers torch --precision tf32 --json /")


def test_a_part_that_fails_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    done = prove(tmp_path, "out", fails="*'--backend cupy'|*racecheck*")
    assert done.returncode == 1
    failed = [line.split()[0] for line in done.stdout.splitlines() if "status 3" in line]
    assert failed == [
        *("tests-cupy", "tests-persistent"),
        *("racecheck-steps", "racecheck-persistent"),
    ]
    assert "bench-float64" in done.stdout


def test_the_script_wants_a_folder(tmp_path: Path) -> None:
    done = prove(tmp_path, fails="nothing")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ")


@pytest.fixture
def gpu_paths(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program that compute-sanitizer watches, with kernels that run on the CPU."""
    import cupy

    def set_compute_type(dtype: Any, kind: int) -> None:
        assert dtype == np.float32
        machine.tf32 = kind == cupy._core._routines_linalg.COMPUTE_TYPE_TF32

    cupy.isfinite = np.isfinite
    cupy.cuda.set_allocator = lambda allocator: None
    cupy._core.set_compute_type = set_compute_type
    cupy._core._routines_linalg.COMPUTE_TYPE_DEFAULT = 0
    monkeypatch.setitem(libraries._namespaces, "cupy", libraries.namespace("numpy"))
    spec = importlib.util.spec_from_file_location("gpu_paths", FOLDER / "gpu_paths.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", ["steps", "persistent"])
def test_the_kernels_of_one_path_run_in_every_precision(
    machine: Machine, gpu_paths: Any, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu_paths.main(path)
    lines = capsys.readouterr().out.splitlines()
    ran = PRECISIONS if path == "steps" else PRECISIONS[:-1]
    assert len(lines) == len(ran) * len(gpu_paths.SIZES)
    assert tuple(dict.fromkeys(line.split()[1] for line in lines)) == ran
    kernels = {each.split()[0] for each in machine.launched}
    name = ("persistent_forward", "persistent_backward")
    assert kernels == (set(name) if path == "persistent" else {"forward_gates", "backward_gates"})
    assert ("persistent_forward Tensor<float>" in machine.launched) == (path == "persistent")


def test_a_path_that_does_not_run_is_an_error(machine: Machine, gpu_paths: Any) -> None:
    machine.blocks_at_once = 0
    with pytest.raises(RuntimeError, match=r"does not run \(3, 1, 8\) in float16"):
        gpu_paths.run("persistent", "float16", (3, 1, 8))
