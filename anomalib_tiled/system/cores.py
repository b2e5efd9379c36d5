"""How many processor cores there are for this process."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from anomalib_tiled.system.limits import groups

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = ("cpu.max",)
"""Microseconds of processor time that a control group may use in a period, or ``max``; and the period."""

EARLIER_LIMIT = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
"""The same in the first version of control groups; negative for no limit."""


def cores() -> int:
    """Give the number of processor cores that this process may use; time limits of control groups are respected."""
    there = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min([there, *_shares()]))


def _shares() -> Iterator[int]:
    """Give the whole cores that each limited group may keep busy."""
    for folder, version in groups("cpu"):
        files = EARLIER_LIMIT if version == 1 else LIMIT
        with suppress(OSError, ValueError):  # no such group, or no limit in it
            time, period = map(int, " ".join((folder / each).read_text(encoding="ascii") for each in files).split())
            if time > 0:
                yield time // period
