"""Accelerators: modules that run the GRU of one array library faster.

An accelerator is found through the entry point group ``gru_xp.backends``, where its name is that
of the array library it serves. `gru_xp.core.contract` says what the module it names has. The
folder ``backends/`` of the repository holds ours, and says how to write another.
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
    """Switch the accelerators on or off within a ``with`` block.

    The environment variable ``GRU_XP_ACCELERATORS=0`` switches them off from the start. The switch
    belongs to the current thread or task. A function that ``jax.jit`` or ``torch.compile`` has
    already compiled keeps the path that it was traced with.

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
    """Whether the accelerators are switched on, here and now."""
    return _switch.get()


def accelerated(name: str, place: Place, /, loop: Loop = PLAIN) -> Callable[..., Any] | None:
    """Return a function of the accelerator for arrays of a place; None where it has none to use.

    It has none if it does not take an option that the loop uses, or is switched off.

    Parameters
    ----------
    name : str
        Of a function in `gru_xp.core.contract`.
    place : Place
    loop : Loop
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
    """Load the accelerator of an array library; one that fails to load warns once."""
    if library not in _found:
        _found[library] = _load(library)
    return _found[library]


_found: dict[str, Found] = {}  # a plain dict, which torch.compile can trace, unlike a cache
_told: set[tuple[type[Exception], str]] = set()  # errors that a warning was given of


def running(library: str, /) -> str:
    """Tell what runs the loop over time of a backend's arrays, here and now."""
    found = find(library)
    if found.module is None:
        return f"portable loop, {found.reason}"
    return found.reason if are_on() else f"portable loop, {found.reason} is switched off"


def _load(library: str) -> Found:
    from importlib.metadata import entry_points  # loaded late: slow

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
    except Exception as error:  # whatever it is, the portable loop still runs
        reason = f"accelerator {point.value} failed to load: {type(error).__name__}: {error}"
        _found[library] = Found(None, reason)  # before a warning that may be an error
        # torch's fails with NumPy's, which it is built on, and for one reason there is one warning.
        cause = type(error), str(error)
        if are_on() and cause not in _told:
            _told.add(cause)
            warnings.warn(
                f"gru_xp: {reason}; the portable loop runs instead (GRU_XP_ACCELERATORS=0 in the "
                "environment silences this)",
                RuntimeWarning,
                stacklevel=2,
            )
        return Found(None, reason)
    describe = getattr(module, "describe", None)
    return Found(module, f"{point.value} ({describe()})" if describe else point.value)


def _let_torch_compile_ask() -> None:
    """Have torch.compile take the switch as it is when it traces: it cannot trace a ContextVar."""
    import torch

    torch.compiler.assume_constant_result(are_on)
