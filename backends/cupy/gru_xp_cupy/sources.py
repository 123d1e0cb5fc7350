"""The source text of the kernels, with included files inserted.

CuPy caches compiled kernels on disk under a hash of text and options, and would not notice a change
of an included file. In addition, no include path to these files is needed.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from gru_xp_include import FOLDER as HEADERS

KERNELS = Path(__file__).parent / "kernels"

NUMBERS = {"float16": "half", "bfloat16": "bfloat16", "float32": "float", "float64": "double"}
"""Names of dtypes, and of the corresponding types in ``kernels/numbers.cuh``."""

OPTIONS = ("-std=c++17", "--fmad=false")
"""Without implicit fusion, so that all compilers round alike; the sources fuse explicitly."""

_INCLUDE = '#include "'


@cache
def source(name: str, /, *, device: Path = KERNELS / "device.cuh") -> str:
    """Return the text of a file in ``kernels``.

    Parameters
    ----------
    name : str
        File name such as "gates.cu".
    device : Path
        File used as ``device.cuh``. The tests have one for the CPU.
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
