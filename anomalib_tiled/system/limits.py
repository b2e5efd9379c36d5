"""Which control groups this process is in: the system limits containers and services by them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMBERSHIP = Path("/proc/self/cgroup")
"""Says in which control groups this process is."""

GROUPS = Path("/sys/fs/cgroup")


def groups(controller: str) -> Iterator[tuple[Path, Literal[1, 2]]]:
    """Give the folders of the group of this process and of all that it lies in, as far as they are to be seen.

    Args:
        controller: What they limit, such as ``memory`` or ``cpu``.

    Yields:
        A folder, and the version of control groups that its files are named by. In the first one, each controller has
        a tree of its own.
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
