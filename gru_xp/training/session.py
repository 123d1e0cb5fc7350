"""A training run on disk: begin or continue it, save as it goes, stop it cleanly."""

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

from gru_xp.files import make_writable_folder
from gru_xp.training import checkpoint, text
from gru_xp.training.config import TrainingConfig
from gru_xp.training.errors import SessionError
from gru_xp.training.trainer import Trainer

SAVE_SECONDS = 15.0


def begin(config: TrainingConfig, out: Path, /, *, overwrite: bool) -> Trainer:
    """Start a run that will be kept in folder `out`; nothing is written there yet.

    Parameters
    ----------
    config : TrainingConfig
        `text_sha256` is filled in.
    out : Path
    overwrite : bool
        Whether `out` may hold a model. It stays until the first save replaces it.

    Raises
    ------
    SessionError
        If `out` holds a model that may not be overwritten.
    TextError
        If the text cannot be used.
    BackendError
        If the backend is not usable here.
    OSError
        If a text cannot be read, or nothing can be written to `out`.
    """
    if checkpoint.exists(out) and not overwrite:
        raise SessionError(
            f"{out} already holds a model: go on with it by --resume, replace it by --overwrite, "
            "or choose another --out"
        )
    content = text.read_texts([Path(path) for path in config.texts])
    trainer = Trainer(replace(config, text_sha256=_sha256(content)), text.split(content))
    make_writable_folder(out)
    return trainer


def resume(out: Path, given: dict[str, Any], /) -> Trainer:
    """Continue the run in folder `out`.

    Parameters
    ----------
    out : Path
    given : dict
        Fields of the configuration that the user gave; they must be those of the run.

    Raises
    ------
    CheckpointError
        If `out` holds no checkpoint that can be used.
    SessionError
        If an option contradicts the run, or its text has changed.
    TextError
        If the text cannot be used.
    BackendError
        If the backend of the run is not usable here.
    OSError
        If a file cannot be read, or nothing can be written to `out`.
    """
    stored = checkpoint.load(out)
    for name, value in given.items():
        if value != (of_run := getattr(stored.config, name)):
            raise SessionError(
                f"the run in {out} has {name.replace('_', ' ')} {_shown(of_run)}, not "
                f"{_shown(value)}: leave the option out to resume it, or begin another with "
                "--overwrite"
            )
    content = text.read_texts([Path(path) for path in stored.config.texts])
    if _sha256(content) != stored.config.text_sha256:
        source = ", ".join(stored.config.texts) or "this Python's language reference"
        raise SessionError(f"{source} is not the text that the run in {out} began with")
    trainer = Trainer.resume(stored, text.split(content))
    make_writable_folder(out)
    return trainer


def run(trainer: Trainer, out: Path, /, *, on_step: Callable[[float], None]) -> None:
    """Train to the end, or until Ctrl-C; save every 15 seconds and at the end.

    Parameters
    ----------
    trainer : Trainer
        Not ``finished`` afterwards if Ctrl-C came: then the step that ran was completed and saved.
    out : Path
    on_step : callable
        Called after each step with its loss in bits per character.

    Raises
    ------
    DivergenceError
        If the loss is no finite number any more. The last checkpoint is from before that.
    OSError
        If a checkpoint cannot be written.
    """
    if trainer.finished:
        return
    _keep_freed_memory()
    saved = time.monotonic()
    with _interrupts() as interrupted:
        while not trainer.finished and not interrupted():
            on_step(trainer.step())
            if time.monotonic() - saved > SAVE_SECONDS:
                checkpoint.save(out, trainer.checkpoint())
                saved = time.monotonic()
        checkpoint.save(out, trainer.checkpoint())


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Take note of the first Ctrl-C instead of raising; a second one raises as ever."""
    noted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        noted = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, before)


def _keep_freed_memory() -> None:
    """Keep Linux's allocator from giving a large array's memory back to the system at once.

    Every array would be given fresh pages, a fifth of a step's time. glibc keeps what is smaller
    than the largest block that was ever freed, if that was below 32 MB; so one is.
    """
    np.empty(31 << 20, dtype=np.uint8)


def _sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "the language reference"
    return str(value)
