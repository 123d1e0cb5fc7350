"""torch's modules and autograd as a contestant, with torch's GRU or with gru_xp's replacement."""

from __future__ import annotations

import importlib
from typing import Any

from gru_xp.bench import clocks
from gru_xp.bench.cases import HostArray, Job, Work
from gru_xp.bench.contestant import IN_TORCH, Call, Contestant
from gru_xp.bench.errors import UnavailableError
from gru_xp.interop import torch as interop

torch: Any = importlib.import_module("torch")  # Any, so that types can be checked without torch


class Peer(Contestant):
    """torch on the CPU, or on the GPU if gru_xp runs there."""

    name = "torch"
    _gru: Any = torch.nn.GRU
    _gru_cell: Any = torch.nn.GRUCell

    def __init__(self, job: Job) -> None:
        self._device = "cuda" if job.backend == "cupy" else "cpu"
        self._dtype = getattr(torch, job.dtype)
        torch.set_num_threads(job.threads)
        self._seconds = clocks.torch if self._device == "cuda" else clocks.wall
        if self._device == "cuda":
            if not torch.cuda.is_available():
                raise UnavailableError("torch is installed but finds no CUDA device")
            # By default, only torch's GRU uses TF32 for float32 products, other products do not.
            torch.backends.cudnn.allow_tf32 = job.precision == "tf32"
            torch.backends.cuda.matmul.allow_tf32 = job.precision == "tf32"

    def forward(self, work: Work, /) -> Call:
        """See `Contestant`."""
        layer = self._layer(work).eval()
        x, h0 = self._tensor(work.x), self._tensor(work.h0[None])

        def run() -> Any:
            return layer(x, h0)

        def results() -> dict[str, HostArray]:
            y, h_n = run()
            return {"y": _host(y), "h_n": _host(h_n[0])}

        return Call(run, results, torch.no_grad, self._seconds)

    def training(self, work: Work, /) -> Call:
        """See `Contestant`."""
        layer = self._layer(work).train()
        x = self._tensor(work.x).requires_grad_()
        h0 = self._tensor(work.h0[None]).requires_grad_()
        dy = self._tensor(work.dy)
        leaves = [x, h0, *layer.parameters()]

        def run() -> Any:
            for leaf in leaves:
                leaf.grad = None
            y, _ = layer(x, h0)
            y.backward(dy)
            return y

        def results() -> dict[str, HostArray]:
            y = run()
            gradients = {
                name.removesuffix("_l0"): _host(weight.grad)
                for name, weight in layer.named_parameters()
            }
            return {"y": _host(y), "dx": _host(x.grad), "dh0": _host(h0.grad[0]), **gradients}

        return Call(run, results, seconds=self._seconds)

    def step(self, work: Work, /) -> Call:
        """See `Contestant`."""
        cell = self._cell(work).eval()
        x, h = self._tensor(work.x[0]), self._tensor(work.h0)

        def run() -> Any:
            return cell(x, h)

        return Call(run, lambda: {"h": _host(run())}, torch.no_grad, self._seconds)

    def step_training(self, work: Work, /) -> Call:
        """See `Contestant`."""
        cell = self._cell(work)
        x, h = (self._tensor(each).requires_grad_() for each in (work.x[0], work.h0))
        delta = self._tensor(work.dy[0])
        leaves = [x, h, *cell.parameters()]

        def run() -> Any:
            for leaf in leaves:
                leaf.grad = None
            h_t = cell(x, h)
            h_t.backward(delta)
            return h_t

        def results() -> dict[str, HostArray]:
            named = {"h": run().detach(), "dx": x.grad, "dh": h.grad}
            named |= {name: weight.grad for name, weight in cell.named_parameters()}
            return {name: _host(each) for name, each in named.items()}

        return Call(run, results, seconds=self._seconds)

    def streams(self, work: Work, /) -> dict[str, Call]:
        """See `Contestant`."""
        steps = [self._tensor(each) for each in work.x]  # (1, I)
        calls = {self.name: _layer_steps(self._layer(work).eval(), [each[None] for each in steps])}
        if len(work.layers) == 1:
            calls[f"{self.name} GRUCell"] = _cell_steps(self._cell(work).eval(), steps)
        return calls

    def _cell(self, work: Work) -> Any:
        cell = self._gru_cell(work.size.inputs, work.size.hidden).to(self._device, self._dtype)
        cell.load_state_dict({name: self._tensor(each) for name, each in work.of_cell.items()})
        return cell

    def _layer(self, work: Work) -> Any:
        _, _, inputs, hidden = work.size
        layer = self._gru(inputs, hidden, len(work.layers)).to(self._device, self._dtype)
        layer.load_state_dict({name: self._tensor(each) for name, each in work.of_gru.items()})
        return layer

    def _tensor(self, array: HostArray) -> Any:
        return torch.tensor(array, dtype=self._dtype, device=self._device)


class InPlace(Peer):
    """The same calls with the modules of `gru_xp.interop.torch` instead of torch's."""

    name = IN_TORCH
    _gru = interop.GRU
    _gru_cell = interop.GRUCell

    def streams(self, work: Work, /) -> dict[str, Call]:
        """Return nothing: streams are not measured for these modules."""
        return {}


def _layer_steps(layer: Any, steps: list[Any]) -> Call:
    first, state = steps[0], None

    def run() -> None:
        nonlocal state
        _, state = layer(first, state)

    def results() -> dict[str, HostArray]:
        h, rows = None, []
        for each in steps:
            y, h = layer(each, h)
            rows.append(y[0])
        return {"y": _host(torch.cat(rows))}

    return Call(run, results, torch.no_grad)


def _cell_steps(cell: Any, steps: list[Any]) -> Call:
    first, state = steps[0], None

    def run() -> None:
        nonlocal state
        state = cell(first, state)

    def results() -> dict[str, HostArray]:
        rows = [cell(steps[0])]
        for each in steps[1:]:
            rows.append(cell(each, rows[-1]))
        return {"y": _host(torch.cat(rows))}

    return Call(run, results, torch.no_grad)


def _host(tensor: Any) -> HostArray:
    # NumPy has no bfloat16. The conversion of 16-bit numbers to float32 is exact.
    wide = tensor.float() if tensor.element_size() == 2 else tensor
    host: HostArray = wide.detach().cpu().numpy()
    return host
