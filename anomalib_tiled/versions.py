"""Numbered folders of runs beside each other, and the link to the newest."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from anomalib_tiled.files import storage_errors

if TYPE_CHECKING:
    from pathlib import Path


def make_version(root: Path) -> Path:
    """Make the next folder, ``v0``, ``v1`` and so on, and point the link ``latest`` to it.

    Args:
        root: Folder of all of them.

    Raises:
        StorageError: It cannot be written.
    """
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        number = _next_version(root)
        while True:  # another run may take the number at the same moment
            try:
                (root / f"v{number}").mkdir()
            except FileExistsError:
                number += 1
            else:
                break
    _link_latest(root, f"v{number}")
    return root / f"v{number}"


def link_newest(root: Path) -> None:
    """Point the link to the newest folder that is there; remove it if there is none."""
    _link_latest(root, f"v{_next_version(root) - 1}")


def _next_version(root: Path) -> int:
    numbers = [int(path.name[1:]) for path in root.glob("v*") if path.name[1:].isdecimal()]
    return max(numbers, default=-1) + 1


def _link_latest(root: Path, name: str) -> None:
    temporary = root / f".latest.{os.getpid()}.tmp"
    if not (root / name).is_dir():
        (root / "latest").unlink(missing_ok=True)
        return
    with suppress(OSError, NotImplementedError):  # a file system without links: the run folder is all that is needed
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(name, target_is_directory=True)
        temporary.replace(root / "latest")
