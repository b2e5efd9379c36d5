"""The results of a test: metrics, tile locations, and notes on the images that they come from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from anomalib_tiled.data.images import depth_notes, grey_mask_notes
from anomalib_tiled.ensemble.uninspected import HiddenDefects
from anomalib_tiled.results.contradictions import contradiction, count_of
from anomalib_tiled.results.metrics import Images, Measurements, Results
from anomalib_tiled.results.tile_metrics import TileMeasurements, TileResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anomalib.data import ImageBatch

    from anomalib_tiled.data.split import Sample
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.ensemble.tile_model import TilePrediction
    from anomalib_tiled.grid import Tile


@dataclass(frozen=True)
class Measured:
    """The results of a test.

    Args:
        metrics: Metrics by name; ``None`` for one that is undefined.
        images: Number of images behind the metrics of ``image`` and of ``pixel``.
        tiles: The results of each tile location.
        notes: Sentences for the reader of the results.
    """

    metrics: Results
    images: dict[str, Images]
    tiles: list[TileResult]
    notes: tuple[str, ...]

    def with_notes_on(self, samples: Sequence[Sample]) -> Measured:
        """Add notes on image files, for test images that the fit has not seen."""
        of_files = (*depth_notes(sample.image_path for sample in samples), *grey_mask_notes(samples))
        return replace(self, notes=(*of_files, *self.notes))


class RunMeasurements:
    """All measurements of a test; takes predictions batch by batch.

    Args:
        run: The run, with the test images.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._metrics = Measurements.of(run.settings, run.grid)
        self._tiles = TileMeasurements(run.grid)
        self._hidden = HiddenDefects(run.grid)
        self._contradictions: list[str] = []

    def watch(self, batch: ImageBatch) -> Callable[[Tile, TilePrediction], None]:
        """Give the function that takes the raw prediction of each tile of a batch."""
        return self._tiles.watch(batch)

    def update(self, batch: ImageBatch) -> None:
        """Measure whole images.

        Args:
            batch: Images with predictions, on the CPU.
        """
        self._metrics.update(batch)
        self._tiles.update(batch)
        self._hidden.update(batch)
        self._contradictions += [contradiction(item.pred_label, item.pred_mask) for item in batch]

    def results(self) -> Measured:
        """Give the results, once all batches are measured."""
        metrics, images = self._metrics.compute(), self._metrics.images
        notes = (*self._notes(), *_unmeasured(self._run.split.subset("test"), images), *self._metrics.lacks)
        return Measured(metrics, images, self._tiles.results(), notes)

    def _notes(self) -> list[str]:
        contradicted = count_of(self._contradictions)
        advice = f"{contradicted} See the column contradiction of scores.csv." if contradicted else ""
        return [note for note in (self._run.left_out_note(), self._hidden.note(), advice) if note]


def _unmeasured(samples: Sequence[Sample], measured: Mapping[str, Images]) -> list[str]:
    """Say how many test images do not count in the metrics."""
    notes = []
    if unlabelled := sum(sample.label is None for sample in samples):
        notes.append(f"{unlabelled} of {len(samples)} test images have no label: they are predicted, but not measured.")
    pixels, images = measured["pixel"], measured["image"]
    known, labelled = pixels.normal + pixels.anomalous, images.normal + images.anomalous
    if 0 < known < labelled:
        notes.append(f"Metrics of pixels come from {known} of {labelled} test images: the others have no mask.")
    return notes
