"""Numbered folders of runs beside each other, and the link to the newest."""

from __future__ import annotations

import logging
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filelock import FileLock

from anomalib_tiled.system.os_errors import storage_errors
from anomalib_tiled.system.temporary import TEMPORARY, remove_abandoned, temporary_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

NAME = re.compile(r"v(\d+)|\.v(\d+)\..*\.tmp")
"""Names of folders, and of those that are being filled."""


@dataclass
class NewVersion:
    """The next folder, hidden until it is published.

    Args:
        final: Its final path, ``v0``, ``v1`` and so on.
        path: Its present path.
    """

    final: Path
    path: Path

    def publish(self) -> None:
        """Give the folder its final name, and point the link ``latest`` to it."""
        with storage_errors(self.final):
            self.path.rename(self.final)
        self.path = self.final
        link_newest(self.final.parent)


@contextmanager
def new_version(root: Path) -> Iterator[NewVersion]:
    """Make the next folder, under a temporary name.

    The caller must publish it. After an error, before or after that, it is removed, and so are half-filled folders of
    killed processes.

    Args:
        root: Folder of all versions.

    Raises:
        StorageError: The folder cannot be written.
    """
    new = _next(root)
    try:
        yield new
    except BaseException:
        shutil.rmtree(new.path, ignore_errors=True)
        link_newest(root)
        raise


def _next(root: Path) -> NewVersion:
    """Take the next number, while no other process can."""
    lock_file = root / ".lock"
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(lock_file):
            remove_abandoned(root.glob(TEMPORARY))
            name = f"v{_newest(root) + 1}"
            hidden = root / temporary_name(name)
            hidden.mkdir()
            lock_file.unlink(missing_ok=True)  # a process that has opened it notices that, and makes a new one
    return NewVersion(root / name, hidden)


def link_newest(root: Path) -> None:
    """Point the link ``latest`` to the newest folder; remove the link if there is no folder."""
    name, latest = f"v{_newest(root, 'v*')}", root / "latest"
    if not (root / name).is_dir():
        latest.unlink(missing_ok=True)
        return
    temporary = root / temporary_name(latest.name)
    try:
        temporary.symlink_to(name, target_is_directory=True)
        temporary.replace(latest)
    except (OSError, NotImplementedError) as error:  # a file system without links; the run works without it
        logger.warning("%s could not be pointed to %s, the newest run: %s", latest, name, error)
        temporary.unlink(missing_ok=True)


def _newest(root: Path, pattern: str = "*") -> int:
    """Give the highest number of a folder, hidden or not; -1 if there is none."""
    found = (NAME.fullmatch(path.name) for path in root.glob(pattern))
    return max((int(each[1] or each[2]) for each in found if each is not None), default=-1)
