"""How much memory is free on this machine, for this process."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMBERSHIP = Path("/proc/self/cgroup")
"""Says in which control groups this process is."""

GROUPS = Path("/sys/fs/cgroup")

FILES = ("memory.max", "memory.current")
"""Limit and use of a control group."""

EARLIER_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes")
"""The same in the first version of control groups, where memory has a tree of its own."""


def available_memory() -> int:
    """Give the memory that can be used without driving anything out, in bytes; limits of groups are respected."""
    return max(0, min(_limits()))


def _limits() -> Iterator[int]:
    yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024
    for limit, usage in _groups():
        with suppress(OSError, ValueError):  # no such group, or no limit in it
            used = int(usage.read_text(encoding="ascii")) - _reclaimable(usage.with_name("memory.stat"))
            yield int(limit.read_text(encoding="ascii")) - used


def _groups() -> Iterator[tuple[Path, Path]]:
    """Give the files of the group of this process and of all that it lies in, as far as they are to be seen."""
    try:
        lines = MEMBERSHIP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, files = GROUPS, FILES
        elif "memory" in controllers.split(","):
            top, files = GROUPS / "memory", EARLIER_FILES
        else:
            continue
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                yield folder / files[0], folder / files[1]


def _reclaimable(statistics: Path) -> int:
    """Give the bytes of files that a group has read and that the system drops when memory is needed."""
    if not statistics.is_file():
        return 0
    for line in statistics.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            return int(value)
    return 0
