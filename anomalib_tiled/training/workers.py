"""Former place of the workers of this machine, which the configurations of older runs name."""

from anomalib_tiled.workers.local import LocalWorkers

__all__ = ["LocalWorkers"]
