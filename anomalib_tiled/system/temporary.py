"""Half-finished files, links and folders: how they are named, and removed once their process has ended."""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

logger = logging.getLogger(__name__)

A_DAY = 24 * 60 * 60
"""Seconds without a change after which what a process of another machine makes counts as abandoned."""

TEMPORARY = ".*.tmp"
"""Pattern of temporary names, and of some others: `remove_abandoned` knows them apart."""

_NAME = re.compile(r"\..+\.(?P<machine>[^.]+)-(?P<process>\d+)-[0-9a-f]{8}\.tmp")

LONGEST_BEGINNING = 128
"""Bytes of a name that its temporary name begins with, so that the temporary name is not too long."""


def temporary_name(name: str) -> str:
    """Give a unique name for something incomplete, with the machine and the process that make it.

    Args:
        name: Name when it is complete.
    """
    beginning = os.fsencode(name)[:LONGEST_BEGINNING].decode(errors="ignore")  # cuts no character in half
    return f".{beginning}.{machine_name()}-{os.getpid()}-{os.urandom(4).hex()}.tmp"


@contextmanager
def working_folder(parent: Path, name: str = "work") -> Iterator[Path]:
    """Give an empty folder with a temporary name, and remove it in the end, unless it was renamed.

    Args:
        parent: Folder to make it in.
        name: What its name begins with. Such folders of killed processes are removed.
    """
    remove_abandoned(parent.glob(f".{name}{TEMPORARY}"))
    work = parent / temporary_name(name)
    work.mkdir(parents=True)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def remove_abandoned(paths: Iterable[Path], patience: float = A_DAY) -> None:
    """Remove what has a temporary name and whose process has ended.

    Processes of other machines and containers are invisible here: what they make stays until nothing in it has changed
    for a day.

    Args:
        paths: Files, links and folders; those with other names stay.
        patience: Seconds without a change to use instead of a day; -inf if the others are known to have ended.
    """
    for path in list(paths):  # found before any is removed
        made = _NAME.fullmatch(path.name)
        if made and _is_abandoned(path, made["machine"], int(made["process"]), patience):
            logger.info("Removing %s, which a process that has ended left half done.", path)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_abandoned(path: Path, machine: str, process: int, patience: float) -> bool:
    if machine == machine_name():
        return not is_running(process)
    with suppress(OSError):  # something was removed meanwhile, or is inaccessible
        return time() - max(each.lstat().st_mtime for each in (path, *path.rglob("*"))) > patience
    return False


def is_running(process: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):  # the latter for what is no number of a process
        return False
    except PermissionError:
        return True
    return True


def machine_name() -> str:
    """Name this machine without dots, and the numbering of processes, of which containers have their own."""
    name = re.sub(r"[^A-Za-z0-9-]", "_", platform.node())[-64:]
    with suppress(OSError):  # no Linux
        return f"{name}-{Path('/proc/self/ns/pid').stat().st_ino}"
    return name
