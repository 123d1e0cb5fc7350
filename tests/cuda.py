"""CuPy's accelerator without a GPU: the text of its kernels, compiled for the CPU, and run there.

`Kernel` stands where CuPy's compiled kernel does, and `stand_in` where ``cupy`` does, with NumPy's
arrays; all between is the accelerator's own, Python and CUDA.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import os
import shutil
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

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
    file: str, defines: tuple[str, ...], folder: Path, /, faults: tuple[tuple[str, str], ...] = ()
) -> Any:
    """Compile a file of kernels; `faults` are texts to replace in it, each there once."""
    from gru_xp_cupy.sources import source

    text = source(file, device=FOLDER / "device.cuh")
    for right, wrong in faults:
        if text.count(right) != 1:  # not an assertion, as which a fault is found
            raise ValueError(f"not once in {file}: {right}")
        text = text.replace(right, wrong)
    return compiled(text, KERNELS[file], tuple(f"-D{each}" for each in defines), folder)


def compiled(text: str, kernels: tuple[str, ...], options: tuple[str, ...], folder: Path) -> Any:
    """Compile a text for the CPU, which ``run_KERNEL`` runs."""
    text += "".join(f"GRU_XP_EXPORT({name})\n" for name in kernels)
    built = folder / f"{hashlib.sha256(repr((text, options)).encode()).hexdigest()}.so"
    if built.exists():
        return ctypes.CDLL(str(built))
    whole = built.with_suffix(f".{os.getpid()}")  # until another process may take it
    command = [
        str(COMPILER),
        *FLAGS,
        *options,
        *("-include", "cuda_on_cpu.hpp", f"-I{FOLDER}", "-x", "c++", "-", "-o", str(whole)),
    ]
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    whole.rename(built)
    return ctypes.CDLL(str(built))


class Kernel:
    """A kernel as CuPy would give it."""

    def __init__(self, run: Any, title: str, machine: Machine) -> None:
        self._run, self._title, self._machine = run, title, machine
        self.max_dynamic_shared_size_bytes = 48 << 10
        self.kernel = SimpleNamespace(ptr=self)  # what the stand-in's driver launches

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int],
        arguments: tuple[Any, ...],
        shared_mem: int = 0,
    ) -> None:
        """Run it to its end."""
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        values = [_value(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        x, y = (*grid, 1)[:2]
        self.launch(x, y, block[0], shared_mem, ctypes.addressof(pointers))

    def launch(self, x: int, y: int, threads: int, shared: int, arguments: int) -> None:
        """Run it to its end, from the address of the arguments' addresses."""
        self._machine.launched.append(self._title)
        outcome = self._run(
            *map(ctypes.c_uint, (x, y, threads)),
            ctypes.c_size_t(shared),
            ctypes.c_uint(self._machine.seed),
            ctypes.c_void_p(arguments),
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


class Counts(NamedTuple):
    """What a launch has done."""

    loaded: int
    """Bytes that bypass the L1 cache."""
    lines: int
    """Lines of 128 bytes that loads of warps which bypass the L1 cache touch."""
    kept: int
    """Bytes of weights from shared memory."""
    read_only: int
    """Bytes of weights from global memory."""
    instructions: int
    """Of tensor cores."""


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
            "L2CacheSize": 50 << 20,
        }
        self.compute_capability = "90"
        self.launched: list[str] = []
        self.built: Any = None  # the library of the last kernel
        self.replaced = SimpleNamespace()  # functions of `gru_xp_cupy.compiled`

    def counts(self) -> Counts:
        """Return what the last launch has done."""
        counted = [ctypes.c_uint64() for _ in Counts._fields]
        self.built.counts(*map(ctypes.byref, counted))
        return Counts(*(each.value for each in counted))

    def gates(self, function: str, number: str) -> Kernel:
        """Stand in for `gru_xp_cupy.compiled.gates`."""
        return self._kernel("gates.cu", function, f"GRU_XP_NUMBER={number}")

    def persistent(
        self, function: str, tile: str, early: int, held: int, streams: bool, device: int
    ) -> Kernel:
        """Stand in for `gru_xp_cupy.compiled.persistent`."""
        macros = {"TILE": tile, "EARLY": early, "HELD": held, "STREAMS": int(streams)}
        defines = (f"GRU_XP_{name}={value}" for name, value in macros.items())
        return self._kernel("persistent.cu", function, *defines)

    def _kernel(self, file: str, function: str, *defines: str) -> Kernel:
        faults = self.faults if file == "persistent.cu" else ()
        self.built = library(file, defines, self.folder, faults)
        run = getattr(self.built, f"run_{function}")
        title = " ".join((function, *(each.partition("=")[2] for each in defines)))
        return Kernel(run, title, self)

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
            zeros=_zeros,
            asarray=np.asarray,
            ascontiguousarray=np.ascontiguousarray,
            matmul=_matmul,
            abs=np.abs,
            max=np.max,
            arange=np.arange,
            cuda=SimpleNamespace(
                Device=device,
                device=SimpleNamespace(get_cublas_handle=lambda: 0),
                driver=SimpleNamespace(
                    occupancyMaxActiveBlocksPerMultiprocessor=lambda *_: self.blocks_at_once,
                    launchKernel=_launch,
                ),
                cublas=SimpleNamespace(gemmEx=_gemm),
                get_current_stream=lambda: SimpleNamespace(ptr=0),
                memory=SimpleNamespace(OutOfMemoryError=MemoryError),
            ),
            _core=SimpleNamespace(
                get_compute_type=lambda _: int(self.tf32), _routines_linalg=compute_type
            ),
        )


def _empty(shape: int | tuple[int, ...], dtype: Any) -> Any:
    """What nobody writes stays NaN; aligned as CuPy's memory is."""
    dtype, aligned = np.dtype(dtype), 512
    nbytes = dtype.itemsize * int(np.prod(shape))
    memory = np.zeros(nbytes + aligned, np.uint8)
    first = -memory.ctypes.data % aligned
    array = memory[first : first + nbytes].view(dtype).reshape(shape)
    array[...] = 0 if dtype.kind in "iu" else np.nan
    return array


def _zeros(shape: int | tuple[int, ...], dtype: Any) -> Any:
    array = _empty(shape, dtype)
    array[...] = 0
    return array


def _matmul(a: Any, b: Any, out: Any) -> None:
    """As cuBLAS does: 16-bit numbers are summed up in float32."""
    computed = np.result_type(a.dtype if a.dtype.itemsize > 2 else np.float32)
    assert out.flags.c_contiguous
    with np.errstate(all="ignore"):  # a GPU does not warn
        out[...] = np.matmul(a.astype(computed), b.astype(computed)).astype(out.dtype)


def _launch(
    kernel: Kernel, x: int, y: int, _z: int, threads: int, _y: int, _: int, *rest: int
) -> None:
    shared, _stream, arguments, _extra = rest
    kernel.launch(x, y, threads, shared, arguments)


def _gemm(
    handle: int,
    *sizes: int,
) -> None:
    """CuBLAS's product, whose matrices have their columns together, as far as it is used."""
    transposed, plain, m, n, k, alpha, a, a_type, lda, b, b_type, ldb, beta, c, c_type, ldc = sizes[
        :16
    ]
    compute, algorithm = sizes[16:]
    assert not handle
    assert not plain
    assert algorithm == -1
    assert a_type == b_type == c_type
    assert compute == (70 if a_type == 1 else 68) or (compute, a_type) == (77, 0)
    dtype = TYPES[a_type]
    scalar = np.dtype(np.float64 if a_type == 1 else np.float32)
    assert [float(_at(each, 1, scalar)[0]) for each in (alpha, beta)] == [1, 0]
    assert (ldb, ldc) == (k, m)
    assert lda == (k if transposed else m)
    weights = _at(a, m * k, dtype).reshape((m, k) if transposed else (k, m))
    rows, out = _at(b, n * k, dtype).reshape(n, k), _at(c, n * m, dtype).reshape(n, m)
    _matmul(rows, weights.T if transposed else weights, out)


TYPES = {0: np.dtype("float32"), 1: np.dtype("float64"), 2: np.dtype("float16")}
with suppress(ImportError):
    TYPES[14] = np.dtype(importlib.import_module("ml_dtypes").bfloat16)


def _at(address: int, count: int, dtype: Any) -> Any:
    memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    return np.frombuffer(memory, dtype)


def address(array: Any) -> int:
    """Stand in for `gru_xp_cupy.arrays.address`."""
    return int(array.ctypes.data) if isinstance(array, np.ndarray) else 0
