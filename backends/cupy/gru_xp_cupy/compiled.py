"""Compiled kernels, cached by the parameters for which they are compiled."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Timer
from typing import Any

import cupy

from gru_xp_cupy.sources import OPTIONS, source

_PATIENCE = 1.0  # seconds after which a message explains the wait

_log = logging.getLogger("gru_xp")


@cache
def gates(function: str, number: str, /) -> Any:
    """Return a kernel of ``gates.cu`` for arrays of `number`, a type in ``numbers.cuh``."""
    module = cupy.RawModule(
        code=source("gates.cu"), options=(*OPTIONS, f"-DGRU_XP_NUMBER={number}")
    )
    return _compiled(module, function, number)


@cache
def persistent(
    function: str, tile: str, early: int, held: int, streams: bool, device: int, /
) -> Any:
    """Return a kernel of ``persistent.cu`` for a tile, a type in ``tile.cuh``, and three macros.

    There is one kernel per device, because the maximum of shared memory is an attribute of the
    kernel.
    """
    module = cupy.RawModule(
        code=source("persistent.cu"),
        options=(
            *OPTIONS,
            f"-DGRU_XP_TILE={tile}",
            f"-DGRU_XP_EARLY={early}",
            f"-DGRU_XP_HELD={held}",
            f"-DGRU_XP_STREAMS={int(streams)}",
        ),
        enable_cooperative_groups=True,
    )
    return _compiled(module, function, tile)


def _compiled(module: Any, function: str, what: str) -> Any:
    with compiling(f"{function}, {what}"):
        kernel = module.get_function(function)
        _ = kernel.num_regs  # triggers the compilation, which CuPy defers until it is needed
    return kernel


@contextmanager
def compiling(what: str, /) -> Iterator[None]:
    """Log a message if the compilation within the block takes long."""
    timer = Timer(
        _PATIENCE,
        _log.warning,
        (f"compiling a CUDA kernel ({what}). CuPy caches it on disk, so later runs start faster",),
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
