"""Measuring test images batch by batch: all of them here, or some of them on each place."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from anomalib_tiled.results.measured import RunMeasurements, score_rows
from anomalib_tiled.results.prediction_row import Details, decision_on, items_of
from anomalib_tiled.results.region_decisions import decisions_of
from anomalib_tiled.results.tested_writer import TestedBatch, TestWriter, written_meanwhile
from anomalib_tiled.results.thumbnails import Thumbnails
from anomalib_tiled.results.tile_metrics import TileScores, observed_tile
from anomalib_tiled.stages.contracts import image_context, with_context
from anomalib_tiled.system.allocation import give_back_freed_memory

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import torch
    from anomalib.data import ImageBatch

    from anomalib_tiled.ensemble.calibration import Calibration
    from anomalib_tiled.ensemble.ensemble import EnsembleModel
    from anomalib_tiled.ensemble.observed import Observed
    from anomalib_tiled.ensemble.stored_images import LazyPrediction, Shard, StoredImages
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.results.measured import Row
    from anomalib_tiled.results.pictures import Pictures
    from anomalib_tiled.results.region_decisions import RegionDecision
    from anomalib_tiled.results.tested_folder import TestedFolder, TestedImage
    from anomalib_tiled.stages.uncertain import Band


class MeasuredBatch(NamedTuple):
    """A batch of images with its predictions, on the CPU.

    Args:
        images: The images.
        regions: Decisions about the named regions of each image, by their names.
    """

    images: ImageBatch
    regions: list[dict[str, RegionDecision]]


def measure(
    images: Iterable[LazyPrediction],
    ensemble: EnsembleModel,
    measurements: RunMeasurements,
    write: Callable[[TestedBatch], None],
    *,
    tiles: bool,
) -> Iterator[MeasuredBatch]:
    """Predict, measure and write images batch by batch, and yield each batch with its predictions.

    Args:
        images: The images.
        ensemble: Decides what is anomalous.
        measurements: Takes the predictions.
        write: Writes what a test shows of each image, as `written_meanwhile` gives it.
        tiles: Whether to measure the scores of tiles, too.

    Raises:
        StageError: A stage fails.
    """
    for batch, predict in images:
        with with_context(image_context(batch.image_path)):
            raw = predict(measurements.watch(batch) if tiles else None)
            decided, regions = ensemble.decide(raw)._asdict(), ensemble.decide_regions(raw)
        fields: dict[str, Any] = {name: None if each is None else each.cpu() for name, each in decided.items()}
        batch.update(**fields)
        measurements.update(batch, None if raw.hidden is None else raw.hidden.cpu())
        measurements.update_regions(batch, raw.regions, regions, ensemble.regions)
        batch.anomaly_map = raw.shown(cast("torch.Tensor", batch.anomaly_map))
        named = decisions_of(regions, len(batch))
        write(TestedBatch(batch, raw.scores.tolist(), [*map(Details, named, raw.tile_scores())]))
        give_back_freed_memory()  # this thread measures, another writes: neither can use what the other frees
        yield MeasuredBatch(batch, named)


class MeasuredImages(NamedTuple):
    """What was measured of some images.

    Args:
        measurements: For all metrics.
        rows: The rows of ``scores.csv``.
        tested: The images with their predictions.
    """

    measurements: RunMeasurements
    rows: list[Row]
    tested: list[TestedImage]


@dataclass(frozen=True)
class MeasureTiles:
    """Measures the scores of some tile locations of all test images, on any place.

    Args:
        images: The images with the predictions of their tiles.
    """

    images: StoredImages

    def __call__(self, shard: Shard, *, device: int | None = None) -> dict[str, Observed | TileScores]:
        """Measure the scores of tiles, by their names; give the counts if these are only some of the images.

        Args:
            shard: The tiles.
            device: Not used: only counting is done.

        Raises:
            RunFolderError: A file has changed.
        """
        del device
        return {tile.name: self._measured(tile) for tile in self.images.tiles(shard)}

    def _measured(self, tile: Tile) -> Observed | TileScores:
        observed = observed_tile(tile, self.images.tile(tile), self.images.job.grid)
        return TileScores.of(observed) if self.images.stay else observed


@dataclass(frozen=True)
class MeasureImages:
    """Joins, measures and draws some test images, on any place.

    Args:
        images: The images with the predictions of their tiles.
        calibration: What the stages learned.
        folder: Folder of the results.
        pictures: Draws the images; ``None`` to draw none.
        uncertain: Scores of uncertain images; ``None`` if no image is.
    """

    images: StoredImages
    calibration: Calibration
    folder: TestedFolder
    pictures: Pictures | None
    uncertain: Band | None = None

    def __call__(self, shard: Shard, *, device: int | None = None) -> MeasuredImages:
        """Measure images.

        Args:
            shard: Which images.
            device: Index of the GPU to work on; ``None`` for the device of the configuration.

        Raises:
            StageError: A stage fails.
            DataError: An image cannot be read.
            RunFolderError: A file has changed.
        """
        job = self.images.job
        rows: list[Row] = []
        measurements = RunMeasurements(job.settings, job.grid, self.uncertain)
        ensemble = self.images.ensemble(self.calibration, device)
        batches = self.images.batches(ensemble, shard)
        writer = TestWriter(self.folder, self.pictures, Thumbnails.of(job.settings), job.data.split, self.uncertain)
        tested: list[TestedImage] = []
        is_aligned = "alignment" in job.settings.stages
        with written_meanwhile(writer, self.images.first + shard.first, tested.extend) as write:
            for batch, regions in measure(batches, ensemble, measurements, write, tiles=False):
                items = items_of(batch)
                rows += score_rows(items, regions, is_aligned=is_aligned, uncertain=self.uncertain)
                for item in items:
                    logger.info("%s", decision_on(item))
        return MeasuredImages(measurements, rows, tested)
