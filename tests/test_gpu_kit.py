"""``backends/cupy/gpu_kit``, rehearsed without a GPU: stand-ins for the device and its tools.

NumPy's arrays stand in for CuPy's, kernels compiled for the CPU for those of the GPU; all scripts
run as they would there, from wheels in a folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests import cuda

REPOSITORY = Path(__file__).parents[1]
KIT = REPOSITORY / "backends" / "cupy" / "gpu_kit"
# What a tool does: it tells its arguments, and runs the program among them.
TOOL = """#!/bin/sh
echo "$(basename "$0") $*"
while [ $# -gt 0 ]; do
    case "$1" in "$PYTHON") exec "$@" ;; esac
    shift
done
"""
SMALL = {
    "SIZES": "3x24",
    "OTHERS": "3x24",
    "STEPS": "4",
    "LAYOUTS": "2",
    "TESTS": "tests/test_cuda_gpu.py -k 1x1x8",
    "FEATURES": "--collect-only tests/test_cell_dtypes.py",  # the stand-in's arrays are NumPy's
    "FEW": "--few",
    "TRAIN": "--help",
}
# `importlib.metadata` and pip ask for no more than this of a wheel.
METADATA = "Metadata-Version: 2.1\nName: gru-xp-nothing\nVersion: 0\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for needed in ("bash", "timeout", "tar"):
        if shutil.which(needed) is None:
            pytest.skip(f"the scripts need {needed}")
    if cuda.COMPILER is None:
        pytest.skip("there is no g++ to compile the CUDA kernels for the CPU")
    for needed in ("click", "filelock", "matplotlib", "ml_dtypes", "rich", "safetensors"):
        pytest.importorskip(needed, reason="the kit runs the command line: gru-xp[test]")
    made = tmp_path_factory.mktemp("kit")
    (made / "tools").mkdir()
    for name in ("compute-sanitizer", "ncu", "nvidia-smi"):
        tool = made / "tools" / name
        tool.write_text(TOOL)
        tool.chmod(0o755)
    (made / "kernels").mkdir()
    # A wheel of nothing: gru_xp itself is the one that is installed here.
    (made / "wheels").mkdir()
    wheel = made / "wheels" / "gru_xp_nothing-0-py3-none-any"
    info = made / "gru_xp_nothing-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    (info / "RECORD").write_text("")
    shutil.make_archive(str(wheel), "zip", made, info.name)
    wheel.with_suffix(".zip").rename(wheel.with_suffix(".whl"))
    (made / "wheels" / "commit.txt").write_text("0123\n")
    return made


def prove(folder: Path, part: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a part of the kit."""
    paths = [str(REPOSITORY / "tests" / "gpu_stand_in"), str(REPOSITORY)]
    environment = {
        **os.environ,
        **SMALL,
        "PATH": f"{folder / 'tools'}{os.pathsep}{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(paths),
        "GRU_XP_STAND_IN": str(folder / "kernels"),
        **changes,
    }
    return subprocess.run(
        ["bash", str(KIT / "prove.sh"), part, str(folder / "wheels"), str(folder / "out")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def outputs(folder: Path, part: str) -> dict[str, str]:
    """Read what a part has left, by the names of its commands."""
    with tarfile.open(folder / "out" / f"{part}.tar.gz") as archive:
        files = {Path(each.name).stem: archive.extractfile(each) for each in archive}
        return {name: file.read().decode() for name, file in files.items() if file}


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_truth(folder: Path) -> None:
    done = prove(folder, "truth")
    told = outputs(folder, "truth")
    assert done.returncode == 0, done.stdout + done.stderr
    assert told["summary"] == done.stdout == (folder / "out" / "truth.txt").read_text()
    assert told["commit"] == "0123\n"
    for precision in ("float32", "tf32", "float16", "bfloat16"):
        cases = lines(told[f"values-{precision}"])
        assert all(case["passed"] for case in cases)
        layouts = [case["layout"] for case in cases if "layout" in case]
        assert len(cases) - len(layouts) == 2
        # Weights in registers; with float32 alone the size has none.
        assert bool(layouts) == (precision != "float32")
        assert {case["path"] for case in cases} == {"persistent kernel"}
    assert {case["precision"] for case in lines(told["values-steps"])} == {
        *("float32", "tf32", "float16", "bfloat16", "float64"),
    }
    assert "16 passed" in told["tests"]
    assert "test_16_bit_floats_compute_in_16_bits" in told["features"]
    assert "float16" in json.loads(told["support"])
    for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
        for path in ("steps", "persistent"):
            text = told[f"{tool}-{path}"]
            assert text.startswith(f"compute-sanitizer --tool {tool} --error-exitcode 1 ")
            assert all(case["passed"] for case in lines(text))


def test_speed(folder: Path) -> None:
    done = prove(folder, "speed")
    told = outputs(folder, "speed")
    assert done.returncode == 0, done.stdout + done.stderr
    constants = {line.get("name") for line in lines(told["constants"])}
    assert {
        "barrier",
        "l2",
        "l2 of rows",
        "memory",
        "l2 latency",
        "shared memory",
        "launch",
    } <= constants
    for precision in ("float16", "tf32", "bfloat16"):
        loops = lines(told[f"loop-{precision}"])
        # Two paths, forward without and with a tape, and back.
        assert len(loops) == 6
        assert {each["path"] for each in loops} == {"persistent kernel", "a kernel a step"}
        layouts = lines(told[f"layouts-{precision}"])
        assert [each["size"] for each in layouts] == [[3, 24]] * 4
        layers = [each for each in lines(told[f"layer-{precision}"]) if "us" in each]
        assert len(layers) == 2
    assert "in plan.py" in told["fit"]


def test_rest(folder: Path) -> None:
    done = prove(folder, "rest")
    told = outputs(folder, "rest")
    assert done.returncode == 0, done.stdout + done.stderr
    assert told["ncu"].startswith("ncu --set full ")
    assert "Usage: " in told["train"]


def test_what_fails_or_has_no_time_left_is_recorded_and_the_rest_goes_on(folder: Path) -> None:
    done = prove(folder, "rest", OTHERS="no-size", SIZES="3x24")
    assert done.returncode == 1
    failed = [line.split()[0] for line in done.stdout.splitlines() if "status 0" not in line]
    assert failed == ["layer-float16", "layer-tf32"]
    done = prove(folder, "rest", PART_LIMIT="0")
    assert done.returncode == 1
    assert done.stdout.count("status 125") == len(done.stdout.splitlines()) == 6


@pytest.mark.parametrize("arguments", [[], ["truth"], ["all", "a", "b"]])
def test_the_script_says_what_it_wants(folder: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        ["bash", str(KIT / "prove.sh"), *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ")


def test_a_folder_without_wheels_is_refused(folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(KIT / "prove.sh"), "truth", str(tmp_path), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "see prepare.sh" in done.stderr


def test_wrong_values_fail_the_case(folder: Path) -> None:
    """A kernel that does not know the way back past the gates."""
    kernels = folder / "broken"
    kernels.mkdir()
    code = (
        "import runpy, sys, gru_xp_cupy.compiled as compiled;"
        "source = compiled.source;"
        "compiled.source = lambda name: source(name).replace("
        "'padding ? total : total * widen(x.z)', 'total');"
        f"sys.argv = ['paths.py', 'persistent', 'float32', '--few'];"
        f"runpy.run_path({str(KIT / 'paths.py')!r}, run_name='__main__')"
    )
    paths = [str(REPOSITORY / "tests" / "gpu_stand_in"), str(REPOSITORY), str(KIT)]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "GRU_XP_STAND_IN": str(kernels),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert [case["passed"] for case in lines(done.stdout)] == [False, False]
