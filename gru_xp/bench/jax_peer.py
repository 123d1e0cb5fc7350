"""JAX as a contestant: the same equations in plain JAX, compiled, with JAX's own derivative."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from gru_xp.bench.cases import HostArray, Job, Work
from gru_xp.bench.contestant import Call, Contestant

jax: Any = importlib.import_module("jax")  # Any, so that types can be checked without JAX


class Peer(Contestant):
    """``jax.jit`` of ``jax.lax.scan``, with one product for all input projections before it."""

    name = "jax"

    def __init__(self, job: Job) -> None:
        self._dtype = job.dtype
        self._forward = jax.jit(_forward)
        self._training = jax.jit(_training)

    def forward(self, work: Work, /) -> Call:
        """See `Contestant`."""
        weights, x, h0 = self._arrays(work)

        def run() -> Any:
            return jax.block_until_ready(self._forward(weights, x, h0))

        def results() -> dict[str, HostArray]:
            y, h_n = run()
            return {"y": np.asarray(y), "h_n": np.asarray(h_n)}

        return Call(run, results)

    def training(self, work: Work, /) -> Call:
        """See `Contestant`."""
        weights, x, h0 = self._arrays(work)
        dy = self._array(work.dy)

        def run() -> Any:
            return jax.block_until_ready(self._training(weights, x, h0, dy))

        def results() -> dict[str, HostArray]:
            y, (gradients, dx, dh0) = run()
            named = {"y": y, "dx": dx, "dh0": dh0, **gradients}
            return {name: np.asarray(array) for name, array in named.items()}

        return Call(run, results)

    def _arrays(self, work: Work) -> tuple[dict[str, Any], Any, Any]:
        weights = {name: self._array(array) for name, array in work.of_cell.items()}
        return weights, self._array(work.x), self._array(work.h0)

    def _array(self, array: HostArray) -> Any:
        return jax.numpy.asarray(array, dtype=self._dtype)


def _forward(weights: dict[str, Any], x: Any, h0: Any) -> tuple[Any, Any]:
    projected = x @ weights["weight_ih"].T + weights["bias_ih"]  # (T, N, 3H)
    transposed = weights["weight_hh"].T

    def step(h: Any, row: Any) -> tuple[Any, Any]:
        xr, xz, xn = jax.numpy.split(row, 3, axis=-1)
        hr, hz, hn = jax.numpy.split(h @ transposed + weights["bias_hh"], 3, axis=-1)
        r = jax.nn.sigmoid(xr + hr)
        z = jax.nn.sigmoid(xz + hz)
        n = jax.numpy.tanh(xn + r * hn)
        h = (1 - z) * n + z * h
        return h, h

    h_n, y = jax.lax.scan(step, h0, projected)
    return y, h_n


def _training(weights: dict[str, Any], x: Any, h0: Any, dy: Any) -> tuple[Any, Any]:
    y, vjp = jax.vjp(lambda *arguments: _forward(*arguments)[0], weights, x, h0)
    return y, vjp(dy)
