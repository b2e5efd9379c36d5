"""Makes a folder of the cache: one process at a time, completely or not at all, after a check for free space."""

from __future__ import annotations

import logging
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from anomalib_tiled.errors import StorageError
from anomalib_tiled.system.files import is_idle
from anomalib_tiled.system.os_errors import storage_errors
from anomalib_tiled.system.progress import progress_bar

logger = logging.getLogger(__name__)

HALF_DONE = f".{24 * '[0-9a-f]'}.*.tmp"
"""Names of folders while they are filled."""


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
            temporary = folder.with_name(f"{_half_done(folder)}{os.getpid()}.tmp")
            try:
                temporary.mkdir()
                fill(temporary)
                temporary.rename(folder)
            except OSError:
                if not is_made():  # another machine, which the lock does not reach, may have been faster
                    raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    logger.info("The image cache %s takes %s.", folder, _readable(needed))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process makes the folder."""
    path = folder.with_name(f".{folder.name}.lock")
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

    A running process of this machine holds the lock of its folder. Locks of other folders and machines say nothing
    here, so their half-filled folders stay until nothing in them has changed for a day.

    Args:
        folder: The folder to make; this process holds its lock.
    """
    for temporary in folder.parent.glob(HALF_DONE):
        if temporary.name.startswith(_half_done(folder)) or is_idle(temporary):
            logger.info("Removing %s, which a process that has ended left half done.", temporary)
            shutil.rmtree(temporary, ignore_errors=True)


def _half_done(folder: Path) -> str:
    """Begin the name of a half-filled folder, with this machine, because others may fill one on a shared disk."""
    return f".{folder.name}.{platform.node()}."


def _check_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if needed > free:
        message = (
            f"The image cache needs {_readable(needed)} in {directory}, but only {_readable(free)} are free. "
            "Make room, point cache.directory to another disk, or set cache to null (slower)."
        )
        raise StorageError(message)


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"  # noqa: PLR2004  # bytes in a gigabyte
