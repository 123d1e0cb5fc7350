"""Contestants: what each has to offer, and gru_xp itself as one, with and without accelerator."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from gru_xp import GRU, GRUCell, to_numpy, use_accelerators
from gru_xp.arrays import dtypes, transfer
from gru_xp.arrays.place import Place
from gru_xp.bench import clocks
from gru_xp.bench.cases import HostArray, Job, Work
from gru_xp.bench.errors import UnavailableError
from gru_xp.core import accelerators

OWN = "gru_xp"
PORTABLE = "gru_xp portable"
PERSISTENT = "gru_xp persistent"
EXPERIMENTAL = (PERSISTENT,)

Context = Callable[[], AbstractContextManager[Any]]


class Call(NamedTuple):
    """A case as one contestant runs it, with everything prepared."""

    run: Callable[[], Any]
    """Computes; on a GPU the results may come later, which its clock waits for."""
    results: Callable[[], dict[str, HostArray]]
    """Runs once, and copies all results to the host: y, h_n, gradients by their names."""
    context: Context = nullcontext
    """What is entered once around many runs."""
    seconds: clocks.Clock = clocks.wall
    """Measures many runs."""


class Contestant:
    """Base of the contestants; what one cannot do is None."""

    name: str

    def forward(self, work: Work, /) -> Call | None:
        """Prepare a whole sequence without gradients."""
        return None

    def training(self, work: Work, /) -> Call | None:
        """Prepare a forward, and the backward to the weights, the input and the initial state."""
        return None

    def step(self, work: Work, /) -> Call | None:
        """Prepare one step of a cell without gradients."""
        return None


class Own(Contestant):
    """gru_xp, with the accelerator of its backend or without, or with its persistent kernel."""

    def __init__(
        self, backend_name: str, dtype: str, *, accelerated: bool, persistent: bool = False
    ) -> None:
        self.name = PERSISTENT if persistent else OWN if accelerated else PORTABLE
        self._backend = backend_name
        self._place = Place.named(backend_name, dtype=dtype)
        self._wait = _waiting(backend_name)
        self._seconds = clocks.cupy if backend_name == "cupy" else clocks.wall
        self._context: Context = nullcontext if accelerated else lambda: use_accelerators(False)
        # By name, as gru_xp imports no accelerator.
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
        cell = GRUCell(
            work.size.inputs, work.size.hidden, backend=self._backend, dtype=self._place.dtype
        )
        cell.load_state_dict(work.weights)
        cell.eval()
        x, h = self._array(work.x[0]), self._array(work.h0)
        wait = self._wait

        def run() -> Any:
            return wait(cell(x, h))

        return Call(run, lambda: {"h": to_numpy(run())}, self._context, self._seconds)

    def _can(self, work: Work, *, training: bool) -> bool:
        """Whether it would not just do what another contestant of gru_xp does."""
        if self._kernel is None:
            return True
        _, rows, _, hidden = work.size
        dtype = dtypes.dtype_name(self._place.dtype)
        return bool(self._kernel.persistent_kernel_runs(rows, hidden, dtype, training=training))

    def _layer(self, work: Work) -> tuple[GRU, Any, Any]:
        layer = GRU(
            work.size.inputs, work.size.hidden, backend=self._backend, dtype=self._place.dtype
        )
        layer.load_state_dict({f"{name}_l0": array for name, array in work.weights.items()})
        return layer, self._array(work.x), self._array(work.h0[None])

    def _array(self, array: HostArray) -> Any:
        return transfer.from_numpy(array, self._place)


def _waiting(backend_name: str) -> Callable[[Any], Any]:
    """Return what waits for results, where the library returns before it has them."""
    if backend_name == "jax":
        block: Callable[[Any], Any] = importlib.import_module("jax").block_until_ready
        return block
    return lambda results: results


def contestants(job: Job, /) -> tuple[list[Contestant], list[str]]:
    """Make the contestants of a job, gru_xp first.

    Returns
    -------
    contestants : list of Contestant
        Those come last that may be left out first where memory does not do for all.
    notes : list of str
        Which were left out, and why.

    Raises
    ------
    UnavailableError
        If a peer that was asked for by name cannot be had.
    BackendError
        If the backend cannot.
    """
    from gru_xp.bench import peers

    portable: list[Contestant] = [Own(job.backend, job.dtype, accelerated=False)]
    made: list[Contestant] = [Own(job.backend, job.dtype, accelerated=True)]
    notes = []
    if job.backend == "cupy":
        found = accelerators.find("cupy")
        if found.module is None:
            notes.append(f"{PERSISTENT} is left out: {found.reason}")
        elif job.dtype != "float64":  # which that kernel does not know
            made.append(Own("cupy", job.dtype, accelerated=True, persistent=True))
    else:
        made += portable
    for name in job.peers:
        try:
            made.append(peers.make(name, job))
        except UnavailableError as error:
            if job.peers_asked:
                raise
            notes.append(str(error))
    if job.backend == "cupy":
        made += portable
    return made, notes
