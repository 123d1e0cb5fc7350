"""CUDA tensors through CuPy's kernels, on shared memory (DLPack) and torch's current stream.

Off unless the environment variable ``GRU_XP_TORCH_CUDA`` is 1: tests run it with a stand-in for
CuPy, but no GPU has. What CuPy allocates for a result goes back to CuPy's pool, for the stream that
it was made on: a tensor that is used on another stream must not be dropped before that is done.
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
    """Whether CuPy's kernels are to be used, and CuPy is there."""
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
        # h and h_prev share their memory, which what an operator returns must not do.
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
    """Have CuPy work where torch does; the value is the module ``cupy``."""
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
