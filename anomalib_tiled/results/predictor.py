"""Predicts new images, writes the files of each, and records the results."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from anomalib_tiled.errors import DataError, NotFiniteError, OutOfMemoryError
from anomalib_tiled.results.prediction_row import Details, items_of
from anomalib_tiled.results.region_decisions import decisions_of
from anomalib_tiled.results.regions import InFile
from anomalib_tiled.stages.contracts import image_context, with_context
from anomalib_tiled.system.out_of_memory import LOWER_THE_BUDGET, advising_on_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anomalib.data import ImageItem

    from anomalib_tiled.data.unlabelled_images import SourceBatch
    from anomalib_tiled.ensemble.ensemble import EnsembleModel
    from anomalib_tiled.ensemble.tile_model import TilePrediction
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.results.prediction_writer import PredictionWriter
    from anomalib_tiled.results.recording import Record
    from anomalib_tiled.results.thresholds import Thresholds

    OnTile = Callable[[Tile, TilePrediction], None]

LESS_MEMORY = f"{LOWER_THE_BUDGET}, or predict elsewhere, such as with --device cpu."


class Predictor:
    """Predicts batches of images.

    Args:
        ensemble: The model.
        thresholds: Replace calibrated ones.
        writer: Writes the files of each image.
    """

    def __init__(self, ensemble: EnsembleModel, thresholds: Thresholds, writer: PredictionWriter) -> None:
        self._ensemble, self._thresholds, self._writer = ensemble, thresholds, writer
        self._one_by_one: str | None = None

    def predict(self, batch: SourceBatch, record: Record, on_tile: OnTile | None = None) -> Iterator[ImageItem]:
        """Predict a batch, write the files of its images, and record the results. Images that fail are skipped.

        If memory runs out, these images and all later ones are predicted one by one; a single image for which there is
        too little memory is skipped.

        Args:
            batch: The images.
            record: Takes predictions, failures and notes.
            on_tile: Called after each tile with its raw prediction.

        Yields:
            The images with their predictions, on the CPU.

        Raises:
            OutOfMemoryError: The record refuses an image for which there is too little memory.
        """
        single = len(batch.sizes) == 1
        predicted = self._try(batch, record, on_tile) if single or self._one_by_one is None else None
        if self._one_by_one is not None:
            record.note("one by one", self._one_by_one)
        if predicted is not None:
            yield from predicted
        elif not single:
            for one in batch.one_by_one():
                yield from self.predict(one, record)

    def _try(self, batch: SourceBatch, record: Record, on_tile: OnTile | None) -> list[ImageItem] | None:
        """Predict a batch; ``None`` if that failed."""
        single = len(batch.sizes) == 1
        try:
            with advising_on_memory(LESS_MEMORY):
                return self._predict(batch, record, on_tile)
        except (NotFiniteError, OutOfMemoryError) as error:
            if single:
                record.fail(Path(str(next(iter(batch.images)).image_path)), error)
            elif isinstance(error, OutOfMemoryError):
                self._one_by_one = f"Note: {error} Images are predicted one by one from here on."
        gc.collect()  # frees the memory of the failed try, which refers to itself
        return None

    def _predict(self, batch: SourceBatch, record: Record, on_tile: OnTile | None) -> list[ImageItem]:
        images = batch.images
        with with_context(image_context(images.image_path)):
            raw = self._ensemble.predict_raw(cast("torch.Tensor", images.image), on_tile, hidden=batch.hidden)
            decided = self._thresholds.decide(raw, self._ensemble.decide(raw))
            regions = decisions_of(self._ensemble.decide_regions(raw), len(images))
            decided = decided._replace(anomaly_map=raw.shown(cast("torch.Tensor", decided.anomaly_map)))
        fields: dict[str, Any] = {
            name: None if value is None else value.cpu() for name, value in decided._asdict().items()
        }
        images.update(**fields)
        items, predictions, failures = [], [], []
        raw_maps, matrices = raw.shown(raw.maps.cpu()), batch.matrices or (None,) * len(batch.sizes)
        if batch.matrices is not None and raw.uninspected is not None:  # a map in pixels of the file hides them, too
            raw_maps = raw_maps.masked_fill(raw.uninspected.cpu(), torch.nan)
        of_files = (InFile(*each) for each in zip(batch.sizes, matrices, strict=True))
        details = map(Details, regions, raw.tile_scores(), batch.appearances)
        for item, in_file, score, raw_map, more in zip(
            items_of(images), of_files, raw.scores.tolist(), raw_maps, details, strict=True
        ):
            try:
                predictions.append(self._writer.write(item, in_file, score, raw_map[0], more))
                items.append(item)
            except DataError as error:
                failures.append((Path(str(item.image_path)), error))
        record.add(predictions, has_maps=raw.has_maps)
        for path, reason in failures:  # only now: if memory runs out, all are tried again
            record.fail(path, reason)
        return items
