"""One process at a time in a folder."""

from __future__ import annotations

import os
import platform
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.system.files import read_json, write_json
from anomalib_tiled.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Work:
    """What a process does in a folder.

    Args:
        name: Name of the lock.
        description: What happens to the folder, for messages.
        kept: What stays if the process is stopped, for messages.
    """

    name: str
    description: str
    kept: str


FIT = Work("fit", "is being fitted", "what it has trained is kept")
PREDICTION = Work("predict", "is being predicted into", "what it has predicted is kept")


@contextmanager
def locked(folder: Path, work: Work = FIT) -> Iterator[None]:
    """Keep every other process from working in a folder; the system frees the lock when this process ends.

    Args:
        folder: The folder, such as that of a run.
        work: What this process does there.

    Raises:
        RunFolderError: Another process works in the folder.
    """
    lock, holder = FileLock(folder / f"{work.name}.lock", timeout=0), folder / f"{work.name}.lock.json"
    try:
        with storage_errors(folder):
            lock.acquire()
    except Timeout as error:
        process = _described(holder)
        message = f"{folder} {work.description} by {process}. Wait until it has finished, or stop it; {work.kept}."
        raise RunFolderError(message) from error
    try:
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        write_json(holder, {"host": platform.node(), "process": os.getpid(), "since": since})
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _described(holder: Path) -> str:
    try:
        content = read_json(holder)
        return f"process {content['process']} on {content['host']} since {content['since']}"
    except (RunFolderError, KeyError):  # it has the lock, but has not written its name yet
        return "another process"
