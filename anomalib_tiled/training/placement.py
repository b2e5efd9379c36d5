"""Before training: whether parts lie in the same place in all training images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anomalib_tiled.data.placement import TrainedPlacement
from anomalib_tiled.runs.placement_file import write_placement

if TYPE_CHECKING:
    from anomalib_tiled.ensemble.run import Run

IMAGES = 24
"""Number of images that are looked at."""


def record_placement(run: Run) -> str | None:
    """Keep where parts lie, for `predict`, unless images are aligned or show no common part.

    Args:
        run: A new run.

    Returns:
        A note if parts lie in different places; ``None`` if they do not, or are aligned.

    Raises:
        StorageError: The disk is full.
    """
    if "alignment" in run.settings.stages:
        return None
    samples = run.split.subset("train")
    chosen = np.linspace(0, len(samples) - 1, min(IMAGES, len(samples))).astype(int).tolist()
    images = (run.source.image(samples[number], *run.grid.whole) for number in chosen)
    placement = TrainedPlacement.learn(images, run.grid.image_size)
    if placement is None:
        return None
    write_placement(run.folder, placement)
    return placement.note()
