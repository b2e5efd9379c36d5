"""Numbered folders of runs beside each other, and the link to the newest."""

from __future__ import annotations

import logging
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filelock import FileLock

from anomalib_tiled.runs.cleanup import remove_abandoned
from anomalib_tiled.system.files import temporary_name
from anomalib_tiled.system.locks import FIT, is_deserted, locked
from anomalib_tiled.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)


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
    """Make the next folder, under a name that begins with a dot, and keep it locked.

    The caller must publish it. After an error, before or after that, it is removed, and so are half-filled folders of
    killed processes.

    Args:
        root: Folder of all versions.

    Raises:
        StorageError: The folder cannot be written.
    """
    with ExitStack() as stack:
        new = _claim(root, stack)
        try:
            yield new
        except BaseException:
            shutil.rmtree(new.path, ignore_errors=True)
            link_newest(root)
            raise
        finally:
            FIT.holder(new.path).unlink(missing_ok=True)  # the lock does not find it under the new name


def _claim(root: Path, stack: ExitStack) -> NewVersion:
    """Take the next number, while no other process can, and lock the folder."""
    door = root / ".lock"
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(door):
            _remove_abandoned(root)
            if _next_number(root, "v"):
                link_newest(root)  # a killed process may not have done so
            new = _make_hidden(root)
            stack.enter_context(locked(new.path))
            door.unlink(missing_ok=True)  # a process that has opened it notices that, and makes a new one
    return new


def _make_hidden(root: Path) -> NewVersion:
    number = _next_number(root, "v", ".v")
    while True:  # without working locks, another process may take the number at the same moment
        hidden = root / f".v{number}"
        try:
            hidden.mkdir()
        except FileExistsError:
            number += 1
        else:
            return NewVersion(root / f"v{number}", hidden)


def _remove_abandoned(root: Path) -> None:
    for hidden in root.glob(".v*"):
        if hidden.name.removeprefix(".v").isdecimal() and is_deserted(hidden):
            shutil.rmtree(hidden, ignore_errors=True)
    remove_abandoned(root.glob(".latest.*.tmp"))


def link_newest(root: Path) -> None:
    """Point the link ``latest`` to the newest folder; remove the link if there is no folder."""
    name, latest = f"v{_next_number(root, 'v') - 1}", root / "latest"
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


def _next_number(root: Path, *prefixes: str) -> int:
    """Give the number after the highest one behind any of the prefixes."""
    names = [path.name.removeprefix(prefix) for prefix in prefixes for path in root.glob(f"{prefix}*")]
    return max((int(number) for number in names if number.isdecimal()), default=-1) + 1
