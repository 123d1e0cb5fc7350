"""The GPU of CuPy's contestants: its description, and freeing its memory between cases."""

from __future__ import annotations

import gc
import importlib
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from gru_xp.bench import floor

_DRIVER = Path("/proc/driver/nvidia/version")


def describe(precision: str, /) -> dict[str, Any]:
    """Return the name, the driver, versions of CUDA components, and bounds for a precision.

    Unknown values are None. torch's versions are included only if torch has been imported.
    """
    cuda = importlib.import_module("cupy").cuda
    device = cuda.Device()
    chip = floor.chip(device.attributes, device.compute_capability, precision)
    torch = sys.modules.get("torch")
    return {
        "name": cuda.runtime.getDeviceProperties(device.id)["name"].decode(),
        "compute_capability": device.compute_capability,
        "driver": _driver(),
        "driver_cuda": _dotted(cuda.runtime.driverGetVersion()),
        "cuda_runtime": _dotted(cuda.runtime.runtimeGetVersion()),
        "torch_cuda": torch.version.cuda if torch else None,
        "cudnn": torch.backends.cudnn.version() if torch else None,
        "bounds": chip._asdict() if chip else None,
    }


def free() -> None:
    """Free the memory that CuPy and torch have cached, so that each can use that of the other."""
    gc.collect()
    importlib.import_module("cupy").get_default_memory_pool().free_all_blocks()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


def is_out_of_memory(error: BaseException | None, /) -> bool:
    """Whether an error or one of its causes is an out-of-memory error of CuPy or torch."""
    while error is not None:
        if type(error).__name__ == "OutOfMemoryError":
            return True
        error = error.__cause__
    return False


def _driver() -> str | None:
    with suppress(OSError):
        return _DRIVER.read_text().splitlines()[0].partition(":")[2].strip()
    return None


def _dotted(version: int) -> str:
    """Format a CUDA version number such as 13020 as 13.2."""
    return f"{version // 1000}.{version % 1000 // 10}"
