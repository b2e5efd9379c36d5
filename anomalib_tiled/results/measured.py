"""The results of a test: metrics, tile locations, notes, and the files of numbers."""

from __future__ import annotations

import csv
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields, replace
from typing import TYPE_CHECKING

from anomalib_tiled.data.images import depth_notes, grey_mask_notes
from anomalib_tiled.ensemble.uninspected import HiddenDefects
from anomalib_tiled.results.metrics import ImageCounts, Measurements, Results
from anomalib_tiled.results.prediction_row import contradiction, count_of
from anomalib_tiled.results.tile_metrics import TileMeasurements, TileResult, TileScores
from anomalib_tiled.system.files import open_table, replacing, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import torch
    from anomalib.data import ImageBatch, ImageItem

    from anomalib_tiled.config.settings import Settings
    from anomalib_tiled.data.split import Sample
    from anomalib_tiled.ensemble.calibration import Calibration, Observed
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.ensemble.tile_model import TilePrediction
    from anomalib_tiled.grid import Tile, TileGrid

SCORE_COLUMNS = ("image_path", "gt_label", "pred_score", "pred_label", "contradiction")
Row = tuple[str | float | None, ...]
"""Cells of ``scores.csv``."""

TILE_COLUMNS = tuple(field.name.replace("auroc", "AUROC") for field in fields(TileResult))


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
    images: dict[str, ImageCounts]
    tiles: list[TileResult]
    notes: tuple[str, ...] = ()

    def with_notes_on(self, samples: Sequence[Sample]) -> Measured:
        """Add notes on image files, for test images that the fit has not seen."""
        of_files = (*depth_notes(sample.image_path for sample in samples), *grey_mask_notes(samples))
        return replace(self, notes=(*of_files, *self.notes))

    def write(self, folder: Path) -> None:
        """Write ``metrics.json`` and ``tiles.csv``, with null and empty cells for undefined values."""
        write_json(folder / "metrics.json", self.metrics)
        with replacing(folder / "tiles.csv") as temporary, open_table(temporary, "w") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(TILE_COLUMNS)
            writer.writerows(map(_cell, astuple(tile)) for tile in self.tiles)


class RunMeasurements:
    """All measurements of a test; takes predictions batch by batch, or measurements of the next images.

    Args:
        settings: The configuration.
        grid: Where the tiles lie.
    """

    def __init__(self, settings: Settings, grid: TileGrid) -> None:
        self._metrics = Measurements.of(settings, grid)
        self._tiles = TileMeasurements(grid)
        self._hidden = HiddenDefects(grid)
        self._contradictions: list[str] = []

    @property
    def can_be_merged(self) -> bool:
        """Whether places can measure some of the images each."""
        return self._metrics.can_be_merged

    def watch(self, batch: ImageBatch) -> Callable[[Tile, TilePrediction], None]:
        """Give the function that takes the raw prediction of each tile of a batch."""
        return self._tiles.watch(batch)

    def update(self, batch: ImageBatch, hidden: torch.Tensor | None = None) -> None:
        """Measure whole images.

        Args:
            batch: Images with predictions, on the CPU.
            hidden: Pixels that do not count, shape (batch or 1, 1, height, width); ``None`` if all do.
        """
        self._metrics.update(batch, hidden)
        self._tiles.update(batch, hidden)
        self._hidden.update(batch)
        self._contradictions += [contradiction(item.pred_label, item.pred_mask) for item in batch]

    def add_tiles(self, tiles: Mapping[str, Observed | TileScores]) -> None:
        """Add the scores of tiles, by their names."""
        self._tiles.add_scores(tiles)

    def merge(self, other: RunMeasurements) -> None:
        """Add the measurements of the next images; those stay unchanged."""
        self._metrics.merge(other._metrics)
        self._tiles.merge(other._tiles)
        self._hidden.merge(other._hidden)
        self._contradictions += other._contradictions

    def results(self, run: Run, calibration: Calibration) -> Measured:
        """Give the results, once all images are measured.

        Args:
            run: The run, with the test images.
            calibration: What its stages have learned.
        """
        metrics, images = self._metrics.compute(), self._metrics.images
        contradicted = count_of(self._contradictions)
        advice = f"{contradicted} See the column contradiction of scores.csv." if contradicted else ""
        notes = (run.left_out_note(), self._hidden.note(), _out_of_scope(self._metrics.out_of_scope), advice)
        unmeasured = _unmeasured(run.split.subset("test"), images)
        alarming = calibration.note_on_false_alarms(on_test=run.split.calibrated_on_test)
        every = (*filter(None, notes), *unmeasured, *self._metrics.lacks, *alarming)
        return Measured(metrics, images, self._tiles.results(), every)


@contextmanager
def scores_file(path: Path) -> Iterator[Callable[[Iterable[Row]], None]]:
    """Write ``scores.csv`` batch by batch.

    Args:
        path: The finished file.

    Yields:
        Function that writes rows, as `score_rows` gives them.
    """
    with replacing(path) as temporary, open_table(temporary, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(SCORE_COLUMNS)
        yield writer.writerows


def score_rows(images: Iterable[ImageItem]) -> list[Row]:
    """Give the row of each image, such as those of a batch, for ``scores.csv``."""
    rows: list[Row] = []
    for item in images:
        words = contradiction(item.pred_label, item.pred_mask)
        score = None if item.pred_score is None else float(item.pred_score)
        rows.append((item.image_path, _label(item.gt_label), _cell(score), _label(item.pred_label), words))
    return rows


def _out_of_scope(images: int) -> str:
    if not images:
        return ""
    return (
        f"Image metrics leave out {images} test images: all of their defects lie where pixels do not count, because "
        "the regions ignore them, or because they are outside of the aligned image."
    )


def _unmeasured(samples: Sequence[Sample], measured: Mapping[str, ImageCounts]) -> list[str]:
    """Say how many test images do not count in the metrics."""
    notes = []
    if unlabelled := sum(sample.label is None for sample in samples):
        notes.append(f"{unlabelled} of {len(samples)} test images have no label: they are predicted, but not measured.")
    pixels, images = measured["pixel"], measured["image"]
    known, labelled = pixels.normal + pixels.anomalous, images.normal + images.anomalous
    if 0 < known < labelled:
        notes.append(f"Metrics of pixels come from {known} of {labelled} test images: the others have no mask.")
    return notes


def _cell(value: str | float | None) -> str | float | None:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.9g}" if isinstance(value, float) else value


def _label(value: torch.Tensor | None) -> int | None:
    return None if value is None else int(value)
