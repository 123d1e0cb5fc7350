"""CuPy's accelerator without a GPU: the text of its kernels, compiled for the CPU, and run there.

`Kernel` stands where CuPy's compiled kernel does, and `stand_in` where ``cupy`` does, with NumPy's
arrays; all between is the accelerator's own, Python and CUDA.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "backends" / "cupy" / "tests"
COMPILER = shutil.which("g++")

OUTCOMES = {1: "deadlock", 2: "shared memory overrun"}
KERNELS = {
    "gates.cu": ("forward_gates", "backward_gates"),
    "persistent.cu": ("persistent_forward", "persistent_backward"),
}
FLAGS = ("-std=c++20", "-O1", "-fPIC", "-shared", "-ffp-contract=off", "-fno-strict-aliasing")


class KernelError(Exception):
    """A kernel did not run to its end."""


@cache
def library(
    file: str, define: str, folder: Path, /, faults: tuple[tuple[str, str], ...] = ()
) -> Any:
    """Compile a file of kernels; `faults` are texts to replace in it, each there once."""
    from gru_xp_cupy.sources import source

    text = source(file, device=FOLDER / "device.cuh")
    for right, wrong in faults:
        assert text.count(right) == 1, f"not once in {file}: {right}"
        text = text.replace(right, wrong)
    text += "".join(f"GRU_XP_EXPORT({name})\n" for name in KERNELS[file])
    built = folder / f"{abs(hash((file, define, faults)))}.so"
    command = [
        str(COMPILER),
        *FLAGS,
        f"-D{define}",
        *("-include", "cuda_on_cpu.hpp", f"-I{FOLDER}", "-x", "c++", "-", "-o", str(built)),
    ]
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(built))


class Kernel:
    """A kernel as CuPy would give it."""

    def __init__(self, run: Any, title: str, seed: int, launched: list[str]) -> None:
        self._run, self._title, self._seed, self._launched = run, title, seed, launched
        self.max_dynamic_shared_size_bytes = 48 << 10
        self.kernel = SimpleNamespace(ptr=0)

    def __call__(
        self, grid: tuple[int], block: tuple[int], arguments: tuple[Any, ...], shared_mem: int = 0
    ) -> None:
        """Run it to its end."""
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        self._launched.append(self._title)
        values = [_value(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        outcome = self._run(
            ctypes.c_uint(grid[0]),
            ctypes.c_uint(block[0]),
            ctypes.c_size_t(shared_mem),
            ctypes.c_uint(self._seed),
            pointers,
        )
        if outcome:
            raise KernelError(OUTCOMES[outcome])


def _value(argument: Any) -> Any:
    if isinstance(argument, np.ndarray):
        assert argument.flags.c_contiguous
        return ctypes.c_void_p(argument.ctypes.data)
    if isinstance(argument, np.int32):
        return ctypes.c_int32(argument)
    return ctypes.c_int64(argument)


class _NoArray:
    """For those who ask whether something is an array of CuPy's."""


class Machine:
    """What the stand-in pretends to be: a device, and the order in which its threads run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seed = 0
        self.faults: tuple[tuple[str, str], ...] = ()
        self.tf32 = False
        self.blocks_at_once = 1
        self.attributes = {
            "MultiProcessorCount": 4,
            "MaxSharedMemoryPerBlockOptin": 227 << 10,
            "CooperativeLaunch": 1,
        }
        self.compute_capability = "90"
        self.launched: list[str] = []
        self.replaced = SimpleNamespace()  # functions of `gru_xp_cupy.compiled`

    def gates(self, function: str, number: str) -> Kernel:
        """Stand in for `gru_xp_cupy.compiled.gates`."""
        return self._kernel("gates.cu", function, f"GRU_XP_NUMBER={number}")

    def persistent(self, function: str, tile: str, device: int) -> Kernel:
        """Stand in for `gru_xp_cupy.compiled.persistent`."""
        return self._kernel("persistent.cu", function, f"GRU_XP_TILE={tile}")

    def _kernel(self, file: str, function: str, define: str) -> Kernel:
        faults = self.faults if file == "persistent.cu" else ()
        run = getattr(library(file, define, self.folder, faults), f"run_{function}")
        title = f"{function} {define.partition('=')[2]}"
        return Kernel(run, title, self.seed, self.launched)

    def cupy(self) -> Any:
        """Return a module that stands in for ``cupy``, of which only what is used is there."""

        def device(number: int = 0) -> Any:
            return SimpleNamespace(
                id=number, attributes=self.attributes, compute_capability=self.compute_capability
            )

        compute_type = SimpleNamespace(COMPUTE_TYPE_TF32=1)
        return SimpleNamespace(
            ndarray=_NoArray,
            empty=_empty,
            zeros=np.zeros,
            asarray=np.asarray,
            ascontiguousarray=np.ascontiguousarray,
            matmul=_matmul,
            abs=np.abs,
            max=np.max,
            cuda=SimpleNamespace(
                Device=device,
                driver=SimpleNamespace(
                    occupancyMaxActiveBlocksPerMultiprocessor=lambda *_: self.blocks_at_once
                ),
            ),
            _core=SimpleNamespace(
                get_compute_type=lambda _: int(self.tf32), _routines_linalg=compute_type
            ),
        )


def _empty(shape: tuple[int, ...], dtype: Any) -> Any:
    """What nobody writes stays NaN."""
    return np.full(shape, np.nan, dtype)


def _matmul(a: Any, b: Any, out: Any) -> None:
    """As cuBLAS does: 16-bit numbers are summed up in float32."""
    computed = np.result_type(a.dtype if a.dtype.itemsize > 2 else np.float32)
    assert out.flags.c_contiguous
    with np.errstate(all="ignore"):  # a GPU does not warn
        out[...] = np.matmul(a.astype(computed), b.astype(computed)).astype(out.dtype)
