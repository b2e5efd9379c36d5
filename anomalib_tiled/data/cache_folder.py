"""Makes a folder of the cache: one process at a time, completely or not at all, after a check for free space."""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from filelock import FileLock, Timeout

from anomalib_tiled.errors import RunFolderError, StorageError
from anomalib_tiled.system.files import read_json
from anomalib_tiled.system.os_errors import storage_errors
from anomalib_tiled.system.progress import progress_bar
from anomalib_tiled.system.temporary import is_idle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

INDEX = "index.json"
"""Contents of a cache; written last, so its presence means that the cache is complete."""

HALF_DONE = re.compile(r"\.(?P<key>[0-9a-f]{24})\.(?P<host>.*)\.\d+\.tmp")
"""Name of a folder while it is filled."""


def make(folder: Path, fill: Callable[[Path], None], *, is_made: Callable[[], bool], needed: int) -> None:
    """Fill a folder with a temporary name and rename it when it is complete.

    If another process makes the same folder, this one waits, and takes over if the other is killed.

    Args:
        folder: The folder; an existing one that cannot be used is removed.
        fill: Fills the given folder.
        is_made: Whether the folder can be used.
        needed: Size of the folder in bytes.

    Raises:
        StorageError: There is too little free space, which is checked first, or the disk cannot be written. No files
            are left behind.
    """
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            if is_made():  # another process has made it meanwhile, and reads it
                return
            shutil.rmtree(folder, ignore_errors=True)
            _clean_up(folder)
            _check_space(folder.parent, needed)
            temporary = _temporary(folder, str(os.getpid()))
            try:
                temporary.mkdir()
                fill(temporary)
                _rename(temporary, folder, is_made)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    logger.info("The image cache %s takes %s.", folder, _readable(needed))
    _note_others(folder)


def _rename(temporary: Path, folder: Path, is_made: Callable[[], bool]) -> None:
    try:
        temporary.rename(folder)
    except OSError:
        if not is_made():  # another machine, which the lock does not reach, was faster
            raise


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process makes the folder."""
    path = _lock_file(folder)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("Waiting for another process, which decodes the same images into %s.", folder)
        with progress_bar() as bar:
            bar.add_task("Waiting for another run that decodes the same images", total=None)
            lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # a process that has opened it notices that, and makes a new one
        lock.release()


def _clean_up(folder: Path) -> None:
    """Remove half-filled folders of killed processes.

    A running process holds the lock of its folder. Locks of other machines may be invisible here, so their folders stay
    until nothing in them has changed for a day.

    Args:
        folder: The folder to make; this process holds its lock.
    """
    for temporary in folder.parent.glob(".*.tmp"):
        made = HALF_DONE.fullmatch(temporary.name)
        if made is None or not (made["host"] == platform.node() or is_idle(temporary)):
            continue
        if made["key"] == folder.name:
            _remove_abandoned(temporary)
            continue
        lock_file = _lock_file(folder.with_name(made["key"]))
        with suppress(Timeout, OSError), FileLock(lock_file, timeout=0):  # the file may belong to another user
            _remove_abandoned(temporary)
            lock_file.unlink(missing_ok=True)  # a process that has opened it notices that, and makes a new one


def _remove_abandoned(temporary: Path) -> None:
    logger.info("Removing %s, which a process that has ended left half done.", temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _temporary(folder: Path, process: str) -> Path:
    """Name a folder to fill, with this machine, because others may fill one on a shared disk."""
    return folder.with_name(f".{folder.name}.{platform.node()}.{process}.tmp")


def _check_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if needed > free:
        message = (
            f"The image cache needs {_readable(needed)} in {directory}, but only {_readable(free)} are free. "
            "Make room, point cache.directory to another disk, or set cache to null (slower)."
        )
        raise StorageError(message)


def _note_others(folder: Path) -> None:
    """Log which caches hold images that have changed since; these caches are never used again."""
    for index in sorted(folder.parent.glob(f"*/{INDEX}")):
        if index.parent != folder and _is_outdated(index):
            with suppress(OSError):  # it may be deleted at this moment
                size = sum(path.stat().st_size for path in index.parent.iterdir())
                logger.info(
                    "The image cache %s, %s, holds images that have changed or are missing now. Delete it unless a fit "
                    "that began before is still running.",
                    index.parent,
                    _readable(size),
                )


def _is_outdated(index: Path) -> bool:
    with suppress(OSError, RunFolderError, ValueError, TypeError, KeyError):  # incomplete, so it cannot be judged
        return any(_changed(*version) for version in cast("list[tuple[str, int, int]]", read_json(index)["files"]))
    return False


def _changed(path: str, size: int, modified: int) -> bool:
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return True
    return (status.st_size, status.st_mtime_ns) != (size, modified)


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"  # noqa: PLR2004  # bytes in a gigabyte
