"""One process at a time in a folder, also where several machines share it.

Two things keep others out, and neither is enough alone:

    fit.lock         locked by the operating system, which frees it when the process ends; on some shared storage that
                     holds only within one machine, and on some it is never freed if a machine dies
    fit.lock.json    names the process. It is renewed while the process lives, so that others know whether it does
"""

from __future__ import annotations

import json
import os
import platform
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from math import inf
from threading import Event, Thread
from time import monotonic, sleep
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.system.files import read_json_if_any, write_json
from anomalib_tiled.system.os_errors import storage_errors
from anomalib_tiled.system.temporary import is_running, machine_name, temporary_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

RENEWED = 10.0
"""Seconds from one renewal to the next."""

LEASE = 60.0
"""Seconds without a renewal after which a process of another machine counts as ended."""

WRITTEN = 2.0
"""Seconds within which a process that has got the lock of the operating system writes its name."""


@dataclass(frozen=True)
class Activity:
    """What a process does in a folder.

    Args:
        name: Name of the lock.
        description: What happens to the folder, for messages.
        kept: What stays if the process is stopped, for messages.
    """

    name: str
    description: str
    kept: str


FIT = Activity("fit", "is being fitted", "what it has trained is kept")
PREDICTION = Activity("predict", "is being predicted into", "what it has predicted is kept")


class Lease:
    """The right of this process to work in a folder, renewed by a thread until the work ends.

    Args:
        path: The file that names the process.
        kept: What stays if the process loses its right, for messages.
    """

    def __init__(self, path: Path, kept: str) -> None:
        self.path, self._kept = path, kept
        self._content = {**this_process(), "nonce": os.urandom(8).hex()}
        self._ended = Event()

    @property
    def is_held(self) -> bool:
        """Whether no other process has taken over."""
        return read_json_if_any(self.path) == self._content

    def check(self) -> None:
        """Check that this process may go on; to be called before it begins or hands out more work.

        Raises:
            RunFolderError: The process was suspended, and another one has taken over.
        """
        if not self.is_held:
            other = described(read_json_if_any(self.path))
            message = (
                f"{self.path.parent} was taken over by {other}, because this process did not renew {self.path.name} "
                f"for {LEASE:.0f} s, as one that is suspended. This process stops; {self._kept}."
            )
            raise RunFolderError(message)

    def take(self, *, locked: bool) -> bool:
        """Write this process into the file, unless the process there is alive.

        Args:
            locked: Whether this process has the lock of the operating system.

        Returns:
            Whether the folder belongs to this process now.
        """
        if not locked:
            self._await()
        if not self._create():
            if not _is_free(self.path, locked=locked):
                return False
            write_json(self.path, self._content)  # two may do so at once: `check` tells the first one
        Thread(target=self._renew, name=f"lease of {self.path}", daemon=True).start()
        return True

    def end(self) -> None:
        """Renew it no more, and remove the file, unless it names another process by now."""
        self._ended.set()
        if self.is_held:
            self.path.unlink(missing_ok=True)

    def _await(self) -> None:
        """Wait for the file of the process that has the lock; if there is none, that process ended with its machine."""
        deadline = monotonic() + WRITTEN
        while not self.path.exists() and monotonic() < deadline:
            sleep(WRITTEN / 20)

    def _create(self) -> bool:
        """Make the file; only one process of all machines can."""
        try:
            with self.path.open("x", encoding="utf-8") as file:
                file.write(json.dumps(self._content, indent=2) + "\n")
        except FileExistsError:
            return False
        except OSError:
            self.path.unlink(missing_ok=True)  # the disk is full
            raise
        return True

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED):
            with suppress(OSError):  # such as a server that restarts; without a renewal, `check` finds the successor
                if self.is_held:
                    os.utime(self.path)


def this_process() -> dict[str, object]:
    """Give what others need to know of this process: its host, its number, the time, and a name of its machine."""
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"host": platform.node(), "process": os.getpid(), "since": since, "machine": machine_name()}


def described(process: Mapping[str, object]) -> str:
    """Describe a process for messages.

    Args:
        process: What `this_process` gave there; may be empty.
    """
    if not {"process", "host", "since"} <= process.keys():
        return "another process"
    return "process {process} on {host} since {since}".format_map(process)


@contextmanager
def locked(folder: Path, activity: Activity = FIT) -> Iterator[Lease]:
    """Keep every other process, of this machine and of others, from working in a folder.

    The folder is free at once when a process of this machine ends, even a killed one, and `LEASE` seconds after one of
    another machine was killed.

    Args:
        folder: The folder, such as that of a run.
        activity: What this process does there.

    Yields:
        The right to work there. Long work should `check` it now and then.

    Raises:
        RunFolderError: Another process works in the folder.
    """
    lock = FileLock(folder / f"{activity.name}.lock", timeout=0)
    lease = Lease(folder / f"{activity.name}.lock.json", activity.kept)
    with storage_errors(folder), suppress(Timeout):
        lock.acquire()
    try:
        with storage_errors(folder):
            is_taken = lease.take(locked=lock.is_locked)
        if not is_taken:
            process = described(read_json_if_any(lease.path))
            advice = f"Wait until it has finished, or stop it; {activity.kept}."
            message = f"{folder} {activity.description} by {process}. {advice}"
            far = f"{message} If its machine has failed, try again in {LEASE:.0f} s."
            raise RunFolderError(far if lock.is_locked else message)
        try:
            yield lease
        finally:
            lease.end()
    finally:
        lock.release()


def _is_free(path: Path, *, locked: bool) -> bool:
    """Whether the process that a file names has ended.

    Args:
        path: The file.
        locked: Whether this process has the lock of the operating system, which is reliable within a machine.
    """
    holder = read_json_if_any(path)
    here = machine_name() if "machine" in holder else platform.node()  # earlier versions wrote only the latter
    is_here = holder.get("machine", holder.get("host")) == here
    process = holder.get("process")
    if is_here and (locked or not isinstance(process, int) or is_running(process)):
        return locked
    return _age(path) > LEASE


def _age(path: Path) -> float:
    """Seconds since a file was renewed, by the clock of the storage: those of two machines may differ."""
    fresh = path.with_name(temporary_name(path.name))
    try:
        fresh.touch()
        os.utime(fresh)  # like a renewal
        with path.open("rb") as file:  # an open file has no outdated time, which network file systems keep for a while
            return fresh.stat().st_mtime - os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return inf
    finally:
        fresh.unlink(missing_ok=True)
