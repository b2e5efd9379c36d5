"""Memory and processor time of a command and everything that it starts, read from Linux's ``/proc``.

A command is started in a session of its own. Whatever it starts stays in that session, even when its parent has ended.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

PROC = Path("/proc")

# Fields of /proc/<process>/stat behind the name of the program, which may contain anything: see proc_pid_stat(5).
_SESSION, _USER, _SYSTEM, _STARTED = 3, 11, 12, 19


class Member(NamedTuple):
    """A process of a session.

    Args:
        process: Its number.
        started: When it was started; numbers are used again.
        seconds: Processor time of all its threads, user and system.
    """

    process: int
    started: int
    seconds: float


def members(session: int) -> Iterator[Member]:
    """List the processes of a session, ended ones that nobody has waited for among them.

    Args:
        session: Number of the process that the session began with.
    """
    tick = os.sysconf("SC_CLK_TCK")
    for folder in PROC.iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):  # ended in the meantime
            status = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(status[_SESSION]) == session:
                seconds = (int(status[_USER]) + int(status[_SYSTEM])) / tick
                yield Member(int(folder.name), int(status[_STARTED]), seconds)


def memory_of(process: int) -> int:
    """Give the proportional set size of a process in bytes: what several processes share is divided among them.

    Args:
        process: Its number; 0 is given for one that has ended.
    """
    with suppress(OSError):
        for line in (PROC / str(process) / "smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


@dataclass
class Watch:
    """What a session has used so far.

    Args:
        session: Number of the process that the session began with.
        peak_memory: Highest sum of the processes' proportional set sizes that was seen, in bytes.
        cost: How long the last look took, in seconds.
    """

    session: int
    peak_memory: int = 0
    cost: float = 0
    _seconds: dict[tuple[int, int], float] = field(default_factory=dict, repr=False)

    def look(self) -> None:
        """Look once; processes that come and go between two looks are not seen."""
        began = perf_counter()
        found = list(members(self.session))
        self._seconds.update({(member.process, member.started): member.seconds for member in found})
        self.peak_memory = max(self.peak_memory, sum(memory_of(member.process) for member in found))
        self.cost = perf_counter() - began

    @property
    def processor_seconds(self) -> float:
        """Processor time of all processes, user and system, up to when each was last seen."""
        return sum(self._seconds.values())
