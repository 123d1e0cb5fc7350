"""Devices of array libraries: the device of an array, all devices, and a device by name."""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import Any

from gru_xp.arrays.libraries import BackendError, library_of, namespace
from gru_xp.arrays.typing import Array, Device


def device(array: Array, /) -> Device | None:
    """Return the device of an array.

    It is None if the device is unknown, as under ``jax.jit``, or if there are several, as for a
    sharded JAX array.
    """
    import array_api_compat

    library = library_of(array)
    if library == "numpy":
        return "cpu"
    if library in ("torch", "cupy"):
        return array.device  # torch.compile warns about the caches in array_api_compat
    found = array_api_compat.device(array)
    return None if hasattr(found, "device_set") else found


def device_name(device: Device, /) -> str:
    """Return a name of a device that `as_device` accepts, such as "cpu" or "cuda:0"."""
    kind = type(device).__module__.partition(".")[0]
    if kind == "cupy":
        return f"cuda:{device.id}"
    if kind == "array_api_strict":
        return str(device._device)
    return str(device)


def devices(library: str, /) -> list[Device]:
    """List the devices of a usable backend, as objects of its library."""
    xp = namespace(library)
    if library == "torch":
        # torch's own listing includes devices that this machine does not have
        count = xp.cuda.device_count() if xp.cuda.is_available() else 0
        return [xp.device("cpu"), *(xp.device("cuda", index) for index in range(count))]
    if library == "jax":
        jax = importlib.import_module("jax")
        found = list(jax.devices())
        with suppress(RuntimeError):  # JAX_PLATFORMS may exclude the CPU
            found += [each for each in jax.devices("cpu") if each not in found]
        return found
    return list(xp.__array_namespace_info__().devices())


def as_device(library: str, device: Device | str | int | None, /) -> Device | None:
    """Return the device object for a name, an index or a device object; None stays None.

    Raises
    ------
    BackendError
        If the library does not have this device on this machine.
    """
    if device is None:
        return None
    if library == "torch":
        try:
            return namespace(library).empty(0, device=device).device
        except Exception as error:
            raise BackendError(
                f"torch has no device {device!r} on this machine: {error}"
            ) from error
    known = devices(library)
    for index, each in enumerate(known):
        if device is each or device == each or str(device).lower() in _names(library, each, index):
            return each
    listed = ", ".join(device_name(each) for each in known)
    raise BackendError(f"{library} has no device {device!r} on this machine. It has {listed}")


def _names(library: str, device: Any, index: int) -> set[str]:
    names = {str(index), str(device).lower(), device_name(device).lower()}
    if hasattr(device, "platform"):
        names.add(str(device.platform).lower())
    if library == "cupy":
        names.add("cuda")
    return names
