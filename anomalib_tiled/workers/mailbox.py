"""Files by which a command and its jobs exchange tasks and answers, in a folder that all of them see.

    alive                   renewed by the command; a job that sees no renewal for a minute ends itself
    to_jobs/17_4.0/2.task   third task of job 17_4, which has not been requeued
    from_jobs/17_4.0.3      fourth message of this job to the command

Each file is renamed when it is complete, and removed by its reader.
"""

from __future__ import annotations

import os
import pickle
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from anomalib_tiled.stages.workers import PlaceError

PULSE = "alive"
"""File that the command renews."""

HIDDEN = "."
"""First character of the names of files that are not complete."""


@dataclass(frozen=True)
class Started:
    """The job has started.

    Args:
        node: Node that it runs on, by SLURM's name.
    """

    node: str


@dataclass(frozen=True)
class Answered:
    """The job has done a task.

    Args:
        value: What the task returned.
        is_last: Whether the job takes no more.
    """

    value: object
    is_last: bool = False


@dataclass(frozen=True)
class Ended:
    """The job ends without an answer.

    Args:
        error: Why.
    """

    error: PlaceError


Message = Started | Answered | Ended


@dataclass(frozen=True)
class Mailbox:
    """The folder, for the command and for its jobs.

    A job is addressed by its id and the number of times that SLURM has requeued it, such as ``17_4.0``.

    Args:
        folder: The folder.
    """

    folder: Path

    @property
    def to_jobs(self) -> Path:
        """A folder for each job that has started."""
        return self.folder / "to_jobs"

    @property
    def from_jobs(self) -> Path:
        """The messages of all jobs: the command lists one folder, however many jobs there are."""
        return self.folder / "from_jobs"

    def make(self) -> None:
        """Make it, before any job is submitted."""
        for folder in (self.to_jobs, self.from_jobs):
            folder.mkdir(parents=True)
        self.renew(0)

    def remove(self) -> None:
        """Remove it, once no job is left."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def renew(self, number: int) -> None:
        """Tell the jobs that the command is alive.

        The file is written in place: whoever opens it sees the content from when it was closed, also by NFS.

        Args:
            number: Another one each time.
        """
        (self.folder / PULSE).write_text(str(number))

    def pulse(self) -> str | None:
        """Give what changes as long as the command is alive; ``None`` if it cannot be read."""
        with suppress(OSError):
            return (self.folder / PULSE).read_text()
        return None

    def give(self, address: str, number: int, task: bytes) -> None:
        """Give a task to a job that has started."""
        _write(self.to_jobs / address / f"{number}.task", task)

    def open_for(self, address: str) -> None:
        """Make the folder of a job, which has just started."""
        (self.to_jobs / address).mkdir()

    def take(self, address: str, number: int) -> bytes | None:
        """Take a task as its job; ``None`` if there is none yet."""
        file = self.to_jobs / address / f"{number}.task"
        if file.name not in _names(file.parent):
            return None
        content = file.read_bytes()
        file.unlink()
        return content

    def send(self, address: str, number: int, message: Message) -> None:
        """Send a message as a job."""
        _write(self.from_jobs / f"{address}.{number}", pickle.dumps(message))

    def receive(self) -> list[tuple[str, Message]]:
        """Take all messages of the jobs, with their addresses, those of each job in order."""
        found = [name.rpartition(".") for name in _names(self.from_jobs)]
        return [
            (address, self._opened(f"{address}.{number}"))
            for address, _, number in sorted(found, key=lambda each: (each[0], int(each[2])))
        ]

    def _opened(self, name: str) -> Message:
        file = self.from_jobs / name
        message: Message = pickle.loads(file.read_bytes())  # noqa: S301  # made by a job of this command
        file.unlink()
        return message


def _write(file: Path, content: bytes) -> None:
    """Write a file in one go; unlike for other files, a missing folder stays missing, as the command has ended then."""
    temporary = file.with_name(f"{HIDDEN}{file.name}")
    temporary.write_bytes(content)
    temporary.replace(file)


def _names(folder: Path) -> list[str]:
    """List the complete files of a folder, as they are now: by NFS, a listing may be a minute old.

    A change of the folder by this machine makes the next listing a new one.
    """
    os.utime(folder)
    return [name for name in os.listdir(folder) if not name.startswith(HIDDEN)]  # noqa: PTH208  # names
