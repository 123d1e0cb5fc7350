"""Files that are whole at any moment: a kill leaves the old one or the new one."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, data: bytes, /) -> None:
    """Replace a file in one stroke, and return when the disk has it.

    The data goes to a temporary file beside it first, whose name the next write takes again, so
    that a kill leaves no more than one behind.

    Raises
    ------
    OSError
        If it cannot be written. Then the old file is as it was.
    """
    temporary = _temporary(path)
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)


def make_writable_folder(folder: Path, /) -> None:
    """Make a folder, and its parents, and try whether a file can be written there.

    Raises
    ------
    OSError
        If not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trial = _temporary(folder / "trial")
    trial.touch()
    trial.unlink()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _sync_folder(folder: Path) -> None:
    """Make the new name last too; Windows has no way to, and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
