"""Accelerators: modules that run the GRU of one array library faster.

Accelerators are found through the entry point group ``gru_xp.backends``. The name of an entry point
is that of the array library; the module that it refers to follows `gru_xp.core.contract`. The
folder ``backends/`` of the repository contains our accelerators, and explains how to write one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any, NamedTuple

from gru_xp.arrays.place import Place
from gru_xp.core.loop import PLAIN, Loop

GROUP = "gru_xp.backends"

_switch: ContextVar[bool] = ContextVar(
    "gru_xp_accelerators", default=os.environ.get("GRU_XP_ACCELERATORS", "1") != "0"
)


class Found(NamedTuple):
    """The accelerator of one array library, or why there is none."""

    module: ModuleType | None
    reason: str


@contextmanager
def use_accelerators(enabled: bool) -> Iterator[None]:
    """Context manager that switches the accelerators on or off within a ``with`` block.

    The environment variable ``GRU_XP_ACCELERATORS=0`` switches them off for the whole process. The
    context manager affects the current thread or asyncio task only. A function that ``jax.jit`` or
    ``torch.compile`` has already compiled keeps running the code with which it was traced.

    Parameters
    ----------
    enabled : bool
        Whether accelerators are used.

    Raises
    ------
    TypeError
        If `enabled` is not a bool.

    Examples
    --------
    >>> import numpy as np
    >>> import gru_xp
    >>> cell = gru_xp.GRUCell(3, 4)
    >>> with gru_xp.use_accelerators(False):  # the portable loop, whatever is installed
    ...     h = cell(np.ones((2, 3), dtype=np.float32))
    """
    if not isinstance(enabled, bool):
        raise TypeError(f"use_accelerators: expected True or False, got {enabled!r}")
    token = _switch.set(enabled)
    try:
        yield
    finally:
        _switch.reset(token)


def are_on() -> bool:
    """Whether the accelerators are switched on in the current thread or task."""
    return _switch.get()


def accelerated(name: str, place: Place, /, loop: Loop = PLAIN) -> Callable[..., Any] | None:
    """Return a function of the accelerator for arrays of a place, or None.

    It is None if there is no accelerator or no such function, if the loop uses an option that the
    accelerator does not support, or if accelerators are switched off.

    Parameters
    ----------
    name : str
        Name of a function in `gru_xp.core.contract`.
    place : Place
        Place of the arrays.
    loop : Loop
        Options that the function must support.
    """
    library = place.library
    module = (_found[library] if library in _found else find(library)).module
    function = getattr(module, name, None)
    if module is None or function is None or not are_on():
        return None
    if loop is not PLAIN and not module.OPTIONS.issuperset(loop.options()):
        return None
    return function  # type: ignore[no-any-return]


def find(library: str, /) -> Found:
    """Load the accelerator of an array library; warn once if it fails to load."""
    if library not in _found:
        _found[library] = _load(library)
    return _found[library]


# A plain dict instead of functools.cache, which torch.compile cannot trace.
_found: dict[str, Found] = {}
_told: set[tuple[type[Exception], str]] = set()  # errors for which a warning has been issued


def running(library: str, /) -> str:
    """Describe what currently runs the loop over time for a backend's arrays."""
    found = find(library)
    if found.module is None:
        return f"portable loop, {found.reason}"
    return found.reason if are_on() else f"portable loop, {found.reason} is switched off"


def _load(library: str) -> Found:
    from importlib.metadata import entry_points  # slow to import

    candidates = sorted(entry_points(group=GROUP, name=library), key=lambda point: point.value)
    if not candidates:
        return Found(None, "no accelerator installed")
    point = candidates[0]
    try:
        module: ModuleType = point.load()
        for function in ("forward", "backward"):
            if not callable(getattr(module, function, None)):
                raise AttributeError(f"it has no function {function}")
        if not isinstance(getattr(module, "OPTIONS", None), frozenset):
            raise AttributeError("it has no frozenset OPTIONS")
        if library == "torch":
            _let_torch_compile_ask()
    except Exception as error:  # the portable loop can run after any failure
        reason = f"accelerator {point.value} failed to load: {type(error).__name__}: {error}"
        _found[library] = Found(None, reason)  # set before the warning, which may raise
        # torch's accelerator uses NumPy's and fails with the same error: warn only once for both.
        cause = type(error), str(error)
        if are_on() and cause not in _told:
            _told.add(cause)
            warnings.warn(
                f"gru_xp: {reason}. The portable loop runs instead. Set the environment variable "
                "GRU_XP_ACCELERATORS=0 to silence this warning",
                RuntimeWarning,
                stacklevel=2,
            )
        return Found(None, reason)
    describe = getattr(module, "describe", None)
    return Found(module, f"{point.value} ({describe()})" if describe else point.value)


def _let_torch_compile_ask() -> None:
    """Make torch.compile treat the switch as a constant, because it cannot trace a ContextVar."""
    import torch

    torch.compiler.assume_constant_result(are_on)
