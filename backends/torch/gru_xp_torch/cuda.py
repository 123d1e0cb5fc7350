"""CUDA tensors computed by CuPy's kernels on shared memory (DLPack) and torch's current stream.

This is off unless the environment variable ``GRU_XP_TORCH_CUDA`` is 1, because it has been tested
with a stand-in for CuPy, but not on a GPU. The memory of a result returns to CuPy's pool, for the
stream on which it was allocated. A tensor that is used on another stream must therefore not be
freed before that work has finished.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

from gru_xp.accelerator_api import Loop, Tape

DTYPES = frozenset({torch.float16, torch.float32, torch.float64})


@lru_cache
def is_on() -> bool:
    """Whether CuPy's kernels are switched on and CuPy is installed."""
    return os.environ.get("GRU_XP_TORCH_CUDA") == "1" and find_spec("cupy") is not None


def forward(gx: Any, h0: Any, weight_hh: Any, b_hn: Any, loop: Loop, /, *, keep_tape: bool) -> Any:
    """Return all states (T + 1, N, H) and, with `keep_tape`, the gates of a `Tape`."""
    with _torchs_stream(gx.device) as cupy:
        gx, h0, weight_hh, b_hn, lengths = _arrays(cupy, (gx, h0, weight_hh, b_hn, loop.lengths))
        result = _kernels().forward(
            gx, h0, weight_hh, b_hn, _loop(loop, lengths), keep_tape=keep_tape
        )
        if result is NotImplemented:
            return result
        h, tape = result
        # h and h_prev share memory, which the results of an operator must not do.
        states = cupy.concatenate([h, h0[None]] if loop.reverse else [h0[None], h])
        return _tensors([states, *(tape[1:] if keep_tape else ())])


def backward(dh: Any, dh_last: Any, tape: Tape, weight_hh: Any, loop: Loop, /) -> Any:
    """Return dgx, dh0 and dgh_n."""
    with _torchs_stream(dh.device) as cupy:
        dh, dh_last, weight_hh, lengths = _arrays(cupy, (dh, dh_last, weight_hh, loop.lengths))
        of_tape = Tape(*_arrays(cupy, tape))
        result = _kernels().backward(dh, dh_last, of_tape, weight_hh, _loop(loop, lengths))
        if result is NotImplemented:
            return result
        dgx, dgh_n, dh0 = result
        return _tensors([dgx, dh0, dgh_n])


def _kernels() -> ModuleType:
    return importlib.import_module("gru_xp_cupy")


@contextmanager
def _torchs_stream(device: Any) -> Iterator[Any]:
    """Make CuPy use torch's device and stream; the value is the module ``cupy``."""
    import cupy

    stream = torch.cuda.current_stream(device).cuda_stream
    with cupy.cuda.Device(device.index), cupy.cuda.ExternalStream(stream, device.index):
        yield cupy


def _arrays(cupy: Any, tensors: Iterable[Any], /) -> list[Any]:
    return [None if each is None else cupy.from_dlpack(each.detach()) for each in tensors]


def _tensors(arrays: Iterable[Any], /) -> list[Any]:
    return [torch.from_dlpack(each) for each in arrays]


def _loop(loop: Loop, lengths: Any, /) -> Loop:
    return Loop(lengths=lengths, reverse=loop.reverse, reset_after=loop.reset_after)
