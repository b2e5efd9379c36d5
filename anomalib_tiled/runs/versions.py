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
    """The next folder, which nobody finds before it is published.

    Args:
        final: What it will be called, ``v0``, ``v1`` and so on.
        path: What it is called now.
    """

    final: Path
    path: Path

    def publish(self) -> None:
        """Give it its name, and point the link ``latest`` to it."""
        with storage_errors(self.final):
            self.path.rename(self.final)
        self.path = self.final
        link_newest(self.final.parent)


@contextmanager
def new_version(root: Path) -> Iterator[NewVersion]:
    """Make the next folder, under a name that begins with a dot, and keep it locked.

    It has to be published. If anything goes wrong, before or after that, it is removed. Folders of processes that were
    killed while they filled theirs are removed as well.

    Args:
        root: Folder of all of them.

    Raises:
        StorageError: It cannot be written.
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
            FIT.holder(new.path).unlink(missing_ok=True)  # which the lock does not find under the new name


def _claim(root: Path, stack: ExitStack) -> NewVersion:
    """Take the next number; no other process may do so before the folder is locked."""
    door = root / ".lock"
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(door):
            _remove_abandoned(root)
            if _next_number(root, "v"):
                link_newest(root)  # a process may have been killed before it did
            new = _make_hidden(root)
            stack.enter_context(locked(new.path))
            door.unlink(missing_ok=True)  # whoever has opened it already finds out, and makes another
    return new


def _make_hidden(root: Path) -> NewVersion:
    number = _next_number(root, "v", ".v")
    while True:  # another process may take the number at the same moment where locks do not reach it
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
    """Point the link to the newest folder that is there; remove it if there is none."""
    name, latest = f"v{_next_number(root, 'v') - 1}", root / "latest"
    if not (root / name).is_dir():
        latest.unlink(missing_ok=True)
        return
    temporary = root / temporary_name(latest.name)
    try:
        temporary.symlink_to(name, target_is_directory=True)
        temporary.replace(latest)
    except (OSError, NotImplementedError) as error:  # a file system without links: the folder is all that is needed
        logger.warning("%s does not lead to %s, which is the newest: %s", latest, name, error)
        temporary.unlink(missing_ok=True)


def _next_number(root: Path, *prefixes: str) -> int:
    """Give the number after the highest that stands behind one of the prefixes."""
    names = [path.name.removeprefix(prefix) for prefix in prefixes for path in root.glob(f"{prefix}*")]
    return max((int(number) for number in names if number.isdecimal()), default=-1) + 1
