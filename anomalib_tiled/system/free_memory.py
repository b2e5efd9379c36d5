"""How much memory is free on this machine, for this process."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib_tiled.system.limits import groups

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = ("memory.max", "memory.current")
"""Limit and use of a control group."""

EARLIER_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes")
"""The same in the first version of control groups."""


def available_memory() -> int:
    """Give the memory that can be used without driving anything out, in bytes; limits of groups are respected."""
    return max(0, min(_limits()))


def _limits() -> Iterator[int]:
    yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024
    for folder, version in groups("memory"):
        limit, usage = (folder / name for name in (EARLIER_FILES if version == 1 else FILES))
        with suppress(OSError, ValueError):  # no such group, or no limit in it
            used = int(usage.read_text(encoding="ascii")) - _reclaimable(usage.with_name("memory.stat"))
            yield int(limit.read_text(encoding="ascii")) - used


def _reclaimable(statistics: Path) -> int:
    """Give the bytes of files that a group has read and that the system drops when memory is needed."""
    if not statistics.is_file():
        return 0
    for line in statistics.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            return int(value)
    return 0
