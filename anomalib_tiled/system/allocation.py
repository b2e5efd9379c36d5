"""How this process gets memory from the system, and gives it back."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from contextlib import contextmanager
from typing import TYPE_CHECKING

from anomalib_tiled.system.limits import available_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT = 2**30
"""Bytes of free memory that a process keeps at most, and the size of a block that still comes out of them."""

SHARE_OF_MEMORY = 16
"""Processes that may keep so much until what was free is used up."""

LARGEST_OF_EARLIER = 2**25
"""Largest size of such a block that the GNU C library took before 2.35."""

TRIM_THRESHOLD = -1
MMAP_THRESHOLD = -3
"""Names of options of ``mallopt`` in ``malloc.h``."""

CHOICES_OF_THE_USER = {"GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "LD_PRELOAD"}
"""Environment variables that say how memory is allocated."""


def keep_freed_memory() -> bool:
    """Use memory that was freed again, before more is fetched from the system.

    A model of a tile makes the same large blocks again and again. By default the GNU C library has the system take back
    and clear each of them, page by page, which is a fifth of the processor time of training some models.

    Returns:
        Whether anything was changed: nothing is with other C libraries, against the user's choice, or where there is
        little memory.
    """
    if platform.libc_ver()[0] != "glibc" or CHOICES_OF_THE_USER & os.environ.keys():
        return False
    kept, mallopt = min(KEPT, available_memory() // SHARE_OF_MEMORY), ctypes.CDLL(None).mallopt
    if kept < LARGEST_OF_EARLIER or not any(mallopt(MMAP_THRESHOLD, size) for size in (kept, LARGEST_OF_EARLIER)):
        return False
    return bool(mallopt(TRIM_THRESHOLD, kept))


def give_back_freed_memory() -> None:
    """Give back what is kept, before work of another kind, which has no use for blocks of that size."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def long_lived_kept_apart() -> Iterator[None]:
    """Take what is imported out of the search for garbage, which is run for each tile and would take half a second."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
