"""Files: read with limits, written whole, a folder locked.

What is written is whole at any moment: a kill leaves the old file or the new one.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LARGEST_HEADER = 16 << 20
"""Bytes of a safetensors file's header that are still read."""
_LOCK = ".lock"


class LockedError(OSError):
    """Another process has the folder."""


def write_whole(path: Path, data: bytes, /) -> None:
    """Replace a file in one stroke, and return when the disk has it.

    The data goes to a temporary file beside it first, which a failure removes. What a kill has
    left under that name goes, and no link there is followed.

    Raises
    ------
    OSError
        If it cannot be written; it names the file. Then the old file is as it was.
    """
    part = _part(path)
    try:
        with suppress(FileNotFoundError):
            part.unlink()
        try:
            with open(part, "xb") as file:  # x: none may be there, a link neither
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    _sync_folder(path.parent)


def check_regular(path: Path, /) -> None:
    """Check that a file is one, of bytes on a disk: to read from a pipe may wait for ever.

    Raises
    ------
    OSError
        If it is not, or cannot be looked at.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} is no regular file")


def check_safetensors_header(path: Path, /) -> None:
    """Look at the header's length before a library makes something of the header.

    Raises
    ------
    ValueError
        If it is longer than `LARGEST_HEADER`, or than the file.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > min(LARGEST_HEADER, path.stat().st_size):
        raise ValueError("its header is longer than one can be")


def make_writable_folder(folder: Path, /) -> None:
    """Make a folder, and its parents, and try whether a file can be written there.

    Raises
    ------
    OSError
        If not.
    """
    _make(folder)
    write_whole(folder / "trial", b"")
    (folder / "trial").unlink()


@contextmanager
def locked(folder: Path, /, *names: str) -> Iterator[None]:
    """Have a folder to oneself, as long as the block runs; make it where it is not there.

    A folder that was made here, and in which nothing was written, goes again. Where the file system
    cannot lock, a warning says so, and the block runs without.

    Parameters
    ----------
    folder : Path
    *names : str
        Of files that are written there, of which a kill may have left the beginning: that is
        removed.

    Raises
    ------
    LockedError
        If another process has it.
    OSError
        If it cannot be made, or nothing can be written there.
    """
    from filelock import FileLock, Timeout

    made = _make(folder)
    lock = FileLock(folder / _LOCK, mode=0o666)  # less the umask: others may share the folder
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            made = []
            raise LockedError(
                f"another process is writing to {folder}: wait until it has ended, or choose "
                "another folder"
            ) from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, PermissionError):
                raise
            warnings.warn(
                f"gru_xp: {folder} cannot be locked ({error}): take care that no other process "
                "writes there",
                RuntimeWarning,
                stacklevel=3,
            )
        for name in names:
            with suppress(OSError):
                _part(folder / name).unlink()
        yield
    finally:
        # Before the lock is released, so that nobody can have taken what goes.
        empty = bool(made) and os.listdir(folder) in ([], [_LOCK])
        if empty:
            with suppress(OSError):
                (folder / _LOCK).unlink(missing_ok=True)
        lock.release()
        if empty:
            with suppress(OSError):
                for each in made:
                    each.rmdir()


def _make(folder: Path) -> list[Path]:
    """Make a folder and its parents; return those that were not there, the innermost first."""
    for each in (folder, *folder.parents):
        if each.exists() and not each.is_dir():
            raise NotADirectoryError(f"{each} is a file: a folder is needed, choose another name")
    absent = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return absent


def _part(path: Path) -> Path:
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
