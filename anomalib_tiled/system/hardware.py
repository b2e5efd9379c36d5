"""What this machine computes with, in the words of its makers."""

from __future__ import annotations

import platform
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

PROCESSORS = Path("/proc/cpuinfo")
"""The processors of a Linux machine."""


@lru_cache(maxsize=1)
def processor_name() -> str:
    """Name the processor, such as ``AMD EPYC 7763 64-Core Processor``; its architecture if the name is unknown."""
    with suppress(OSError):  # no Linux
        for line in PROCESSORS.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
