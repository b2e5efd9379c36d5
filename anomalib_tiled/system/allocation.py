"""How this process takes memory from the system, and gives it back."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import platform
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from anomalib_tiled.system.limits import available_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT = 2**30
"""Most bytes of freed memory that a process keeps."""

SHARE_OF_MEMORY = 16
"""A process keeps at most this part of the free memory, so that so many processes fit."""

LARGEST_KEPT = 2**25
"""Largest block that is kept, in bytes, as the GNU C library allows by itself: larger ones leave gaps into which blocks
of the same size do not always fit, so that a program that makes them in a loop takes ever more memory."""

TRIM_THRESHOLD = -1
MMAP_THRESHOLD = -3
"""Names of options of ``mallopt`` in ``malloc.h``."""

CHOICES_OF_THE_USER = {"GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "LD_PRELOAD"}
"""Environment variables by which a user chooses how memory is allocated."""


def keep_freed_memory() -> bool:
    """Reuse freed memory before the process fetches more from the system.

    A tile model makes the same blocks again and again. By default the GNU C library returns many of them to the system,
    which clears them page by page.

    Returns:
        Whether this changed anything. It does not with other C libraries, where the user has chosen otherwise, or where
        there is little memory.
    """
    if platform.libc_ver()[0] != "glibc" or CHOICES_OF_THE_USER & os.environ.keys():
        return False
    kept, mallopt = min(KEPT, available_memory() // SHARE_OF_MEMORY), ctypes.CDLL(None).mallopt
    return kept >= LARGEST_KEPT and bool(mallopt(MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(TRIM_THRESHOLD, kept))


def give_back_freed_memory() -> None:
    """Give the kept memory back, before other work that does not need such large blocks."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def leave_garbage_at_exit() -> None:
    """Let this process end without looking for garbage among all imported modules, which takes seconds."""
    atexit.register(gc.freeze)


@contextmanager
def imports_kept_apart() -> Iterator[None]:
    """Import packages without a search for garbage, neither meanwhile nor later among what they have made.

    Nearly all of it stays, and Python would look through it each time that it has grown: a fifth of the import. Where
    nothing is left to import, nothing is kept apart: what a program has made meanwhile may become garbage.
    """
    imported, collects = len(sys.modules), gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
    if len(sys.modules) > imported:
        gc.freeze()


@contextmanager
def long_lived_kept_apart() -> Iterator[None]:
    """Keep imported modules out of garbage collection, which runs for each tile and would take half a second."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
