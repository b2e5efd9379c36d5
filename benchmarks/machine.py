"""The machine of a measurement."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

from anomalib_tiled.system.hardware import processor_name

PACKAGES = ("anomalib", "anomalib-tiled", "lightning", "torch")
THREADS = "OMP_NUM_THREADS"


def describe_machine() -> dict[str, str | int]:
    """Give cores, memory, versions, and the limit of threads if the environment sets one."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": memory,
        "system": f"{platform.system()} {platform.machine()}",
        THREADS: os.environ.get(THREADS, "not set"),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }
