"""The recurrence as two torch operators, which are opaque to its compiler and to ``vmap``.

``gru_xp::forward`` and ``gru_xp::backward`` have no derivatives; `gru_xp_torch.autograd` adds them.
The results of an operator must not share memory. The states are therefore returned as one tensor
(T + 1, N, H), of which the callers take views.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch

from gru_xp.accelerator_api import Loop, Place, Tape, portable
from gru_xp_torch import cpu, cuda

_LIBRARY = torch.library.Library("gru_xp", "DEF")
_LIBRARY.define(
    "forward(Tensor gx, Tensor h0, Tensor weight_hh, Tensor? b_hn, Tensor? lengths, "
    "bool reverse, bool reset_after, bool keep_tape) -> Tensor[]"
)
_LIBRARY.define(
    "backward(Tensor dh, Tensor? dh_last, Tensor[] tape, Tensor weight_hh, Tensor? lengths, "
    "bool reverse, bool reset_after) -> Tensor[]"
)


def forward(
    gx: Any, h0: Any, weight_hh: Any, b_hn: Any, loop: Loop, /, *, keep_tape: bool
) -> tuple[Any, Tape | None]:
    """See `gru_xp.accelerator_api.Accelerator`."""
    options = loop.lengths, loop.reverse, loop.reset_after
    states, *gates = torch.ops.gru_xp.forward.default(gx, h0, weight_hh, b_hn, *options, keep_tape)
    h, h_prev = (states[:-1], states[1:]) if loop.reverse else (states[1:], states[:-1])
    return h, whole_tape(h_prev, *gates) if keep_tape else None


def backward(
    dh: Any, dh_last: Any, tape: Tape, weight_hh: Any, loop: Loop, /
) -> tuple[Any, Any, Any]:
    """See `gru_xp.accelerator_api.Accelerator`."""
    options = loop.lengths, loop.reverse, loop.reset_after
    return gradients(
        *torch.ops.gru_xp.backward.default(dh, dh_last, kept(tape), weight_hh, *options)
    )


def gradients(dgx: Any, dh0: Any, dgh_n: Any = None, /) -> tuple[Any, Any, Any]:
    """Return dgx, dgh_n and dh0 from the operator's results, where dgh_n may be a part of dgx."""
    return dgx, dgx[..., 2 * dh0.shape[-1] :] if dgh_n is None else dgh_n, dh0


def kept(tape: Any, /) -> list[Any]:
    """Return the arrays of a tape that are not None."""
    return [each for each in tape if each is not None]


def whole_tape(h_prev: Any, r: Any, z: Any, n: Any, gh_n: Any = None, /) -> Tape:
    """Create a tape from the result of `kept`."""
    return Tape(h_prev, r, z, n, gh_n)


def _register(engine: ModuleType, key: str, /) -> None:
    """Register an engine as the implementation of the operators for a dispatch key of torch."""

    def run_forward(
        gx: Any,
        h0: Any,
        weight_hh: Any,
        b_hn: Any,
        lengths: Any,
        reverse: bool,
        reset_after: bool,
        keep_tape: bool,
    ) -> Any:
        loop = Loop(lengths=lengths, reverse=reverse, reset_after=reset_after)
        arguments = gx, h0, weight_hh, b_hn, loop
        result = engine.forward(*arguments, keep_tape=keep_tape)
        if result is not NotImplemented:
            return result
        place = Place("torch", gx.device, gx.dtype)
        h, tape = portable.forward(*arguments, keep_tape=keep_tape, place=place)
        states = torch.cat([h, h0[None]] if reverse else [h0[None], h])
        return [states, *(kept(tape[1:]) if tape else ())]

    def run_backward(
        dh: Any,
        dh_last: Any,
        tape: Sequence[Any],
        weight_hh: Any,
        lengths: Any,
        reverse: bool,
        reset_after: bool,
    ) -> Any:
        loop = Loop(lengths=lengths, reverse=reverse, reset_after=reset_after)
        arguments = dh, dh_last, whole_tape(*tape), weight_hh, loop
        result = engine.backward(*arguments)
        if result is not NotImplemented:
            return result
        place = Place("torch", dh.device, dh.dtype)
        dgx, dgh_n, dh0 = portable.backward(*arguments, place=place)
        return [dgx, dh0, dgh_n.contiguous()] if reset_after else [dgx, dh0]

    _LIBRARY.impl("forward", run_forward, key)
    _LIBRARY.impl("backward", run_backward, key)


_register(cpu, "CPU")
_register(cuda, "CUDA")


@torch.library.register_fake("gru_xp::forward")  # type: ignore[untyped-decorator]
def _shapes_of_forward(
    gx: Any,
    h0: Any,
    weight_hh: Any,
    b_hn: Any,
    lengths: Any,
    reverse: bool,
    reset_after: bool,
    keep_tape: bool,
) -> list[Any]:
    steps, (rows, size) = gx.shape[0], h0.shape
    gates = (4 if reset_after else 3) if keep_tape else 0
    shapes = [(steps + 1, rows, size), *([(steps, rows, size)] * gates)]
    return [gx.new_empty(shape) for shape in shapes]


@torch.library.register_fake("gru_xp::backward")  # type: ignore[untyped-decorator]
def _shapes_of_backward(
    dh: Any,
    dh_last: Any,
    tape: Sequence[Any],
    weight_hh: Any,
    lengths: Any,
    reverse: bool,
    reset_after: bool,
) -> list[Any]:
    steps, rows, size = dh.shape
    shapes = [(steps, rows, 3 * size), (rows, size), *([(steps, rows, size)] * reset_after)]
    return [dh.new_empty(shape) for shape in shapes]


# vmap: if all examples share the weights, they are treated as additional rows. Otherwise they are
# computed one by one.


@torch.library.register_vmap("gru_xp::forward")  # type: ignore[untyped-decorator]
def _forward_of_examples(info: Any, axes: Any, *arguments: Any) -> Any:
    gx, h0, weight_hh, b_hn, lengths, *options = arguments
    of_gx, of_h0, *of_weights, of_lengths = axes[:5]
    count = info.batch_size
    if of_weights != [None, None]:
        return _one_by_one(torch.ops.gru_xp.forward.default, count, axes, arguments)
    gx = _as_rows(gx, of_gx, 1, count)
    h0 = _as_rows(h0, of_h0, 0, count)
    lengths = _as_rows(lengths, of_lengths, 0, count)
    results = torch.ops.gru_xp.forward.default(gx, h0, weight_hh, b_hn, lengths, *options)
    return [each.unflatten(1, (count, -1)) for each in results], [1] * len(results)


@torch.library.register_vmap("gru_xp::backward")  # type: ignore[untyped-decorator]
def _backward_of_examples(info: Any, axes: Any, *arguments: Any) -> Any:
    dh, dh_last, tape, weight_hh, lengths, *options = arguments
    of_dh, of_last, of_tape, of_weight, of_lengths = axes[:5]
    count = info.batch_size
    if of_weight is not None:
        return _one_by_one(torch.ops.gru_xp.backward.default, count, axes, arguments)
    dh = _as_rows(dh, of_dh, 1, count)
    dh_last = _as_rows(dh_last, of_last, 0, count)
    tape = [_as_rows(each, axis, 1, count) for each, axis in zip(tape, of_tape, strict=True)]
    lengths = _as_rows(lengths, of_lengths, 0, count)
    results = torch.ops.gru_xp.backward.default(dh, dh_last, tape, weight_hh, lengths, *options)
    rows_at = [1, 0, 1][: len(results)]
    split = [each.unflatten(at, (count, -1)) for each, at in zip(results, rows_at, strict=True)]
    return split, rows_at


def _as_rows(tensor: Any, axis: int | None, rows_at: int, count: int, /) -> Any:
    """Join the axis of the examples (None if they share the tensor) with that of the rows."""
    if tensor is None:
        return None
    if axis is None:
        tensor, axis = tensor[None].expand(count, *tensor.shape), 0
    return tensor.movedim(axis, rows_at).flatten(rows_at, rows_at + 1)


def _one_by_one(operator: Any, count: int, axes: Any, arguments: Sequence[Any], /) -> Any:
    def of_example(value: Any, axis: Any, number: int) -> Any:
        if isinstance(value, (list, tuple)):
            return [of_example(*pair, number) for pair in zip(value, axis, strict=True)]
        return value if axis is None else value.select(axis, number)

    results = [
        operator(*(of_example(*pair, number) for pair in zip(arguments, axes, strict=True)))
        for number in range(count)
    ]
    return [torch.stack(each) for each in zip(*results, strict=True)], [0] * len(results[0])
