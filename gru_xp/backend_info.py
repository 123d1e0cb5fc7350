"""The list of backends: the state of each array library, and what runs its loop over time."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass

from gru_xp.arrays import libraries
from gru_xp.arrays.devices import device_name, devices
from gru_xp.core.accelerators import are_on, find, running


@dataclass(frozen=True)
class BackendInfo:
    """Information about one array library, as returned by `backends`."""

    name: str
    usable: bool
    reason: str
    """Why the library is not usable; empty if it is."""
    version: str | None
    devices: tuple[str, ...]
    accelerator: str | None
    """Name and description of the accelerator that runs the recurrence. None if the portable loop
    runs it, which is also the case while accelerators are switched off."""
    accelerator_reason: str
    """Why there is no accelerator; empty if there is one."""


def backends() -> list[BackendInfo]:
    """List all supported array libraries, with their version, devices and accelerator.

    Every installed library is imported.

    Returns
    -------
    list of BackendInfo
        One entry per library. Libraries that are not usable are included, with the reason.
    """
    return [_info(name) for name in libraries.NAMESPACES]


def _info(name: str) -> BackendInfo:
    reason = libraries.unusable(name)
    if reason:
        return BackendInfo(name, False, reason, _version(name), (), None, reason)
    found = find(name)
    runs = found.module is not None and are_on()
    return BackendInfo(
        name=name,
        usable=True,
        reason="",
        version=_version(name),
        devices=tuple(device_name(each) for each in devices(name)),
        accelerator=found.reason if runs else None,
        accelerator_reason="" if runs else running(name).removeprefix("portable loop, "),
    )


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # slow to import

    if name in sys.modules or importlib.util.find_spec(name) is not None:
        try:
            return str(importlib.import_module(name).__version__)
        except (Exception, SystemExit):
            pass  # installed but broken; unusable() reports the reason
    try:
        return version(name.replace("_", "-"))
    except PackageNotFoundError:
        return None
