"""The other libraries: the list of peers, which are installed, and how to install the others."""

from __future__ import annotations

import importlib
from importlib import util
from typing import NamedTuple

from gru_xp.bench.cases import Job
from gru_xp.bench.contestant import Contestant
from gru_xp.bench.errors import UnavailableError


class Peer(NamedTuple):
    """Requirements of a peer, and the module of this package that defines its class ``Peer``."""

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
    """Return which packages of a peer are missing and how to install them; "" if none are."""
    absent = [each for each in PEERS[name].packages if util.find_spec(each) is None]
    if not absent:
        return ""
    what = f"requires {' and '.join(absent)}, which is" if absent != [name] else "is"
    return f"{name} {what} not installed. Install it with: {PEERS[name].install}"


def unfit(name: str, /, *, backend: str, dtype: str, stream: bool = False) -> str:
    """Return why a peer cannot take part in a benchmark; an empty string if it can."""
    if backend == "cupy" and name != "torch":
        return f"{name} is left out: it would run on the CPU and be compared with a GPU"
    if dtype != "float32" and name == "onnxruntime":
        return f"{name} is left out: its GRU supports only float32"
    if stream and name == "jax":
        return f"{name} is left out: only whole sequences are measured for it"
    return ""


def choose(
    asked: tuple[str, ...] | None, /, *, backend: str, dtype: str, stream: bool = False
) -> tuple[tuple[str, ...], list[str]]:
    """Choose the peers of a benchmark.

    Parameters
    ----------
    asked : tuple of str or None
        Names of the peers. None means all installed peers.
    backend, dtype : str
        Backend and dtype of gru_xp.
    stream : bool
        Whether single steps of a stream are measured.

    Returns
    -------
    names : tuple of str
        Names of the peers that take part.
    notes : list of str
        The peers that are left out, and the reasons.

    Raises
    ------
    UnavailableError
        If a requested peer is not installed.
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
    """Import a peer and create its contestant.

    Raises
    ------
    UnavailableError
        If the peer is not installed or fails to start.
    """
    if reason := missing(name):
        raise UnavailableError(reason)
    try:
        module = importlib.import_module(f"gru_xp.bench.{PEERS[name].module}")
        contestant: Contestant = module.Peer(job)
    except UnavailableError:
        raise
    except Exception as error:  # a broken installation can raise any exception
        raise UnavailableError(
            f"{name} is installed but fails to start: {type(error).__name__}: {error}"
        ) from error
    return contestant
