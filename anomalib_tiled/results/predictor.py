"""Predicts new images, and writes the results."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from anomalib_tiled.data.tile_dataset import collate
from anomalib_tiled.data.unlabelled_images import SourceBatch
from anomalib_tiled.errors import DataError, NotFiniteError, OutOfMemoryError
from anomalib_tiled.results.prediction_writer import PredictionWriter
from anomalib_tiled.results.request import Predicted
from anomalib_tiled.results.thresholds import thresholds_of
from anomalib_tiled.stages.contracts import image_context, with_context
from anomalib_tiled.system.memory import SHARE_ALONE
from anomalib_tiled.system.out_of_memory import LOWER_THE_BUDGET, advising_on_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from anomalib.data import ImageItem

    from anomalib_tiled.ensemble.ensemble import EnsembleModel
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.ensemble.tile_model import TilePrediction
    from anomalib_tiled.errors import TiledError
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.results.request import PredictionRequest
    from anomalib_tiled.results.thresholds import Thresholds

    OnTile = Callable[[Tile, TilePrediction], None]

LESS_MEMORY = f"{LOWER_THE_BUDGET}, or predict elsewhere, such as with --device cpu."


class Prediction:
    """A running prediction.

    Args:
        ensemble: The model.
        thresholds: Replace calibrated ones.
        writer: Writes the results.
        images: The requested images.
        report: Called with each line that a reader of the results should know.
    """

    def __init__(
        self,
        ensemble: EnsembleModel,
        thresholds: Thresholds,
        *,
        writer: PredictionWriter,
        images: Sequence[Path],
        report: Callable[[str], None],
    ) -> None:
        self._ensemble, self._thresholds, self._writer, self._report = ensemble, thresholds, writer, report
        done = writer.folder.repair()
        writer.folder.forget_failures({*map(str, images), *done})
        self.missing = [path for path in images if str(path) not in done]
        anomalous = sum(done.get(str(path), 0) for path in images)
        self._summary = Predicted(len(images) - len(self.missing), anomalous=anomalous)
        self._one_by_one = self._maps_noted = False
        self._out_of_memory: str | None = None

    @classmethod
    def begin(
        cls, run: Run, request: PredictionRequest, images: Sequence[Path], report: Callable[[str], None]
    ) -> Prediction:
        """Load the ensemble, and open the folder of the results.

        Raises:
            RunFolderError: The run is incomplete, or has no scores to look a threshold up.
            ConfigurationError: The folder holds predictions with other settings.
        """
        if remark := run.memory_remark():
            report(f"warning: {remark}")
        ensemble = run.calibrated_ensemble(request.device, share=SHARE_ALONE)
        thresholds, notes = thresholds_of(run, request.settings)
        for note in filter(None, (*notes, run.left_out_note())):
            report(f"Note: {note}")
        writer = PredictionWriter.open(run, request, images)
        return cls(ensemble, thresholds, writer=writer, images=images, report=report)

    @property
    def tried(self) -> int:
        """Number of missing images that were predicted or have failed."""
        return self._summary.images + self._summary.failed

    def fail(self, path: Path, error: TiledError) -> None:
        """Record an image that cannot be read or predicted, or whose files cannot be written.

        Args:
            path: The image.
            error: The reason. One image without enough memory may simply be too large; two in a row are not.

        Raises:
            OutOfMemoryError: There was too little memory for the image before, too.
        """
        reason = str(error)
        if isinstance(error, OutOfMemoryError):
            if self._out_of_memory is not None:
                raise error
            self._out_of_memory, reason = reason, f"{path} is left out. {reason}"
        self._summary.failed += 1
        self._writer.folder.append_failure(path, reason)
        self._report(f"skipped: {reason}")

    def predict(self, batch: SourceBatch, on_tile: OnTile | None = None) -> Iterator[ImageItem]:
        """Predict a batch, and write the results. Images that fail are skipped.

        If memory runs out, these images and all later ones are predicted one by one; a single image for which there is
        too little memory is skipped.

        Args:
            batch: The images.
            on_tile: Called after each tile with its raw prediction.

        Yields:
            The images with their predictions, on the CPU.

        Raises:
            OutOfMemoryError: There is too little memory for two single images in a row.
        """
        single = len(batch.sizes) == 1
        predicted = self._try(batch, on_tile) if single or not self._one_by_one else None
        if predicted is not None:
            yield from predicted
        elif not single:
            for item, size in zip(batch.images, batch.sizes, strict=True):
                yield from self.predict(SourceBatch(collate([item]), (size,)))

    def _try(self, batch: SourceBatch, on_tile: OnTile | None) -> list[ImageItem] | None:
        """Predict a batch; ``None`` if that failed."""
        single = len(batch.sizes) == 1
        try:
            with advising_on_memory(LESS_MEMORY):
                return self._predict(batch, on_tile)
        except (NotFiniteError, OutOfMemoryError) as error:
            if single:
                self.fail(Path(str(next(iter(batch.images)).image_path)), error)
            elif isinstance(error, OutOfMemoryError):
                self._one_by_one = True
                self._report(f"Note: {error} Images are predicted one by one from here on.")
        gc.collect()  # frees the memory of the failed try, which refers to itself
        return None

    def _predict(self, batch: SourceBatch, on_tile: OnTile | None) -> list[ImageItem]:
        images = batch.images
        with with_context(image_context(images.image_path)):
            raw = self._ensemble.predict_raw(cast("torch.Tensor", images.image), on_tile)
            decided = self._thresholds.decide(raw, self._ensemble.decide(raw))
        fields: dict[str, Any] = {
            name: None if value is None else value.cpu() for name, value in decided._asdict().items()
        }
        images.update(**fields)
        self._note_maps(has_maps=raw.has_maps)
        items, predictions, failures = [], [], []
        for item, size, score, raw_map in zip(images, batch.sizes, raw.scores.tolist(), raw.maps.cpu(), strict=True):
            try:
                predictions.append(self._writer.write(item, size, score, raw_map[0]))
                items.append(item)
            except DataError as error:
                failures.append((Path(str(item.image_path)), error))
        self._writer.folder.append(predictions)
        for path, reason in failures:  # only now: if memory runs out, all are tried again
            self.fail(path, reason)
        self._summary.images += len(predictions)
        for image in predictions:
            self._summary.count(image)
        self._out_of_memory = None
        return items

    def _note_maps(self, *, has_maps: bool) -> None:
        """Record after the first batch whether the model gives anomaly maps."""
        if self._maps_noted:
            return
        self._maps_noted = True
        self._writer.folder.note_maps(has_maps=has_maps)
        if not has_maps:
            self._report("Note: The model gives no anomaly maps, so there are no masks, regions and raw maps.")

    def finish(self, seconds: float) -> Predicted:
        """Write the files that need all predictions.

        Args:
            seconds: Duration of the prediction.

        Raises:
            OutOfMemoryError: There was too little memory for an image, and no other image was ever predicted.
        """
        summary = self._summary
        if self._out_of_memory is not None and not (summary.images or summary.existing):
            raise OutOfMemoryError(self._out_of_memory)
        if self._writer.settings.coco:
            self._writer.folder.write_coco()
        summary.seconds = seconds
        return summary
