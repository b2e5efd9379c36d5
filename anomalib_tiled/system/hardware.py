"""What this machine computes with, in the words of its makers."""

from __future__ import annotations

import platform
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

PROCESSORS = Path("/proc/cpuinfo")
"""The processors of a Linux machine."""

FLAGS = ("flags", "Features")
"""What that file calls the instructions of a processor of Intel or AMD, and of one of ARM."""


def processor_name() -> str:
    """Name the processor, such as ``AMD EPYC 7763 64-Core Processor``; its architecture if the name is unknown."""
    return _first_processor().get("model name") or platform.processor() or platform.machine()


def processor_flags() -> frozenset[str] | None:
    """Give the names of the instructions that the processor has, such as ``avx2``; ``None`` if they are unknown."""
    known = next((flags for name in FLAGS if (flags := _first_processor().get(name))), None)
    return None if known is None else frozenset(known.split())


@lru_cache(maxsize=1)
def _first_processor() -> dict[str, str]:
    """Give what the system says of the first processor; nothing if it is no Linux."""
    found: dict[str, str] = {}
    with suppress(OSError):
        for line in PROCESSORS.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            found.setdefault(name.strip(), value.strip())
    return found
