"""The machine: its processor, its CPUs, the versions of libraries, the peak of its arithmetic."""

from __future__ import annotations

import importlib
import os
import platform
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from types import ModuleType

from gru_xp.core import accelerators

_PACKAGES = (
    "gru-xp", "numpy", "array-api-compat", "torch", "onnx", "onnxruntime", "jax", "jaxlib",
    "ml_dtypes",
)  # fmt: skip
_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def cpus() -> list[int]:
    """Return the CPUs that this process may use, one of each core first.

    Two threads on the CPUs of one core share its arithmetic units and would appear slow.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # available on Linux
    if affinity is None:
        return list(range(os.cpu_count() or 1))
    seen: dict[str, int] = {}
    ranked = []
    for cpu in sorted(affinity(0)):
        try:
            core = Path(_TOPOLOGY.format(cpu)).read_text()
        except OSError:
            core = str(cpu)
        ranked.append((seen.setdefault(core, 0), cpu))
        seen[core] += 1
    return [cpu for _, cpu in sorted(ranked)]


def processor() -> str:
    """Return the name of the processor, if the platform provides it, else a general name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions(backend_name: str, /) -> dict[str, str]:
    """Return the versions of Python and of every library that may take part."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if backend_name not in found:
        found[backend_name] = str(importlib.import_module(backend_name).__version__)
    return found


def instruction_set() -> str | None:
    """Return the instruction set chosen by NumPy's accelerator; None if it is not known."""
    tell = getattr(accelerators.find("numpy").module, "isa", None)
    return str(tell()) if tell else None


def peak_flops(dtype: str, threads: int, /) -> float | None:
    """Measure the FLOP/s of fused multiply-adds (two operations each) on all threads at once.

    Return None if there is no NumPy accelerator that can measure them.
    """
    module: ModuleType | None = accelerators.find("numpy").module
    measure = getattr(module, "measure_fma_peak", None)
    if measure is None:
        return None
    with ThreadPoolExecutor(threads) as pool:
        return float(sum(pool.map(measure, [dtype] * threads)))
