"""NVRTC compiles every kernel for every architecture, and puts no register into memory.

``persistent.cu`` is compiled for what the plan can choose: its tiles, with as many rows a step
ahead as they may have, with and without weights in registers, and weights that are read again. That
is some 540 programs of a second each: all of them with GRU_XP_EXHAUSTIVE=1. Otherwise those with
the most rows, which need most registers; for architectures with tensor cores,
test_cuda_machine_code.py compiles these.
"""

from __future__ import annotations

import io
import os
import re
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from gru_xp_cupy.plan import _Tile as Tile

pytest.importorskip("cupy", reason="compiling the CUDA kernels needs CuPy: gru-xp[kernels]")

EXHAUSTIVE = os.environ.get("GRU_XP_EXHAUSTIVE", "0") != "0"
ARCHITECTURES = (75, 80, 90, 100, 120)
RECORDED = 90  # what the kernels are tuned for
NUMBERS = ("half", "bfloat16", "float", "double")


class Compiled(NamedTuple):
    """What NVRTC makes of a file."""

    cubin: bytes
    log: str


class Choice(NamedTuple):
    """What the plan chooses of ``persistent.cu``."""

    architecture: int
    tile: Tile
    early: int
    held: int
    streams: bool

    def __str__(self) -> str:
        held, streams = f"-held{self.held}" * bool(self.held), "-streams" * self.streams
        return f"sm_{self.architecture}-{self.tile.name}-early{self.early}{held}{streams}"

    def compile(self, fault: tuple[str, str] | None = None) -> Compiled:
        macros = {
            "TILE": self.tile.name,
            "EARLY": str(self.early),
            "HELD": str(self.held),
            "STREAMS": str(int(self.streams)),
        }
        return compiled(self.architecture, "persistent.cu", tuple(macros.items()), fault)


def tiles(architecture: int) -> list[list[Tile]]:
    """Tiles of each kind that the plan can choose on such a device."""
    from gru_xp_cupy.plan import Device, Problem, _tiles

    device = Device(multiprocessors=132, shared_bytes=227 << 10, compute_capability=architecture)
    precisions = "float32", "float16", "bfloat16", "tf32"
    found = [list(_tiles(Problem(1, 8, each, 3), device)) for each in precisions]
    # Without tensor cores 16-bit numbers have no tile, and TF32 has those of float32.
    return [each for at, each in enumerate(found) if each and each not in found[:at]]


def choices() -> list[Choice]:
    """All that the plan can choose, or what no other test compiles."""
    return [
        Choice(architecture, tile, early, held, streams)
        for architecture in (ARCHITECTURES if EXHAUSTIVE else ARCHITECTURES[:1])
        for kind in tiles(architecture)
        for tile in kind
        for held, most in shares(tile)
        for early in ((1, 2, 4) if EXHAUSTIVE else (most,))
        if early <= most
        for streams in (False, True)
    ]


def shares(tile: Tile) -> list[tuple[int, int]]:
    """Weights that a plan may keep in registers, and then the most rows a step ahead."""
    return [(0, tile.early)] + [(tile.held, 1)] * bool(tile.held)


@cache
def compiled(
    architecture: int,
    file: str,
    macros: tuple[tuple[str, str], ...],
    fault: tuple[str, str] | None = None,
) -> Compiled:
    """Compile a kernel as CuPy does, which needs no device; `fault` is what is put for what."""
    from cupy.cuda import compiler, nvrtc
    from gru_xp_cupy.sources import OPTIONS, source

    try:
        nvrtc.getVersion()
    except Exception as error:  # CuPy raises what its loader meets
        pytest.skip(f"compiling the CUDA kernels needs NVRTC (gru-xp[kernels]): {error}")
    text = source(file)
    if fault:
        right, wrong = fault
        assert text.count(right) == 1
        text = text.replace(right, wrong)
    program: Any = compiler._NVRTCProgram(text, file, method="cubin")
    log = io.StringIO()
    defined = [f"-DGRU_XP_{name}={value}" for name, value in macros]
    options = (*OPTIONS, *defined, "-ftz=true", "--ptxas-options=-v", f"-arch=sm_{architecture}")
    cubin, _ = program.compile(options, log)
    return Compiled(bytes(cubin), log.getvalue())


def assert_nothing_spilled(made: Compiled, *functions: str) -> None:
    assert len(made.cubin) > 0
    line = r"properties for (\w+)\n.*?(\d+) bytes stack frame, (\d+) bytes spill st\w+, (\d+) bytes"
    spilled = {name: numbers for name, *numbers in re.findall(line, made.log)}
    assert spilled == {function: ["0", "0", "0"] for function in functions}
    assert "warning" not in made.log


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_gates_compile_without_spilling(architecture: int, number: str) -> None:
    made = compiled(architecture, "gates.cu", (("NUMBER", number),))
    assert_nothing_spilled(made, "forward_gates", "backward_gates")


@pytest.mark.parametrize("choice", choices(), ids=str)
def test_what_the_plan_can_choose_compiles_without_spilling(choice: Choice) -> None:
    assert_nothing_spilled(choice.compile(), "persistent_forward", "persistent_backward")


def test_the_plan_has_tiles_of_tensor_cores_where_there_are_some() -> None:
    for architecture in ARCHITECTURES:
        scalar, *tensor = tiles(architecture)
        assert not any(tile.tensor for tile in scalar)
        assert all(tile.tensor for kind in tensor for tile in kind)
        assert len(tensor) == (3 if architecture >= 80 else 0)
