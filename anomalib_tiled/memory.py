"""How much memory there is to use."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_memory() -> int:
    """Give the memory that can be used without driving anything out, in bytes; container limits are respected."""
    return max(0, min(_limits()))


def _limits() -> Iterator[int]:
    yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024
    for limit, usage in CGROUP_FILES:
        with suppress(OSError, ValueError):  # no such group, or no limit in it
            used = int(Path(usage).read_text(encoding="ascii")) - _reclaimable(Path(usage).with_name("memory.stat"))
            yield int(Path(limit).read_text(encoding="ascii")) - used


def _reclaimable(statistics: Path) -> int:
    """Give the bytes of files that a group has read and that the system drops when memory is needed."""
    if not statistics.is_file():
        return 0
    for line in statistics.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            return int(value)
    return 0
