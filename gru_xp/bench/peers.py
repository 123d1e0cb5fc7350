"""The other libraries: which there are, which are here, how to get one that is not."""

from __future__ import annotations

import importlib
from importlib import util
from typing import NamedTuple

from gru_xp.bench.cases import Job
from gru_xp.bench.contestant import Contestant
from gru_xp.bench.errors import UnavailableError


class Peer(NamedTuple):
    """What a peer needs, and the module of this package that has its class ``Peer``."""

    packages: tuple[str, ...]
    install: str
    module: str


PEERS = {
    "torch": Peer(("torch",), "pip install torch==2.13.0", "torch_peer"),
    "onnxruntime": Peer(
        ("onnx", "onnxruntime"), "pip install onnx onnxruntime", "onnxruntime_peer"
    ),
    "jax": Peer(("jax",), "pip install jax", "jax_peer"),
}


def missing(name: str, /) -> str:
    """Say what a peer lacks and how to install it; an empty string where it lacks nothing."""
    absent = [each for each in PEERS[name].packages if util.find_spec(each) is None]
    if not absent:
        return ""
    what = f"needs {' and '.join(absent)}, not" if absent != [name] else "is not"
    return f"{name} {what} installed here: {PEERS[name].install}"


def unfit(name: str, /, *, backend: str, dtype: str, stream: bool = False) -> str:
    """Say why a peer has no part in a benchmark; an empty string where it has."""
    if backend == "cupy" and name != "torch":
        return f"{name} is left out: it runs on the CPU here, and would meet a GPU"
    if dtype != "float32" and name == "onnxruntime":
        return f"{name} is left out: its GRU has float32 alone"
    if stream and name == "jax":
        return f"{name} is left out: what is measured of it are whole sequences"
    return ""


def choose(
    asked: tuple[str, ...] | None, /, *, backend: str, dtype: str, stream: bool = False
) -> tuple[tuple[str, ...], list[str]]:
    """Choose the peers of a benchmark.

    Parameters
    ----------
    asked : tuple of str or None
        Their names; None means all that are installed.
    backend, dtype : str
        What gru_xp runs on and in.
    stream : bool
        Whether single steps of a stream are measured.

    Returns
    -------
    names : tuple of str
    notes : list of str
        Which were left out, and why.

    Raises
    ------
    UnavailableError
        If one that was asked for is not installed.
    """
    names, notes = [], []
    for name in PEERS if asked is None else asked:
        if reason := unfit(name, backend=backend, dtype=dtype, stream=stream):
            notes.append(reason)
        elif reason := missing(name):
            if asked is not None:
                raise UnavailableError(reason)
            notes.append(reason)
        else:
            names.append(name)
    return tuple(names), notes


def make(name: str, job: Job, /) -> Contestant:
    """Import a peer and make it a contestant.

    Raises
    ------
    UnavailableError
        If it is not here, or does not start.
    """
    if reason := missing(name):
        raise UnavailableError(reason)
    try:
        module = importlib.import_module(f"gru_xp.bench.{PEERS[name].module}")
        contestant: Contestant = module.Peer(job)
    except UnavailableError:
        raise
    except Exception as error:  # an installed library can fail in any way, and is then reported
        raise UnavailableError(
            f"{name} is installed but fails to start: {type(error).__name__}: {error}"
        ) from error
    return contestant
