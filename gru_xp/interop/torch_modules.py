"""Subclasses of ``torch.nn.GRU`` and ``torch.nn.GRUCell`` that use gru_xp where it is faster."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from gru_xp.arrays.libraries import library_of
from gru_xp.arrays.place import Place
from gru_xp.core import stack
from gru_xp.core.accelerators import accelerated, find
from gru_xp.core.loop import Loop
from gru_xp.core.parameters import Form, GRUParams

# Fill the caches of these functions at import, because torch.compile cannot trace them.
find("torch")
for _each in (torch.empty(0), torch.nn.Parameter(torch.empty(0))):
    library_of(_each)

_TORCH = Place("torch", None, torch.float32)
"""A place with which to look up functions of the accelerator; its device is not used."""

_FEW = 5
"""For fewer steps than this, torch's forward and backward are faster for every N and H measured."""


class GRU(torch.nn.GRU):  # type: ignore[misc]
    """A ``torch.nn.GRU`` whose time loop runs in gru_xp's accelerator.

    This subclass replaces ``torch.nn.GRU`` in a script. It has the same arguments, parameters,
    parameter names, initial values, random numbers for dropout and errors, and gives the same
    results up to rounding. Calls that the accelerator does not support run torch's own code at
    torch's speed: dtypes other than float32 and float64, autocast, devices other than the CPU,
    tracing by ``torch.jit`` or for ONNX, sequences of fewer than five steps outside of
    ``torch.no_grad()``, and all calls within ``gru_xp.use_accelerators(False)``.

    Notes
    -----
    - Second derivatives and forward-mode derivatives raise an error. Within
      ``gru_xp.use_accelerators(False)`` both work as in torch.
    - ``torch.compile`` breaks the graph at every ``torch.nn.GRU``, including this subclass, unless
      ``torch._dynamo.config.allow_rnn`` is True.
    - A program exported with ``torch.export`` contains the operator ``gru_xp::forward``. Import
      `gru_xp_torch` before running it.
    - ``torch.jit.script`` converts it to a ``torch.nn.GRU`` with the same parameters.
    - It uses torch's threads (``torch.set_num_threads``).

    Examples
    --------
    >>> import torch
    >>> from gru_xp.interop.torch import GRU
    >>> gru = GRU(3, 4, num_layers=2)
    >>> y, h_n = gru(torch.ones(7, 2, 3))
    >>> y.sum().backward()
    >>> y.shape, h_n.shape, gru.weight_ih_l0.grad.shape
    (torch.Size([7, 2, 4]), torch.Size([2, 2, 4]), torch.Size([12, 3]))
    """

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Run the GRU over whole sequences; see ``torch.nn.GRU``."""
        if _is_followed() and self._steps(input) < _FEW:
            return super().forward(input, hx)
        weights = [getattr(self, name) for names in self._all_weights for name in names]
        if not self._is_ours(input, hx, weights):
            return super().forward(input, hx)
        per_direction = 4 if self.bias else 2
        params = [
            GRUParams(*weights[start : start + per_direction])
            for start in range(0, len(weights), per_direction)
        ]
        if isinstance(input, PackedSequence):
            return self._forward_packed(params, input, hx)
        masks = self._masks(input)
        if input.ndim == 2:  # masks have a batch axis, even if the input has none
            masks = [mask[:, None] for mask in masks]
        return self._run(params, input, hx, masks)

    def _is_ours(self, input: Any, hx: Any, weights: list[Any]) -> bool:
        """Whether the accelerator supports a call. For an invalid call, torch raises the error."""
        x = input.data if isinstance(input, PackedSequence) else input
        tensors = [*weights, x] if hx is None else [*weights, x, hx]
        takes = accelerated("takes", _TORCH)
        return (
            takes is not None
            and all(isinstance(each, torch.Tensor) for each in tensors)
            and takes(*tensors)
            and self._fit(input, hx)
            and not torch.onnx.is_in_onnx_export()
        )

    def _fit(self, input: Any, hx: Any) -> bool:
        """Whether the shapes of input and state match the module."""
        packed = isinstance(input, PackedSequence)
        x = input.data if packed else input
        if x.ndim not in ((2,) if packed else (2, 3)) or x.shape[-1] != self.input_size:
            return False
        if self._steps(input) == 0:
            return False
        if hx is None:
            return True
        if packed:
            rows = [int(input.batch_sizes[0])]
        else:
            rows = [] if x.ndim == 2 else [x.shape[0 if self.batch_first else 1]]
        number = self.num_layers * (2 if self.bidirectional else 1)
        return list(hx.shape) == [number, *rows, self.hidden_size]

    def _steps(self, input: Any) -> Any:
        """Return the number of steps, which torch may trace; 0 if there is no such axis."""
        if isinstance(input, PackedSequence):
            return len(input.batch_sizes)
        shape = getattr(input, "shape", ())
        return shape[1 if len(shape) == 3 and self.batch_first else 0] if shape else 0

    def _run(
        self, params: list[GRUParams], x: Any, hx: Any, masks: Any, lengths: Any = None
    ) -> Any:
        place = Place.of(params[0].weight_ih)
        form = Form(self.batch_first and lengths is None, self.bidirectional)
        loop = Loop(lengths=lengths)
        quick = accelerated("sequence", place, loop)
        if quick is not None and not masks:
            result = quick(x, hx, params, loop, form)
            if result is not NotImplemented:
                return result
        y, h_n, _ = stack.forward(
            params, x, hx, loop, form, masks=masks, keep_tape=False, owner="GRU", place=place
        )
        return _own(y), _own(h_n)

    def _forward_packed(self, params: list[GRUParams], input: PackedSequence, hx: Any) -> Any:
        data, batch_sizes, sorted_indices, unsorted_indices = input
        if hx is not None:
            hx = self.permute_hidden(hx, sorted_indices)
        # Without the indices, the rows stay sorted by length.
        x, lengths = pad_packed_sequence(PackedSequence(data, batch_sizes))
        masks = [
            pad_packed_sequence(PackedSequence(mask, batch_sizes))[0] for mask in self._masks(data)
        ]
        y, h_n = self._run(params, x, hx, masks, lengths)
        packed = pack_padded_sequence(y, lengths)
        return (
            PackedSequence(packed.data, batch_sizes, sorted_indices, unsorted_indices),
            self.permute_hidden(h_n, unsorted_indices),
        )

    def _masks(self, x: Any) -> list[Any]:
        """Draw dropout masks with the same random numbers as torch's own GRU."""
        if not (self.training and self.dropout):
            return []
        shape = list(x.shape)
        shape[-1] = self.hidden_size * (2 if self.bidirectional else 1)
        if x.ndim == 3 and self.batch_first:
            shape[:2] = shape[1::-1]
        ones = x.new_ones(shape)
        return [torch.nn.functional.dropout(ones, self.dropout) for _ in range(self.num_layers - 1)]

    def __prepare_scriptable__(self) -> torch.nn.Module:
        return _as_torchs(self, torch.nn.GRU) if type(self) is GRU else self


class GRUCell(torch.nn.GRUCell):  # type: ignore[misc]
    """A ``torch.nn.GRUCell`` whose step runs in gru_xp's accelerator within ``torch.no_grad()``.

    Like `GRU`, it replaces torch's class in a script. A step that autograd may record runs torch's
    own code.

    Examples
    --------
    >>> import torch
    >>> from gru_xp.interop.torch import GRUCell
    >>> cell = GRUCell(3, 4)
    >>> with torch.no_grad():
    ...     h = cell(torch.ones(2, 3))
    >>> h.shape
    torch.Size([2, 4])
    """

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Compute one step; see ``torch.nn.GRUCell``."""
        if _is_followed():
            return super().forward(input, hx)
        weights = self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh
        quick = accelerated("step", _TORCH)
        if quick is not None:
            result = quick(input, hx, *weights)
            if result is not NotImplemented:
                return result
        return super().forward(input, hx)

    def __prepare_scriptable__(self) -> torch.nn.Module:
        return _as_torchs(self, torch.nn.GRUCell) if type(self) is GRUCell else self


def _own(tensor: Any) -> Any:
    """Return a copy if the tensor is a view, on which ``detach_`` would fail, else the tensor."""
    if torch.compiler.is_compiling():  # compiled functions return new tensors
        return tensor
    return tensor.clone() if tensor._is_view() else tensor


def _is_followed() -> bool:
    """Whether autograd may record the call. False in a trace, whose number of steps is symbolic."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _as_torchs(module: Any, kind: type) -> Any:
    """Return torch's own module with the same parameters and options."""
    theirs: Any = object.__new__(kind)
    theirs.__dict__.update(module.__dict__)
    return theirs
