"""gru_xp itself as a contestant, with and without an accelerator."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import numpy as np

from gru_xp import GRU, GRUCell, to_numpy, use_accelerators
from gru_xp.arrays import dtypes, transfer
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Backend
from gru_xp.bench import clocks
from gru_xp.bench.cases import HostArray, Work
from gru_xp.bench.contestant import OWN, PERSISTENT, PORTABLE, Call, Contestant, Context
from gru_xp.core import accelerators


class Own(Contestant):
    """gru_xp with the backend's accelerator, without it, or with its persistent kernel."""

    def __init__(
        self, backend_name: str, dtype: str, *, accelerated: bool, persistent: bool = False
    ) -> None:
        self.name = PERSISTENT if persistent else OWN if accelerated else PORTABLE
        self._backend = cast(Backend, backend_name)
        self._place = Place.named(backend_name, dtype=dtype)
        self._wait = _waiting(backend_name)
        self._seconds = clocks.cupy if backend_name == "cupy" else clocks.wall
        self._context: Context = nullcontext if accelerated else lambda: use_accelerators(False)
        # Looked up by name, because gru_xp does not import accelerators.
        kernel: Any = accelerators.find(backend_name).module if persistent else None
        self._kernel = kernel
        if persistent:
            self._context = kernel.use_persistent_kernel

    def forward(self, work: Work, /) -> Call | None:
        """See `Contestant`."""
        if not self._can(work, training=False):
            return None
        layer, x, h0 = self._layer(work)
        layer.eval()
        wait = self._wait

        def run() -> Any:
            return wait(layer(x, h0))

        def results() -> dict[str, HostArray]:
            y, h_n = run()
            return {"y": to_numpy(y), "h_n": to_numpy(h_n)[0]}

        return Call(run, results, self._context, self._seconds)

    def training(self, work: Work, /) -> Call | None:
        """See `Contestant`."""
        if not self._can(work, training=True):
            return None
        layer, x, h0 = self._layer(work)
        dy = self._array(work.dy)
        wait = self._wait

        def run() -> Any:
            y, _ = layer(x, h0)
            dx, dh0 = layer.backward(dy)
            return wait((y, dx, dh0))

        def results() -> dict[str, HostArray]:
            y, dx, dh0 = run()
            gradients = {
                name.removesuffix("_l0"): to_numpy(each) for name, each in layer.gradients().items()
            }
            return {"y": to_numpy(y), "dx": to_numpy(dx), "dh0": to_numpy(dh0)[0], **gradients}

        return Call(run, results, self._context, self._seconds)

    def step(self, work: Work, /) -> Call | None:
        """See `Contestant`."""
        if not self._can(work, training=False):
            return None
        cell = self._cell(work).eval()
        x, h = self._array(work.x[0]), self._array(work.h0)
        wait = self._wait

        def run() -> Any:
            return wait(cell(x, h))

        return Call(run, lambda: {"h": to_numpy(run())}, self._context, self._seconds)

    def step_training(self, work: Work, /) -> Call | None:
        """See `Contestant`."""
        if not self._can(work, training=True):
            return None
        cell = self._cell(work)
        x, h, delta = (self._array(each) for each in (work.x[0], work.h0, work.dy[0]))
        wait = self._wait

        def run() -> Any:
            h_t = cell(x, h)
            return wait((h_t, *cell.backward(delta)))

        def results() -> dict[str, HostArray]:
            named = dict(zip(("h", "dx", "dh"), run(), strict=True))
            return {name: to_numpy(each) for name, each in (named | cell.gradients()).items()}

        return Call(run, results, self._context, self._seconds)

    def streams(self, work: Work, /) -> dict[str, Call]:
        """See `Contestant`."""
        steps = [self._array(step) for step in work.x[:, 0]]
        gru = self._gru(work)
        with self._context():  # for the portable form, no accelerator may create the stream
            stream, compared = gru.stream(), gru.stream()
        step = partial(stream.step, steps[0])
        wait = self._wait

        def waiting() -> Any:
            return wait(step())

        def results() -> dict[str, HostArray]:
            compared.reset()
            return {"y": np.stack([to_numpy(compared.step(each)) for each in steps])}

        # If there is nothing to wait for, call the step directly: a wrapper would take extra time.
        run = waiting if self._backend == "jax" else step
        return {self.name: Call(run, results, self._context)}

    def _can(self, work: Work, *, training: bool) -> bool:
        """Whether the case would differ from that of another contestant of gru_xp."""
        if self._kernel is None:
            return True
        if "persistent" in self._kernel.describe():  # the accelerator uses it by default
            return False
        _, rows, _, hidden = work.size
        dtype = dtypes.dtype_name(self._place.dtype)
        return bool(self._kernel.persistent_kernel_runs(rows, hidden, dtype, training=training))

    def _cell(self, work: Work) -> GRUCell:
        inputs, hidden = work.size.inputs, work.size.hidden
        cell = GRUCell(inputs, hidden, backend=self._backend, dtype=self._place.dtype)
        cell.load_state_dict(work.of_cell)
        return cell

    def _layer(self, work: Work) -> tuple[GRU, Any, Any]:
        return self._gru(work), self._array(work.x), self._array(work.h0[None])

    def _gru(self, work: Work) -> GRU:
        _, _, inputs, hidden = work.size
        layers, dtype = len(work.layers), self._place.dtype
        gru = GRU(inputs, hidden, layers, backend=self._backend, dtype=dtype)
        gru.load_state_dict(work.of_gru)
        return gru

    def _array(self, array: HostArray) -> Any:
        return transfer.from_numpy(array, self._place)


def _waiting(backend_name: str) -> Callable[[Any], Any]:
    """Return a function that waits for results, if the library computes asynchronously."""
    if backend_name == "jax":
        block: Callable[[Any], Any] = importlib.import_module("jax").block_until_ready
        return block
    return lambda results: results
