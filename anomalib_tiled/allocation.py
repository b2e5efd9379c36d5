"""How this process gets memory from the system, and gives it back."""

from __future__ import annotations

import ctypes
import os
import platform

KEPT = 2**30
"""Bytes of free memory that the process keeps, and the size of a block that still comes out of them."""

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
        Whether anything was changed: nothing is with other C libraries, nor against the user's choice.
    """
    if platform.libc_ver()[0] != "glibc" or CHOICES_OF_THE_USER & os.environ.keys():
        return False
    options = ctypes.CDLL(None)
    done = [options.mallopt(option, KEPT) for option in (MMAP_THRESHOLD, TRIM_THRESHOLD)]
    return all(done)
