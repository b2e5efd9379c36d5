"""Temporary folders for half-finished results."""

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
"""File in a temporary folder that its process keeps locked."""


@contextmanager
def working_folder(parent: Path, prefix: str = ".") -> Iterator[Path]:
    """Give an empty folder, and remove it in the end; also remove those of killed processes.

    Args:
        parent: Folder to make it in.
        prefix: Beginning of the names of all such folders.
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
