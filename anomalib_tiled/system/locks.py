"""One process at a time in a folder."""

from __future__ import annotations

import os
import platform
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.system.files import is_idle, read_json, write_json
from anomalib_tiled.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Work:
    """What a process does in a folder.

    Args:
        name: Name of its lock there.
        said: What happens to the folder.
        kept: What the process leaves if it is stopped.
    """

    name: str
    said: str
    kept: str

    def lock(self, folder: Path) -> FileLock:
        """Give the lock of a folder."""
        return FileLock(folder / f"{self.name}.lock", timeout=0)

    def holder(self, folder: Path) -> Path:
        """Give the file that says who holds the lock."""
        return folder / f"{self.name}.lock.json"


FIT = Work("fit", "is being fitted", "what it has trained is kept")
PREDICTION = Work("predict", "is being predicted into", "what it has predicted is kept")


@contextmanager
def locked(folder: Path, work: Work = FIT) -> Iterator[None]:
    """Keep every other process from working in a folder; the system lets go when this process ends, however it ends.

    Args:
        folder: The folder, such as that of a run.
        work: What is done there.

    Raises:
        RunFolderError: Another process works in it.
    """
    holder, lock = work.holder(folder), work.lock(folder)
    try:
        with storage_errors(folder):
            lock.acquire()
    except Timeout as error:
        message = f"{folder} {work.said} by {_described(holder)}. Wait until it has finished, or stop it; {work.kept}."
        raise RunFolderError(message) from error
    try:
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        write_json(holder, {"host": platform.node(), "process": os.getpid(), "since": since})
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def is_deserted(folder: Path) -> bool:
    """Whether nobody works in a folder any more that somebody has locked.

    Args:
        folder: The folder. One that was locked on another machine, whose locks may not reach this one, counts as used
            until nobody has written to it for a day.
    """
    with suppress(RunFolderError, KeyError):
        host = read_json(FIT.holder(folder))["host"]
        if host != platform.node() and not is_idle(folder):
            return False
    try:
        with FIT.lock(folder):
            return True
    except Timeout:
        return False


def _described(holder: Path) -> str:
    try:
        content = read_json(holder)
        return f"process {content['process']} on {content['host']} since {content['since']}"
    except (RunFolderError, KeyError):  # it has the lock, and has not said yet who it is
        return "another process"
