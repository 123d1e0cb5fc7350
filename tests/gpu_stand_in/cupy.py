"""Stands in for CuPy in a process of its own: NumPy's arrays, and kernels that run on the CPU.

`tests.cuda` has the parts. Kernels are compiled from the text that CuPy is given, with the tests'
``device.cuh`` in place of CUDA's.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy import *  # noqa: F403

from tests import cuda as _cuda

_FOLDER = Path(os.environ["GRU_XP_STAND_IN"])
_machine = _cuda.Machine(_FOLDER)
_machine.blocks_at_once = 4
_parts = _machine.cupy()
__version__ = "14.2.0"

empty, abs, max = _parts.empty, np.abs, np.max
ndarray = np.ndarray
asnumpy = np.asarray


def matmul(a: Any, b: Any, out: Any = None) -> Any:
    """As CuPy's."""
    if out is None:
        return np.matmul(a, b)
    _parts.matmul(a, b, out=out)
    return out


class _Event:
    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass


def _device(number: int = 0) -> Any:
    device = _parts.cuda.Device(number)
    device.synchronize = lambda: None
    device.attributes = {
        **device.attributes,
        "ClockRate": 1_980_000,
        "MemoryClockRate": 2_619_000,
        "GlobalMemoryBusWidth": 5120,
        "L2CacheSize": 50 << 20,
    }
    return device


def _set_compute_type(dtype: Any, kind: int) -> None:
    assert dtype == np.float32
    _machine.tf32 = kind == _core._routines_linalg.COMPUTE_TYPE_TF32


cuda = SimpleNamespace(
    Device=_device,
    Event=_Event,
    get_elapsed_time=lambda start, end: 1e3 * (end.at - start.at),
    set_allocator=lambda allocator: None,
    driver=_parts.cuda.driver,
    device=_parts.cuda.device,
    memory=_parts.cuda.memory,
    cublas=_parts.cuda.cublas,
    get_current_stream=_parts.cuda.get_current_stream,
    runtime=SimpleNamespace(
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda number: {"name": b"stand-in", "multiProcessorCount": 4},
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 13000,
    ),
)
_machine.tf32 = os.environ.get("CUPY_TF32") == "1"
_core = _parts._core
_core.set_compute_type = _set_compute_type
_core._routines_linalg.COMPUTE_TYPE_DEFAULT = 0


def get_default_memory_pool() -> Any:
    """As CuPy's."""
    return SimpleNamespace(free_all_blocks=lambda: None)


class RawModule:
    """As CuPy's."""

    def __init__(
        self, code: str, options: tuple[str, ...], enable_cooperative_groups: bool = False
    ) -> None:
        self._code, self._options = code, options

    def get_function(self, name: str) -> _cuda.Kernel:
        """Compile it for the CPU."""
        options = tuple(each for each in self._options if each.startswith("-D"))
        library = _cuda.compiled(_for_cpu(self._code), (name,), options, _FOLDER)
        kernel = _cuda.Kernel(getattr(library, f"run_{name}"), name, _machine)
        kernel.num_regs = 0
        return kernel


@cache
def _for_cpu(code: str) -> str:
    from gru_xp_cupy.sources import KERNELS

    on_device, on_cpu = (
        (folder / "device.cuh").read_text().partition('#include "numbers.cuh"\n')[2]
        for folder in (KERNELS, _cuda.FOLDER)
    )
    assert on_device in code, "the text is not that of kernels/device.cuh"
    return code.replace(on_device, on_cpu)
