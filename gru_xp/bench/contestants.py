"""The contestants of a benchmark: the forms of gru_xp, and the peers."""

from __future__ import annotations

import importlib

from gru_xp.bench import peers
from gru_xp.bench.cases import Job
from gru_xp.bench.contestant import PERSISTENT, Contestant
from gru_xp.bench.errors import UnavailableError
from gru_xp.bench.own import Own
from gru_xp.core import accelerators


def contestants(job: Job, /) -> tuple[list[Contestant], list[str]]:
    """Create the contestants of a job, gru_xp first.

    Returns
    -------
    contestants : list of Contestant
        If the memory is not sufficient for all, they are left out starting from the last.
    notes : list of str
        The contestants that are left out, and the reasons.

    Raises
    ------
    UnavailableError
        If a peer that was requested by name is not available.
    BackendError
        If the backend is not available.
    """
    portable: list[Contestant] = [Own(job.backend, job.dtype, accelerated=False)]
    made: list[Contestant] = [Own(job.backend, job.dtype, accelerated=True)]
    notes = []
    if job.backend == "cupy":
        found = accelerators.find("cupy")
        if found.module is None:
            notes.append(f"{PERSISTENT} is left out: {found.reason}")
        elif job.dtype != "float64":  # not supported by the persistent kernel
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
