"""The results of a test: metrics, tile locations, notes, and the files of numbers."""

from __future__ import annotations

import csv
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields, replace
from itertools import repeat
from typing import TYPE_CHECKING

from anomalib_tiled.data.images import depth_notes, grey_mask_notes
from anomalib_tiled.ensemble.uninspected import HiddenDefects
from anomalib_tiled.results.metrics import ImageCounts, Measurements, Results
from anomalib_tiled.results.prediction_row import UNALIGNED, VERDICT, contradiction, count_of, items_of
from anomalib_tiled.results.region_decisions import region_columns
from anomalib_tiled.results.region_metrics import RegionMeasurements
from anomalib_tiled.results.tile_metrics import TileMeasurements, TileResult, TileScores
from anomalib_tiled.results.verdicts import Verdicts
from anomalib_tiled.stages.uncertain import verdict_by
from anomalib_tiled.system.files import open_table, replacing, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import torch
    from anomalib.data import ImageBatch, ImageItem

    from anomalib_tiled.config.settings import Settings
    from anomalib_tiled.data.split import Sample, Split
    from anomalib_tiled.ensemble.calibration import Calibration
    from anomalib_tiled.ensemble.named_regions import DecidedRegion, NamedRegions
    from anomalib_tiled.ensemble.observed import Observed
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.ensemble.tile_model import TilePrediction
    from anomalib_tiled.grid import Tile, TileGrid
    from anomalib_tiled.results.region_decisions import RegionDecision
    from anomalib_tiled.stages.uncertain import Band

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
        tiles: The results of each tile location, then those of each named region.
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
        uncertain: Scores of uncertain images; ``None`` if no image is.
    """

    def __init__(self, settings: Settings, grid: TileGrid, uncertain: Band | None = None) -> None:
        self._metrics = Measurements.of(settings, grid)
        self._tiles, self._regions = TileMeasurements(grid), RegionMeasurements(grid.image_size)
        self._hidden, self._verdicts = HiddenDefects(grid), Verdicts(uncertain)
        self._contradictions: list[str] = []

    @property
    def can_be_merged(self) -> bool:
        """Whether places can measure some of the images each."""
        return self._metrics.can_be_merged

    @property
    def uncertain(self) -> Band | None:
        """Scores of uncertain images; ``None`` if no image is."""
        return self._verdicts.uncertain

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
        self._verdicts.update(batch)
        self._contradictions += [contradiction(item.pred_label, item.pred_mask) for item in items_of(batch)]

    def update_regions(
        self,
        batch: ImageBatch,
        scores: Mapping[str, torch.Tensor],
        decided: Mapping[str, DecidedRegion],
        regions: NamedRegions,
    ) -> None:
        """Measure named regions; arguments are those of `RegionMeasurements.update`."""
        self._regions.update(batch, scores, decided, regions)

    def add_tiles(self, tiles: Mapping[str, Observed | TileScores]) -> None:
        """Add the scores of tiles, by their names."""
        self._tiles.add_scores(tiles)

    def merge(self, other: RunMeasurements) -> None:
        """Add the measurements of the next images; those stay unchanged."""
        self._metrics.merge(other._metrics)
        self._tiles.merge(other._tiles)
        self._regions.merge(other._regions)
        self._hidden.merge(other._hidden)
        self._verdicts.merge(other._verdicts)
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
        of_places = (run.ignored_note(), run.left_out_note(), _unaligned_note(run.split), self._hidden.note())
        notes = (*of_places, _out_of_scope(self._metrics.out_of_scope), advice, self._verdicts.note())
        unmeasured = _unmeasured(run.split.subset("test"), images)
        alarming = calibration.note_on_false_alarms(on_test=run.split.calibrated_on_test)
        every = (*filter(None, notes), *unmeasured, *self._metrics.lacks, *alarming)
        return Measured(metrics, images, [*self._tiles.results(), *self._regions.results()], every)


@contextmanager
def scores_file(
    path: Path, regions: Sequence[str] = (), *, is_aligned: bool = False, has_verdicts: bool = False
) -> Iterator[Callable[[Iterable[Row]], None]]:
    """Write ``scores.csv`` batch by batch.

    Args:
        path: The finished file.
        regions: Names of the named regions.
        is_aligned: Whether images are aligned, so that there is a column for those in which the part is not found.
        has_verdicts: Whether images can be uncertain, so that there is a column for verdicts.

    Yields:
        Function that writes rows, as `score_rows` and `unaligned_rows` give them.
    """
    verdicts = [VERDICT] if has_verdicts else []
    columns = [*SCORE_COLUMNS, *verdicts, *([UNALIGNED] if is_aligned else []), *region_columns(regions)]
    with replacing(path) as temporary, open_table(temporary, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        yield lambda rows: writer.writerows((*row, *[""] * (len(columns) - len(row))) for row in rows)


def score_rows(
    images: Iterable[ImageItem],
    regions: Iterable[Mapping[str, RegionDecision]] | None = None,
    *,
    is_aligned: bool = False,
    uncertain: Band | None = None,
) -> list[Row]:
    """Give the row of each image for ``scores.csv``.

    Args:
        images: The images, such as those of a batch.
        regions: Decisions about the named regions of each image; ``None`` if there are none.
        is_aligned: Whether images are aligned; the part is found in these.
        uncertain: Scores of uncertain images; ``None`` if no image is, and there are no verdicts.
    """
    found = [""] if is_aligned else []
    rows: list[Row] = []
    for item, named in zip(images, repeat({}) if regions is None else regions, strict=False):
        words = contradiction(item.pred_label, item.pred_mask)
        score = None if item.pred_score is None else float(item.pred_score)
        own = [cell for each in named.values() for cell in (_cell(each.score), int(each.label))]
        label = bool(item.pred_label)
        verdict = [] if uncertain is None else [verdict_by(uncertain, score, is_anomalous=label)]
        of_image = (item.image_path, _label(item.gt_label), _cell(score), _label(item.pred_label), words)
        rows.append((*of_image, *verdict, *found, *own))
    return rows


def unaligned_rows(run: Run, *, has_verdicts: bool = False) -> list[Row]:
    """Give the row of each test image in which the part is not found: anomalous, without a score.

    Args:
        run: The run.
        has_verdicts: Whether there is a column for verdicts.
    """
    verdict = ["anomalous"] if has_verdicts else []
    return [
        (str(sample.image_path), sample.label, None, 1, "", *verdict, reason)
        for sample, reason in unaligned_samples(run)
    ]


def unaligned_samples(run: Run) -> list[tuple[Sample, str]]:
    """Give the test images in which the part is not found, each with the reason."""
    reasons = run.unaligned or {}
    return [(sample, reasons[str(sample.image_path)]) for sample in run.split.unaligned("test")]


def _unaligned_note(split: Split) -> str:
    if not (unaligned := len(split.unaligned("test"))):
        return ""
    return (
        f"The part is not found in {unaligned} of {unaligned + len(split.subset('test'))} test images: they are "
        "anomalous, have no score, and do not count in the metrics. See the column unaligned of scores.csv."
    )


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
