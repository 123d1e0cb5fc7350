"""The kernels' source text, whole: what they include is put in its place.

CuPy keeps compiled kernels on disk by a hash of text and options, and would not see that an
included file has changed. Nor does it need a path to our files then.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from gru_xp_include import FOLDER as HEADERS

KERNELS = Path(__file__).parent / "kernels"

NUMBERS = {"float16": "half", "bfloat16": "bfloat16", "float32": "float", "float64": "double"}
"""Names of dtypes, and of their types in ``kernels/numbers.cuh``."""

OPTIONS = ("-std=c++17", "--fmad=false")
"""What is fused in an expression says so; every compiler rounds alike then."""

_INCLUDE = '#include "'


@cache
def source(name: str, /, *, device: Path = KERNELS / "device.cuh") -> str:
    """Text of a file in ``kernels``.

    Parameters
    ----------
    name : str
        Such as "gates.cu".
    device : Path
        What to take for ``device.cuh``; the tests have one for the CPU.
    """
    return "\n".join(_lines(name, device, set())) + "\n"


def _lines(name: str, device: Path, seen: set[str]) -> list[str]:
    if name in seen:
        return []
    seen.add(name)
    lines = []
    for line in _path(name, device).read_text(encoding="utf-8").splitlines():
        if line.startswith(_INCLUDE):
            lines += _lines(line.removeprefix(_INCLUDE).rstrip('"'), device, seen)
        elif line != "#pragma once":
            lines.append(line)
    return lines


def _path(name: str, device: Path) -> Path:
    folder, _, file = name.rpartition("/")
    if folder:
        return HEADERS / file
    return device if name == "device.cuh" else KERNELS / name
