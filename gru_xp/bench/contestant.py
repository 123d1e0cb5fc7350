"""Contestant: the base class, with a method that prepares a call for each kind of case."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from gru_xp.bench import clocks
from gru_xp.bench.cases import KINDS, Case, HostArray, Work

OWN = "gru_xp"
PORTABLE = "gru_xp portable"
PERSISTENT = "gru_xp persistent"
IN_TORCH = "gru_xp in torch"
FORMS = (OWN, PORTABLE, PERSISTENT, IN_TORCH)
"""Names of gru_xp's own contestants; all others are peers."""
EXPERIMENTAL = (PERSISTENT,)

Context = Callable[[], AbstractContextManager[Any]]


class Call(NamedTuple):
    """A prepared call of one contestant for one case."""

    run: Callable[[], Any]
    """Computes the case. On a GPU it may return before the results are available; the clock waits
    for them."""
    results: Callable[[], dict[str, HostArray]]
    """Runs once and copies all results to the host: y, h_n and gradients by their names."""
    context: Context = nullcontext
    """Context manager that is entered once around many runs."""
    seconds: clocks.Clock = clocks.wall
    """Clock that measures many runs."""


class Contestant:
    """Base class of the contestants. A method returns None if a case is not supported."""

    name: str

    def forward(self, work: Work, /) -> Call | None:
        """Prepare a forward over a whole sequence without gradients."""
        return None

    def training(self, work: Work, /) -> Call | None:
        """Prepare a forward and the backward to weights, input and initial state."""
        return None

    def step(self, work: Work, /) -> Call | None:
        """Prepare one step of a cell without gradients."""
        return None

    def step_training(self, work: Work, /) -> Call | None:
        """Prepare one step of a cell and its backward to weights, input and state."""
        return None

    def streams(self, work: Work, /) -> dict[str, Call]:
        """Prepare a step of a stream with one row that keeps its state; return forms by name.

        The stream starts from zeros. `run` repeats the first step of x, and `results` returns the
        outputs of all steps, (T, H), from the start.
        """
        return {}

    def prepare(self, case: Case, work: Work, /) -> Call | None:
        """Prepare a case with the method for its kind."""
        call: Call | None = getattr(self, KINDS[case.kind].method)(work)
        return call
