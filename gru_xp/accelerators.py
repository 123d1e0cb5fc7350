"""Accelerators: modules that run the recurrence of one array library faster.

An accelerator is found through the entry point group ``gru_xp.backends``, where its name is that
of the array library it serves. The module it names has two functions, ``forward`` and
``backward``, that take the arguments of those in `gru_xp.recurrence`, `xp` excepted, and return
what those return, or NotImplemented for a call that they leave to the portable loop. It may have
more: ``matmul`` as in `gru_xp.products`, where its library's own product is slow; ``step``, see
`quick_step`; ``describe()``, a word on what it is.

The folder ``backends/`` of the repository holds ours, and says how to write another.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any, NamedTuple

from gru_xp import backend
from gru_xp.typing import Array, Namespace

GROUP = "gru_xp.backends"

_enabled: ContextVar[bool] = ContextVar(
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
    belongs to the current thread or task. A function that ``jax.jit`` has already compiled keeps
    the path that it was traced with.

    Examples
    --------
    >>> import gru_xp
    >>> cell = gru_xp.GRUCell(3, 4)
    >>> with gru_xp.use_accelerators(False):  # the portable loop, whatever is installed
    ...     h = cell(x)  # doctest: +SKIP
    """
    token = _enabled.set(bool(enabled))
    try:
        yield
    finally:
        _enabled.reset(token)


def accelerator(xp: Namespace, /) -> ModuleType | None:
    """Return the accelerator for arrays of namespace `xp`, None where there is none to use."""
    name = backend.name_of(xp)
    found = find(name)
    # In this order, as torch.compile cannot trace a ContextVar, and torch has no accelerator.
    return found.module if found.module is not None and _enabled.get() else None


def quick_step(like: Array, /) -> Callable[..., Any] | None:
    """Return the accelerator's function for a whole step of a cell in eval, None without one.

    Everything between a call of the cell and the arithmetic takes longer than the arithmetic of a
    small cell, so that this one passes by all of it: ``step(x, h, weight_ih, weight_hh)``, or
    with ``bias_ih, bias_hh`` after these, gets x and h as the user gave them, h perhaps None, and
    returns ``h_t`` if all are arrays of one dtype that it takes and of shapes that fit; else
    NotImplemented.

    Parameters
    ----------
    like : array
        One of the weights, whose library counts.
    """
    name = _names.get(type(like))
    if name is None:
        xp = backend.array_namespace(like)
        name = _names[type(like)] = backend.name_of(xp)
    step = getattr(find(name).module, "step", None)
    return step if step is not None and _enabled.get() else None  # in the order of `accelerator`


_names: dict[type, str] = {}


def find(name: str, /) -> Found:
    """Load the accelerator of the array library `name`; one that fails to load warns once."""
    if name not in _found:
        _found[name] = _load(name)
    return _found[name]


_found: dict[str, Found] = {}  # a plain dict, which torch.compile can trace, unlike a cache


def running(name: str, /) -> str:
    """Tell what runs the loop over time of a backend's arrays, here and now."""
    found = find(name)
    if found.module is None:
        return f"portable loop, {found.reason}"
    return found.reason if _enabled.get() else f"portable loop, {found.reason} is switched off"


def _load(name: str) -> Found:
    from importlib.metadata import entry_points  # loaded late: slow

    candidates = sorted(entry_points(group=GROUP, name=name), key=lambda point: point.value)
    if not candidates:
        return Found(None, "no accelerator installed")
    point = candidates[0]
    try:
        module: ModuleType = point.load()
        for function in ("forward", "backward"):
            if not callable(getattr(module, function, None)):
                raise AttributeError(f"it has no function {function}")
    except Exception as error:  # whatever it is, the portable loop still runs
        reason = f"accelerator {point.value} failed to load: {type(error).__name__}: {error}"
        _found[name] = Found(None, reason)  # before a warning that may be an error
        if _enabled.get():
            warnings.warn(
                f"gru_xp: {reason}; the portable loop runs instead (GRU_XP_ACCELERATORS=0 in the "
                "environment silences this)",
                RuntimeWarning,
                stacklevel=2,
            )
        return Found(None, reason)
    describe = getattr(module, "describe", None)
    return Found(module, f"{point.value} ({describe()})" if describe else point.value)
