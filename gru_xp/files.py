"""Files: reads with limits, atomic writes, locked folders.

If the process is killed during a write, either the old file or the complete new one remains.
"""

from __future__ import annotations

import os
import stat
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LARGEST_HEADER = 16 << 20
"""Maximum size in bytes of the header of a safetensors file."""
_LOCK = ".lock"


class LockedError(OSError):
    """Another process has locked the folder."""


def write_whole(path: Path, data: bytes, /) -> None:
    """Replace a file atomically, and return once the data is on the disk.

    The data is first written to a temporary file in the same folder, which is removed on failure. A
    temporary file left by a killed process is deleted; if it is a link, it is not followed. The new
    file has the permissions of the old one. If `path` is a link, the file that it refers to is
    replaced.

    Raises
    ------
    OSError
        If the file cannot be written, or something other than a file has this name; the error names
        it. The old file is then unchanged.
    """
    path = Path(os.path.realpath(path))
    permissions = None
    if path.exists():
        check_regular(path)
        permissions = _permissions(path)
    part = _part(path)
    try:
        with suppress(FileNotFoundError):
            part.unlink()
        try:
            with open(part, "xb") as file:  # x fails if a file or a link exists
                # Not if they are equal, because some file systems refuse to set any.
                if permissions not in (None, _permissions(part)):
                    os.chmod(part, permissions)
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


def _permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def check_regular(path: Path, /) -> None:
    """Check that a path is a regular file, because reading from a pipe may block forever.

    Raises
    ------
    OSError
        If it is not a regular file or cannot be accessed.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} is not a regular file")


def check_safetensors_header(path: Path, /) -> None:
    """Check the length of the header before the safetensors library reads the header.

    Raises
    ------
    ValueError
        If it is greater than `LARGEST_HEADER` or than the size of the file.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > min(LARGEST_HEADER, path.stat().st_size):
        raise ValueError(f"its header is too long ({length} bytes)")


def make_writable_folder(folder: Path, /) -> None:
    """Create a folder and its parents, and check that a file can be written to it.

    Raises
    ------
    OSError
        If the folder cannot be created or written to.
    """
    _make(folder)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(folder)) from error


@contextmanager
def locked(folder: Path, /, *names: str) -> Iterator[None]:
    """Lock a folder while the block runs; create it if it does not exist.

    A folder that was created here is removed again if nothing was written to it. If the file system
    does not support locks, a warning is issued and the block runs without a lock.

    Parameters
    ----------
    folder : Path
        The folder.
    *names : str
        Names of files that the block writes. Temporary files that a killed process has left for
        them are removed.

    Raises
    ------
    LockedError
        If another process has locked the folder.
    OSError
        If the folder cannot be created or written to.
    """
    from filelock import FileLock, Timeout

    made = _make(folder)
    # The umask applies to the mode, so that users who share the folder can lock it too.
    lock = FileLock(folder / _LOCK, mode=0o666)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            made = []
            raise LockedError(
                f"another process is writing to {folder}. Wait until it has finished, or choose "
                "another folder"
            ) from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, PermissionError):
                raise
            warnings.warn(
                f"gru_xp: {folder} cannot be locked ({error}). Make sure that no other process "
                "writes to it",
                RuntimeWarning,
                stacklevel=3,
            )
        for name in names:
            with suppress(OSError):
                _part(folder / name).unlink()
        yield
    finally:
        # Check before releasing the lock, so that no other process can have started to use it.
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
    """Create a folder and its parents; return those that did not exist, the innermost first."""
    for each in (folder, *folder.parents):
        if each.exists() and not each.is_dir():
            raise NotADirectoryError(f"expected a folder, got the file {each}. Choose another name")
    absent = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return absent


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk. Windows neither supports nor needs this."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
