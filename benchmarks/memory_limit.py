"""Processes that fail with an error before the machine runs out of memory."""

from __future__ import annotations

import resource
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARE = 0.9
"""Share of the available memory that a process may take."""

SIGNS = ("can't allocate memory", "MemoryError", "Unable to allocate", "bad_alloc", "exit status -9")
"""What is said by a process that got too little: by PyTorch, Python, NumPy, C++, and by Linux, which kills it."""


@contextmanager
def limited_memory() -> Iterator[None]:
    """Let no process that is started inside take more than most of what is available now, nor this one meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit, hard = int(SHARE * available()), before[1]
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def available() -> int:
    """Give the memory that Linux calls available, in bytes."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    [kibibytes] = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kibibytes) * 1024


def lacked_memory(message: str) -> bool:
    """Whether a process failed because it got too little memory.

    Args:
        message: Its last output.
    """
    return any(sign in message for sign in SIGNS)
