"""Who takes part in a benchmark: gru_xp in its forms, and the peers."""

from __future__ import annotations

import importlib

from gru_xp.bench import peers
from gru_xp.bench.cases import Job
from gru_xp.bench.contestant import PERSISTENT, Contestant
from gru_xp.bench.errors import UnavailableError
from gru_xp.bench.own import Own
from gru_xp.core import accelerators


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
            if name == "torch" and job.backend != "cupy" and accelerators.find("torch").module:
                made.append(importlib.import_module("gru_xp.bench.torch_peer").InPlace(job))
        except UnavailableError as error:
            if job.peers_asked:
                raise
            notes.append(str(error))
    if job.backend == "cupy":
        made += portable
    return made, notes
