"""What a contestant is: the calls that it prepares for each kind of case."""

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
"""Of gru_xp; all others are peers."""
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

    def step_training(self, work: Work, /) -> Call | None:
        """Prepare one step of a cell, and its backward to weights, input and state."""
        return None

    def streams(self, work: Work, /) -> dict[str, Call]:
        """Prepare a step of a stream of one row, its state carried to the next: each form by name.

        It starts from zeros. What runs is the first step of x again and again; the results are
        those of all steps, (T, H), from the start.
        """
        return {}

    def prepare(self, case: Case, work: Work, /) -> Call | None:
        """Prepare a case."""
        call: Call | None = getattr(self, KINDS[case.kind].method)(work)
        return call
