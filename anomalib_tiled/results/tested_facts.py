"""How images were tested: where, how long, with which memory and versions; for the report."""

from __future__ import annotations

import platform
import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from anomalib_tiled.ensemble.devices import described
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.system.packages import version_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.results.tested_folder import TestedFacts

PACKAGES = ("anomalib-tiled", "anomalib", "torch", "torchvision", "lightning", "numpy")
"""Packages whose versions may change a score."""

MEMORY_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in which the system counts the memory of a process."""


def facts_of_test(run: Run, notes: Sequence[str], seconds: float) -> TestedFacts:
    """Give the content of ``tested.json``.

    Args:
        run: The run, with the test images.
        notes: What a reader of the results should know, a sentence each.
        seconds: Duration of the test.
    """
    return {
        "calibration": run.folder.calibration_fingerprint(run.settings),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "host": platform.node(),
        "device": _device(run),
        "peak_memory": _peak_memory(),
        "versions": {"python": platform.python_version(), **{name: version_of(name) for name in PACKAGES}},
        "notes": [*notes],
    }


def _device(run: Run) -> str | None:
    """Say where images are joined; ``None`` if the tiles are trained elsewhere, and this machine lacks their device."""
    try:
        return described(run.job.device())
    except ConfigurationError:
        return None


def _peak_memory() -> int | None:
    """Give the most memory that this process has held, in bytes; ``None`` where the system does not say."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MEMORY_UNIT
