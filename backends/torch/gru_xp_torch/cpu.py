"""CPU tensors computed by the C++ engine on shared memory.

A call uses at most as many threads as torch's own operations (``torch.set_num_threads``). If torch
uses OpenMP, the call runs on torch's threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import torch
from gru_xp_numpy import _native

from gru_xp.accelerator_api import Form, GRUParams, Loop, Tape

DTYPES = frozenset({torch.float32, torch.float64})


def _lend_threads() -> None:
    """Make the engine's calls for tensors run on torch's threads.

    torch's threads keep spinning for some milliseconds after each operation. Separate threads of
    the engine would have to share the processors with them.
    """
    if "ATen parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return
    try:  # torch's library gives access to the symbols of the OpenMP library that it has loaded
        parallel = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (AttributeError, OSError):  # the OpenMP library does not have this function
        return
    _native.set_lender(ctypes.cast(parallel, ctypes.c_void_p).value or 0)


_lend_threads()


def forward(gx: Any, h0: Any, weight_hh: Any, b_hn: Any, loop: Loop, /, *, keep_tape: bool) -> Any:
    """Return all states (T + 1, N, H) and, with `keep_tape`, the gates of a `Tape`."""
    result = _native.forward(
        _array(gx),
        _array(h0),
        _array(weight_hh),
        _array(b_hn),
        _array(loop.lengths),
        loop.reverse,
        loop.reset_after,
        keep_tape,
        torch.get_num_threads(),
    )
    if result is NotImplemented:
        return result
    states, gates = result
    return [torch.from_numpy(each) for each in (states, *(gates or ())) if each is not None]


def backward(dh: Any, dh_last: Any, tape: Tape, weight_hh: Any, loop: Loop, /) -> Any:
    """Return dgx, dh0 and, unless it is a part of dgx, dgh_n."""
    arrays = Tape(*(_array(each) for each in tape))
    result = _native.backward(
        _array(dh),
        _array(dh_last),
        *arrays,
        _array(weight_hh),
        _array(loop.lengths),
        loop.reverse,
        loop.reset_after,
        torch.get_num_threads(),
    )
    if result is NotImplemented:
        return result
    dgx, dgh_n, dh0 = result
    parts = (dgx, dh0, dgh_n) if loop.reset_after else (dgx, dh0)
    return [torch.from_numpy(each) for each in parts]


def matmul(a: Any, b: Any, bias: Any = None, /) -> Any:
    """Multiply matrices (M, K) and (K, N), in the fixed summation order of the engine."""
    return torch.from_numpy(
        _native.matmul(_array(a), _array(b), _array(bias), torch.get_num_threads())
    )


def step(x: Any, h: Any, params: GRUParams, reset_after: bool, /) -> Any:
    """See `gru_xp.accelerator_api.OptionalFunctions`."""
    weights = _arrays(params)
    h_t = _native.step(_array(x), _array(h), *weights, reset_after, torch.get_num_threads())
    return h_t if h_t is NotImplemented else torch.from_numpy(h_t)


def sequence(x: Any, h0: Any, params: Iterable[GRUParams], reset_after: bool, form: Form, /) -> Any:
    """See `gru_xp.accelerator_api.OptionalFunctions`."""
    result = _native.sequence(
        _array(x),
        _array(h0),
        tuple(_arrays(each) for each in params),
        reset_after,
        form.batch_first,
        form.bidirectional,
        torch.get_num_threads(),
    )
    if result is NotImplemented:
        return result
    return tuple(torch.from_numpy(each) for each in result)


def _array(tensor: Any, /) -> Any:
    """Return a NumPy array that shares a tensor's memory; None stays None."""
    return None if tensor is None else tensor.detach().resolve_neg().numpy()


def _arrays(params: GRUParams, /) -> GRUParams:
    return GRUParams(*(_array(each) for each in params))
