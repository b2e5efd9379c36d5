"""Folders for what is half done, which nobody mistakes for something finished."""

from __future__ import annotations

import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK = "lock"
"""File in a working folder that its process holds locked."""


@contextmanager
def working_folder(parent: Path, prefix: str = ".") -> Iterator[Path]:
    """Give an empty folder, and remove it in the end; remove those of processes that have been killed.

    Args:
        parent: Folder that it lies in.
        prefix: Beginning of its name, and of the names of those that are removed.
    """
    for left in parent.glob(f"{prefix}*"):
        with suppress(Timeout, OSError), FileLock(left / LOCK, timeout=0):
            shutil.rmtree(left, ignore_errors=True)
    work = Path(mkdtemp(prefix=prefix, dir=parent))
    try:
        with FileLock(work / LOCK):
            yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
