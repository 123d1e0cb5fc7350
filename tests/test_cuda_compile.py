"""NVRTC compiles every kernel for every architecture, and puts no register into memory."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest

NUMBERS = ("half", "bfloat16", "float", "double")
SCALAR = tuple(f"Scalar<{rows}>" for rows in (1, 2, 4, 8, 16))
TENSOR = tuple(f"Tensor<{number}>" for number in ("half", "bfloat16", "float"))
ARCHITECTURES = (75, 80, 90, 100, 120)
# Tensor cores have what is used from 8.0 on; the plan takes these tiles there alone.
CASES = [
    (architecture, file, macro, name)
    for architecture in ARCHITECTURES
    for file, macro, names in (
        ("gates.cu", "GRU_XP_NUMBER", NUMBERS),
        ("persistent.cu", "GRU_XP_TILE", SCALAR + (TENSOR if architecture >= 80 else ())),
    )
    for name in names
]


@pytest.fixture(scope="module")
def compiler() -> Any:
    """CuPy's wrapper of NVRTC, which needs no device."""
    pytest.importorskip("cupy", reason="compiling the CUDA kernels needs CuPy: gru-xp[kernels]")
    from cupy.cuda import compiler, nvrtc

    try:
        nvrtc.getVersion()
    except Exception as error:  # CuPy raises what its loader meets
        pytest.skip(f"compiling the CUDA kernels needs NVRTC (gru-xp[kernels]): {error}")
    return compiler


@pytest.mark.parametrize(("architecture", "file", "macro", "name"), CASES)
def test_a_kernel_compiles_without_spilling(
    compiler: Any, architecture: int, file: str, macro: str, name: str
) -> None:
    from gru_xp_cupy.sources import OPTIONS, source

    program = compiler._NVRTCProgram(source(file), file, method="cubin")
    log = io.StringIO()
    options = (*OPTIONS, f"-D{macro}={name}", "-ftz=true", "--ptxas-options=-v")
    cubin, _ = program.compile((*options, f"-arch=sm_{architecture}"), log)
    assert len(cubin) > 0
    assert re.findall(r"(\d+) bytes stack frame", log.getvalue()) == ["0", "0"]
    spilled = re.findall(r"(\d+) bytes spill", log.getvalue())
    assert spilled == ["0"] * 4
    assert "warning" not in log.getvalue()


def test_the_tensor_tiles_hold_tensor_instructions(compiler: Any) -> None:
    from gru_xp_cupy.sources import OPTIONS, source

    kinds = {"half": "f16.f16", "bfloat16": "bf16.bf16", "float": "tf32.tf32"}
    for number, kind in kinds.items():
        program = compiler._NVRTCProgram(source("persistent.cu"), "p.cu", method="ptx")
        options = (*OPTIONS, f"-DGRU_XP_TILE=Tensor<{number}>", "-arch=compute_90")
        text = program.compile(options)[0]
        assert f".f32.{kind}.f32" in (text.decode() if isinstance(text, bytes) else text)
