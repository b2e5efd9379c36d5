"""How many processor cores and how much memory this process may use.

The system limits containers and services by control groups: folders of files, one inside the other. The limits of the
group of this process and of all groups around it hold.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    Version = Literal[1, 2]

MEMBERSHIP = Path("/proc/self/cgroup")
"""File that names the control groups of this process."""

GROUPS = Path("/sys/fs/cgroup")

CORE_FILES: dict[Version, tuple[str, ...]] = {
    1: ("cpu.cfs_quota_us", "cpu.cfs_period_us"),
    2: ("cpu.max",),
}
"""Files of the microseconds of processor time that a group may use in a period, and of the period.

Without a limit, the time is negative (version 1) or ``max`` (version 2).
"""

MEMORY_FILES: dict[Version, tuple[str, str]] = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    2: ("memory.max", "memory.current"),
}
"""Files of the limit and of the use of a group, in bytes."""


def cores() -> int:
    """Give the number of processor cores that this process may use."""
    there = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min([there, *_core_limits()]))


def available_memory() -> int:
    """Give the memory that this process can use before the system swaps or kills, in bytes."""
    return max(0, min(_memory_limits()))


def groups(controller: str) -> Iterator[tuple[Path, Version]]:
    """Give the folders of the control group of this process and of the groups around it, as far as they are visible.

    Args:
        controller: What the groups limit, such as ``memory`` or ``cpu``.

    Yields:
        A folder, and the version of control groups, which decides the names of its files. In version 1, each
        controller has a tree of its own.
    """
    try:
        lines = MEMBERSHIP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = GROUPS / controller if controllers else GROUPS
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                yield folder, 1 if controllers else 2


def _core_limits() -> Iterator[int]:
    """Give the whole cores that each limited group may keep busy."""
    for folder, version in groups("cpu"):
        with suppress(OSError, ValueError):  # no such group, or no limit in it
            texts = [(folder / name).read_text(encoding="ascii") for name in CORE_FILES[version]]
            time, period = map(int, " ".join(texts).split())
            if time > 0:
                yield time // period


def _memory_limits() -> Iterator[int]:
    """Give the memory of the machine, its free memory, and the free memory of each limited group, in bytes."""
    yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024
    for folder, version in groups("memory"):
        limit, usage = (folder / name for name in MEMORY_FILES[version])
        with suppress(OSError, ValueError):  # no such group, or no limit in it
            used = int(usage.read_text(encoding="ascii")) - _reclaimable(folder / "memory.stat")
            yield int(limit.read_text(encoding="ascii")) - used


def _reclaimable(statistics: Path) -> int:
    """Give the bytes of files that a group has read and that the system drops when a process needs memory."""
    if not statistics.is_file():
        return 0
    for line in statistics.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            return int(value)
    return 0
