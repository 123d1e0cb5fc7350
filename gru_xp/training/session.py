"""A training run on disk: starting, resuming, periodic saving and clean stopping."""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from gru_xp.files import check_regular, make_writable_folder
from gru_xp.messages import printable
from gru_xp.training import checkpoint, memory, plot, text
from gru_xp.training.config import TrainingConfig
from gru_xp.training.errors import DivergenceError, SessionError
from gru_xp.training.trainer import Trainer

SAVE_SECONDS = 15.0

FILES = (checkpoint.FILE, checkpoint.CONFIG_FILE, plot.FILE)
"""Names of the files that are written to the folder of a run."""


def begin(config: TrainingConfig, out: Path, /, *, overwrite: bool) -> Trainer:
    """Start a run that will be saved to the folder `out`. Nothing is saved yet.

    Parameters
    ----------
    config : TrainingConfig
        Options of the run; `text_sha256` is filled in.
    out : Path
        Folder of the run.
    overwrite : bool
        Whether `out` may already contain a model. It is kept until the first save replaces it.

    Raises
    ------
    SessionError
        If `out` contains a model, or another file that the run would replace, and `overwrite` is
        False; or if the memory is not sufficient.
    TextError
        If the text cannot be used.
    BackendError
        If the backend is not usable.
    OSError
        If a text cannot be read, or `out` cannot be written to.
    """
    if checkpoint.exists(out) and not overwrite:
        raise SessionError(
            f"{out} already contains a model. Continue it with --resume, replace it with "
            "--overwrite, or choose another --out"
        )
    for path in filter(Path.exists, (out / name for name in FILES)):
        if not overwrite:
            raise SessionError(
                f"{out} already contains a file {path.name}, which the run would replace. Choose "
                "another --out, or replace the file with --overwrite"
            )
        check_regular(path)
    content = text.read_texts([Path(path) for path in config.texts])
    corpus = text.split(content)
    if config.batch_size * config.seq_len < len(corpus.training):  # else Trainer raises TextError
        memory.check(config, 1 + len(set(corpus.training)))
    trainer = Trainer(replace(config, text_sha256=_sha256(content)), corpus)
    make_writable_folder(out)
    return trainer


def resume(out: Path, given: dict[str, Any], /) -> Trainer:
    """Resume the run in the folder `out`.

    Parameters
    ----------
    out : Path
        Folder of the run.
    given : dict
        Fields of the configuration that the user gave. They must equal those of the run.

    Raises
    ------
    CheckpointError
        If `out` does not contain a usable checkpoint.
    SessionError
        If an option differs from that of the run, or the text has changed.
    TextError
        If the text cannot be used.
    BackendError
        If the backend of the run is not usable.
    OSError
        If a file cannot be read, or `out` cannot be written to.
    """
    stored = checkpoint.load(out)
    finished = len(stored.arrays["losses"]) >= stored.config.steps
    if finished and given.get("steps", 0) > stored.config.steps:
        raise SessionError(
            f"the run in {out} is complete: its learning rate has reached zero after "
            f"{stored.config.steps} steps. For more steps, start a new run with --steps "
            f"{given['steps']} and --overwrite or another --out"
        )
    for name, value in given.items():
        if value != (of_run := getattr(stored.config, name)):
            raise SessionError(
                f"expected {name.replace('_', ' ')} {_shown(of_run)}, as in the run in {out}, got "
                f"{_shown(value)}. Leave the option out to resume the run, or start a new one with "
                "--overwrite"
            )
    content = text.read_texts([Path(path) for path in stored.config.texts])
    if _sha256(content) != stored.config.text_sha256:
        source = _shown(stored.config.texts)
        raise SessionError(
            f"expected the text with which the run in {out} was started, got a different text from "
            f"{source}"
        )
    trainer = Trainer.resume(stored, text.split(content))
    if not trainer.finished:
        make_writable_folder(out)
    return trainer


def run(trainer: Trainer, out: Path, /, *, on_step: Callable[[float], None]) -> int | None:
    """Train to the end or until a signal arrives. Save every 15 seconds and at the end.

    A run that is stopped before its first step is not saved.

    Parameters
    ----------
    trainer : Trainer
        The run. If a signal arrives, the current step is completed and saved, and the run is not
        ``finished`` afterwards.
    out : Path
        Folder of the run.
    on_step : callable
        Called after each step with its loss in bits per character.

    Returns
    -------
    int or None
        Number of the signal that stopped the run (SIGINT, SIGTERM or SIGHUP), or None.

    Raises
    ------
    DivergenceError
        If the loss or a weight is no longer finite. The message names the step of the last
        checkpoint, which precedes the divergence.
    OSError
        If a checkpoint cannot be written.
    """
    if trainer.finished:
        return None
    _keep_freed_memory()
    saved, last = time.monotonic(), trainer.steps_done

    def save() -> None:
        nonlocal saved, last
        checkpoint.save(out, trainer.checkpoint())
        saved, last = time.monotonic(), trainer.steps_done

    # NumPy's warnings are not needed: an overflow leads to a non-finite number and so to an error.
    with _signals() as noted, np.errstate(over="ignore", invalid="ignore"):
        try:
            while not trainer.finished and noted() is None:
                on_step(trainer.step())
                if time.monotonic() - saved > SAVE_SECONDS:
                    save()
            if trainer.steps_done > last:
                save()
        except DivergenceError as error:
            kept = (
                f"{out} contains the run at step {last}" if last else "No checkpoint has been saved"
            )
            raise DivergenceError(f"{error}. {kept}") from error
        return noted()


@contextmanager
def _signals() -> Iterator[Callable[[], int | None]]:
    """Record the first SIGINT (Ctrl-C), SIGTERM or SIGHUP.

    A second SIGINT has its usual effect. The other signals may be sent twice automatically, for
    example when a terminal is closed, and the second must not interrupt the stop that the first
    one started.
    """
    first: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        first.append(number)
        if number == signal.SIGINT:
            signal.signal(number, before[number])

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        # Ignored signals stay ignored, such as SIGHUP under nohup. SIGINT is the exception, because
        # shells ignore it in background jobs.
        if number is None or (name != "SIGINT" and signal.getsignal(number) is signal.SIG_IGN):
            continue
        before[number] = signal.signal(number, note)
    try:
        yield lambda: first[0] if first else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _keep_freed_memory() -> None:
    """Keep glibc's allocator from returning the memory of large arrays to the system.

    Otherwise every array gets fresh pages, which costs a fifth of the time of a step. glibc keeps
    blocks smaller than the largest block freed so far, provided that was below 32 MB. This function
    therefore allocates and frees such a block.
    """
    np.empty(31 << 20, dtype=np.uint8)


def _sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return printable(", ".join(value)) or "this Python's language reference"
    return str(value)
