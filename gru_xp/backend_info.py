"""The list of backends: what each array library is here, and what runs its loop over time."""

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
    """What `backends` tells of one array library."""

    name: str
    usable: bool
    reason: str
    """Why it is not usable; empty where it is."""
    version: str | None
    devices: tuple[str, ...]
    accelerator: str | None
    """The module that runs its recurrence; None where the portable loop does, as where
    accelerators are switched off."""
    accelerator_reason: str
    """Why none does; empty where one does."""


def backends() -> list[BackendInfo]:
    """List every known array library: usable or not and why, version, devices, accelerator.

    Imports each library that is installed.
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
