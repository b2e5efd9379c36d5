"""One fit at a time in a run folder."""

from __future__ import annotations

import json
import os
import platform
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.files import write_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


HOLDER = "fit.lock.json"
"""Who holds the lock."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process from working in a folder; the system lets go when this process ends, however it ends.

    Args:
        folder: The run folder.

    Raises:
        RunFolderError: Another process works in it.
    """
    holder = folder / HOLDER
    lock = FileLock(folder / "fit.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        message = (
            f"{folder} is being fitted by {_described(holder)}. Wait until it has finished, or stop it; "
            "what it has trained is kept."
        )
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
        folder: The folder. One that was locked on another machine counts as used: its locks may not reach this one.
    """
    with suppress(OSError, ValueError, KeyError):
        if json.loads((folder / HOLDER).read_text(encoding="utf-8"))["host"] != platform.node():
            return False
    try:
        with FileLock(folder / "fit.lock", timeout=0):
            return True
    except Timeout:
        return False


def _described(holder: Path) -> str:
    try:
        content = json.loads(holder.read_text(encoding="utf-8"))
        return f"process {content['process']} on {content['host']} since {content['since']}"
    except (OSError, ValueError, KeyError):  # it has the lock, and has not said yet who it is
        return "another process"
