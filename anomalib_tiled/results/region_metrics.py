"""Metrics of each named region, as of each tile location."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anomalib_tiled.ensemble.observed import Observed, Truth
from anomalib_tiled.results.tile_metrics import TileResult, TileScores, known_images

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from anomalib.data import ImageBatch
    from numpy.typing import NDArray

    from anomalib_tiled.ensemble.named_regions import DecidedRegion, NamedRegions
    from anomalib_tiled.grid import Size

    Counts = NDArray[np.int64]


class RegionMeasurements:
    """Counts scores and decisions for each named region.

    Args:
        size: Height and width of the images.
    """

    def __init__(self, size: Size) -> None:
        self._size = size
        self._boxes: dict[str, tuple[slice, slice]] = {}
        self._observed: dict[str, Observed] = {}
        self._counts: dict[str, Counts] = {}

    def update(
        self,
        batch: ImageBatch,
        scores: Mapping[str, torch.Tensor],
        decided: Mapping[str, DecidedRegion],
        regions: NamedRegions,
    ) -> None:
        """Count images, scores and wrong decisions; without a mask, it is unknown where an anomalous image is.

        Args:
            batch: The images.
            scores: Score of each region before the normalization of images, shape (batch,).
            decided: Decisions.
            regions: The regions.
        """
        self._boxes = dict(regions.boxes)
        known, truth = known_images(batch, self._size)
        for name, anomalous in regions.truth(truth.labels, truth.masks).items():
            called = decided[name].labels.cpu().numpy()[known]
            chosen = scores[name].cpu()[known.tolist()]
            self._of(name).add(chosen, None, Truth(anomalous, None))
            wrong = [(anomalous & ~called).sum(), (~anomalous & called).sum()]
            self._counts[name] += [len(anomalous), anomalous.sum(), *wrong]

    def merge(self, other: RegionMeasurements) -> None:
        """Add the measurements of the next images; those stay unchanged."""
        self._boxes |= other._boxes
        for name, observed in other._observed.items():
            self._of(name).merge(observed)
            self._counts[name] += other._counts[name]

    def results(self) -> list[TileResult]:
        """Give the regions, as rows of the table of tiles."""
        return [self._result(name, *self._counts[name].tolist()) for name in self._observed]

    def _of(self, name: str) -> Observed:
        if name not in self._observed:
            self._observed[name], self._counts[name] = Observed(), np.zeros(4, dtype=np.int64)
        return self._observed[name]

    def _result(self, name: str, images: int, anomalous: int, missed: int, false_alarms: int) -> TileResult:
        rows, columns = self._boxes[name]
        return TileResult(
            tile=name,
            top=rows.start,
            left=columns.start,
            images=images,
            anomalous=anomalous,
            **vars(TileScores.of(self._observed[name])),
            missed=missed if images else None,
            false_alarms=false_alarms if images else None,
        )
