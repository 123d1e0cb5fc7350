"""Array libraries: which are here and usable, and arrays in and out of them.

A *backend* is an array library that gru_xp knows by name. No backend but NumPy is imported before
it is asked for, and array_api_compat's namespaces are imported as late: they are slow to load.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

from gru_xp.typing import Array, Device, DType, Namespace

P = ParamSpec("P")
R = TypeVar("R")

NAMESPACES = {
    "numpy": "array_api_compat.numpy",
    "cupy": "array_api_compat.cupy",
    "torch": "array_api_compat.torch",
    "jax": "jax.numpy",
    "array_api_strict": "array_api_strict",
}
"""The known backends and where each one's Array API namespace is imported from."""

_INSTALL = {
    "numpy": "pip install numpy",
    "cupy": "pip install 'gru-xp[cuda13]' (or [cuda12], for the CUDA version of your driver)",
    "torch": "pip install torch",
    "jax": "pip install jax",
    "array_api_strict": "pip install array-api-strict",
}


class BackendError(RuntimeError):
    """An array library, or a device or dtype of it, was asked for and cannot be had."""


@dataclass(frozen=True)
class BackendInfo:
    """What `backends` tells of one array library."""

    name: str
    usable: bool
    reason: str
    """Why it is not usable; empty where it is."""
    version: str | None
    devices: tuple[str, ...]
    accelerator: str | None
    """The module that runs its recurrence; None where the portable loop does."""
    accelerator_reason: str
    """Why there is no accelerator; empty where there is one."""


def backends() -> list[BackendInfo]:
    """List every known array library: usable or not and why, version, devices, accelerator.

    Imports each library that is installed.
    """
    return [_info(name) for name in NAMESPACES]


def _info(name: str) -> BackendInfo:
    from gru_xp.accelerators import find

    reason = unusable(name)
    if reason:
        return BackendInfo(name, False, reason, _version(name), (), None, reason)
    found = find(name)
    return BackendInfo(
        name=name,
        usable=True,
        reason="",
        version=_version(name),
        devices=tuple(device_name(each) for each in devices(name)),
        accelerator=found.reason if found.module else None,
        accelerator_reason="" if found.module else found.reason,
    )


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # loaded late: slow

    if name in sys.modules or importlib.util.find_spec(name) is not None:
        try:
            return str(importlib.import_module(name).__version__)
        except Exception:
            pass  # installed but broken: unusable() says why
    try:
        return version(name.replace("_", "-"))
    except PackageNotFoundError:
        return None


@lru_cache
def unusable(name: str, /) -> str:
    """Why the backend cannot be used on this machine; an empty string where it can."""
    if name not in NAMESPACES:
        return f"unknown backend {name!r}: gru_xp knows {', '.join(NAMESPACES)}"
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        return f"{name} is not installed: {_INSTALL[name]}"
    try:
        importlib.import_module(NAMESPACES[name])
        if name == "cupy":
            return _unusable_cuda()
        if name == "jax":
            importlib.import_module("jax").devices()  # fails where it can start no backend
    except Exception as error:  # an installed library can fail in any way, and is then reported
        return f"{name} is installed but fails to start: {type(error).__name__}: {error}"
    return ""


def _unusable_cuda() -> str:
    import cupy

    try:
        if cupy.cuda.runtime.getDeviceCount() == 0:
            return "cupy is installed but finds no CUDA device"
    except Exception as error:
        return f"cupy is installed but finds no usable CUDA device, or no driver for it: {error}"
    try:  # a device alone is not enough: kernels need NVRTC, products cuBLAS
        ones = cupy.ones((2, 2), dtype="float32")
        cupy.matmul(cupy.tanh(ones), ones)
    except Exception as error:
        return f"cupy finds a CUDA device but cannot compute on it: {error}"
    return ""


def namespace(name: str, /) -> Namespace:
    """Return the Array API namespace of the backend `name`.

    Raises
    ------
    BackendError
        If the library is unknown, not installed, or finds no device.
    """
    reason = unusable(name)
    if reason:
        raise BackendError(reason)
    return importlib.import_module(NAMESPACES[name])


def resolve(name: str, /) -> tuple[str, str]:
    """Turn a backend's name or "auto" into a name, and say why that one.

    "auto" is CuPy where a CUDA device is usable, NumPy otherwise.
    """
    if name != "auto":
        namespace(name)
        return name, "asked for by name"
    reason = unusable("cupy")
    if reason:
        return "numpy", f"no GPU: {reason}"
    return "cupy", "a CUDA device is usable"


@lru_cache
def _name_of(module: str) -> str:
    for name, path in NAMESPACES.items():
        if module in (name, path):
            return name
    return module.rpartition(".")[2]


def name_of(xp: Namespace, /) -> str:
    """Return the name of the backend that a namespace belongs to."""
    return _name_of(xp.__name__)


def array_namespace(*arrays: Array | None) -> Namespace:
    """Return the namespace that all arrays share (None is skipped); TypeError if they do not."""
    import array_api_compat

    # NumPy's small steps take microseconds, of which the general way would take several.
    if len(arrays) == 1 and type(arrays[0]) is np.ndarray:
        from array_api_compat import numpy as xp

        return xp

    return array_api_compat.array_namespace(*arrays)


def is_array(value: object, /) -> bool:
    """Whether the value is an array of any library that array-api-compat knows."""
    import array_api_compat

    if type(value) is np.ndarray:
        return True
    return not isinstance(value, np.generic) and bool(array_api_compat.is_array_api_obj(value))


def is_writeable(array: Array, /) -> bool:
    """Whether assignment into the array is possible: False on JAX, whose arrays do not change."""
    import array_api_compat

    return bool(array_api_compat.is_writeable_array(array))


def device(array: Array, /) -> Device:
    """Return the device of an array; None where it is not known yet, as under ``jax.jit``."""
    import array_api_compat

    if type(array) is np.ndarray:
        return "cpu"
    return array_api_compat.device(array)


def device_name(device: Device, /) -> str:
    """Return a name of a device that `as_device` takes back, such as "cpu" or "cuda:0"."""
    kind = type(device).__module__.partition(".")[0]
    if kind == "cupy":
        return f"cuda:{device.id}"
    if kind == "array_api_strict":
        return str(device._device)
    return str(device)


def on_device_of(array: Array, /) -> AbstractContextManager[Any]:
    """Make the array's device the current one, where its library has such a thing.

    CuPy puts new arrays, the results of operations too, on the current device.
    """
    context: AbstractContextManager[Any] = nullcontext()
    return array.device if name_of(array_namespace(array)) == "cupy" else context


def runs_on_device_of_weights(function: Callable[P, R], /) -> Callable[P, R]:
    """Run a function of weights or a tape, and of `xp`, within `on_device_of` their first array."""

    @wraps(function)
    def run(*arguments: P.args, **options: P.kwargs) -> R:
        if name_of(options["xp"]) != "cupy":
            return function(*arguments, **options)
        first: Any = arguments[0]
        while isinstance(first, (tuple, list)):
            first = first[0]
        with on_device_of(first):
            return function(*arguments, **options)

    return run


def same_device(one: Array, other: Array, /) -> bool:
    """Whether two arrays of one library share a device; unknown ones, as under jit, pass."""
    here, there = device(one), device(other)
    if here is None or there is None or here == there:
        return True
    if hasattr(one, "sharding") and hasattr(other, "sharding"):  # JAX: several devices each
        return bool(one.sharding.device_set & other.sharding.device_set)
    return False


def detached(value: Any, /) -> Any:
    """Cut torch tensors, alone or in tuples, off their autograd graph; all else is passed on."""
    if isinstance(value, tuple):
        parts = [detached(each) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value.detach() if hasattr(value, "detach") else value


def devices(name: str, /) -> list[Device]:
    """List the devices of a usable backend, in its library's own terms."""
    xp = namespace(name)
    if name == "torch":
        # torch's own listing names devices that this machine has not
        count = xp.cuda.device_count() if xp.cuda.is_available() else 0
        return [xp.device("cpu"), *(xp.device("cuda", index) for index in range(count))]
    if name == "jax":
        jax = importlib.import_module("jax")
        found = list(jax.devices())
        with suppress(RuntimeError):  # JAX_PLATFORMS may leave the CPU out
            found += [each for each in jax.devices("cpu") if each not in found]
        return found
    return list(xp.__array_namespace_info__().devices())


def as_device(xp: Namespace, device: Device | str | int | None, /) -> Device | None:
    """Turn a device's name, index or the library's own object into the object; None stays None.

    Raises
    ------
    BackendError
        If the library has no such device here.
    """
    if device is None:
        return None
    name = name_of(xp)
    if name == "torch":
        try:
            return xp.empty(0, device=device).device
        except Exception as error:
            raise BackendError(f"torch has no device {device!r} here: {error}") from error
    known = devices(name)
    for index, each in enumerate(known):
        names = {str(index), str(each).lower(), device_name(each).lower()}
        names |= {str(getattr(each, key)).lower() for key in ("platform",) if hasattr(each, key)}
        names |= {"cuda"} if name == "cupy" else set()
        if device is each or device == each or str(device).lower() in names:
            return each
    listed = ", ".join(device_name(each) for each in known)
    raise BackendError(f"{name} has no device {device!r} here: it has {listed}")


def from_numpy(
    array: np.ndarray[Any, Any], /, *, xp: Namespace, dtype: DType, device: Device | None = None
) -> Array:
    """Copy a NumPy array into the library of `xp`."""
    # Other libraries take neither a foreign byte order nor negative strides.
    host = np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True)
    return xp.asarray(host, dtype=dtype, device=device, copy=True)


def to_numpy(array: Array, /) -> np.ndarray[Any, Any]:
    """Copy an array of any known library and device into a new NumPy array.

    torch's bfloat16, which NumPy has not, becomes float32.
    """
    import array_api_compat

    name = name_of(array_namespace(array))
    if name == "cupy":
        return np.asarray(array.get())
    if name == "torch":
        array = array.detach().cpu()
        if str(array.dtype) == "torch.bfloat16":  # which NumPy has not
            array = array.float()
        array = array.numpy()
    if name == "array_api_strict":
        array = array_api_compat.to_device(array, array_namespace(array).Device("CPU_DEVICE"))
    return np.array(array)
