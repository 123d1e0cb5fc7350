"""Compiled kernels, by what they are compiled for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Timer
from typing import Any

import cupy

from gru_xp_cupy.sources import OPTIONS, source

_PATIENCE = 1.0  # seconds, after which a user is told what is being waited for

_log = logging.getLogger("gru_xp")


@cache
def gates(function: str, number: str, /) -> Any:
    """Kernel of ``gates.cu`` for arrays of `number`, a type in ``numbers.cuh``."""
    module = cupy.RawModule(
        code=source("gates.cu"), options=(*OPTIONS, f"-DGRU_XP_NUMBER={number}")
    )
    return _compiled(module, function, number)


@cache
def persistent(function: str, tile: str, early: int, streams: bool, device: int, /) -> Any:
    """Kernel of ``persistent.cu`` for a tile, a type in ``tile.cuh``, and the other two macros.

    One for each device, as the shared memory that it may have is set on the kernel.
    """
    module = cupy.RawModule(
        code=source("persistent.cu"),
        options=(
            *OPTIONS,
            f"-DGRU_XP_TILE={tile}",
            f"-DGRU_XP_EARLY={early}",
            f"-DGRU_XP_STREAMS={int(streams)}",
        ),
        enable_cooperative_groups=True,
    )
    return _compiled(module, function, tile)


def _compiled(module: Any, function: str, what: str) -> Any:
    with compiling(f"{function}, {what}"):
        kernel = module.get_function(function)
        _ = kernel.num_regs  # CuPy compiles when it has to
    return kernel


@contextmanager
def compiling(what: str, /) -> Iterator[None]:
    """Say so if what is done within takes long, as CuPy compiles at the first use."""
    timer = Timer(
        _PATIENCE,
        _log.warning,
        (f"compiling a CUDA kernel ({what}): CuPy keeps it on disk, the next start is quick",),
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
