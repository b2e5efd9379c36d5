"""Predicting new images: from the images that were asked for to what is written of each."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from anomalib_tiled.data.tile_dataset import collate
from anomalib_tiled.data.unlabelled_images import SourceBatch
from anomalib_tiled.errors import NotFiniteError, OutOfMemoryError
from anomalib_tiled.results.coco import write_coco
from anomalib_tiled.results.contradictions import count_of
from anomalib_tiled.results.prediction_folder import Predicted
from anomalib_tiled.results.prediction_writer import Recording
from anomalib_tiled.results.request import PredictionRequest
from anomalib_tiled.results.thresholds import thresholds_of
from anomalib_tiled.stages.contracts import image_context, with_context
from anomalib_tiled.system.memory import SHARE_ALONE
from anomalib_tiled.system.out_of_memory import LOWER_THE_BUDGET, advising_on_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from anomalib.data import ImageItem

    from anomalib_tiled.ensemble.ensemble import TiledEnsemble
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.ensemble.tile_model import TilePrediction
    from anomalib_tiled.errors import TiledError
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.results.thresholds import Thresholds

    OnTile = Callable[[Tile, TilePrediction], None]

LESS_MEMORY = f"{LOWER_THE_BUDGET}, or predict elsewhere, such as with --device cpu."


class Prediction:
    """A prediction on its way.

    Args:
        ensemble: Predicts.
        thresholds: Replace calibrated ones.
        recording: Writes what is found.
        images: The images that were asked for.
        report: Told in a line what a reader of the results should know.
    """

    def __init__(
        self,
        ensemble: TiledEnsemble,
        thresholds: Thresholds,
        *,
        recording: Recording,
        images: Sequence[Path],
        report: Callable[[str], None],
    ) -> None:
        self._ensemble, self._thresholds, self._recording, self._report = ensemble, thresholds, recording, report
        done = recording.folder.mend()
        recording.folder.forget_failures({*map(str, images), *done})
        self.missing = [path for path in images if str(path) not in done]
        self._existing = len(images) - len(self.missing)
        self._anomalous = sum(done.get(str(path), 0) for path in images)
        self._predicted = self._failed = 0
        self._contradictions: list[str] = []
        self._one_by_one = self._maps_noted = False
        self._starved: str | None = None

    @classmethod
    def begin(
        cls, run: Run, request: PredictionRequest, images: Sequence[Path], report: Callable[[str], None]
    ) -> Prediction:
        """Load what predicts, and open the folder of the results.

        Raises:
            RunFolderError: The run is not complete, or lacks what a threshold is looked up in.
            ConfigurationError: The folder holds predictions that were made otherwise.
        """
        if remark := run.memory_remark():
            report(f"warning: {remark}")
        ensemble = run.calibrated_ensemble(request.device, share=SHARE_ALONE)
        thresholds, notes = thresholds_of(run, request.settings)
        for note in filter(None, (*notes, run.left_out_note())):
            report(f"Note: {note}")
        recording = Recording.open(run, request, images)
        return cls(ensemble, thresholds, recording=recording, images=images, report=report)

    @property
    def tried(self) -> int:
        """How many of the missing images were predicted, or could not be read."""
        return self._predicted + self._failed

    def fail(self, path: Path, error: TiledError) -> None:
        """Take note of an image that cannot be read or predicted, or of which something cannot be kept.

        Args:
            path: The image.
            error: Why. A lack of memory is the image's own if it is alone with it.

        Raises:
            OutOfMemoryError: There is too little memory for the image before it too.
        """
        reason = str(error)
        if isinstance(error, OutOfMemoryError):
            if self._starved is not None:
                raise error
            self._starved, reason = reason, f"{path} is left out. {reason}"
        self._failed += 1
        self._recording.folder.append_failure(path, reason)
        self._report(f"skipped: {reason}")

    def predict(self, batch: SourceBatch, on_tile: OnTile | None = None) -> Iterator[ImageItem]:
        """Predict a batch, and write what is found. An image of which nothing can be said or kept is passed over.

        If memory runs out, these images and all later ones are predicted one by one; a single image for which there is
        too little memory is passed over.

        Args:
            batch: The images.
            on_tile: Told of each tile that has predicted them.

        Yields:
            The images with their predictions, on the CPU.

        Raises:
            OutOfMemoryError: There is too little memory for two images after each other, each by itself.
        """
        single = len(batch.sizes) == 1
        predicted = self._try(batch, on_tile) if single or not self._one_by_one else None
        if predicted is not None:
            yield from predicted
        elif not single:
            for item, size in zip(batch.images, batch.sizes, strict=True):
                yield from self.predict(SourceBatch(collate([item]), (size,)))

    def _try(self, batch: SourceBatch, on_tile: OnTile | None) -> list[ImageItem] | None:
        """Predict a batch; ``None`` if that failed, and may work for one image at a time."""
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
        gc.collect()  # what failed holds itself, and is in the way of the next try
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
        if not self._maps_noted:
            self._note_maps(has_maps=raw.has_maps)
        told = self._recording.write(images, batch.sizes, raw, self.fail)
        self._anomalous += sum(image.pred_label for image in told)
        self._predicted += len(told)
        self._contradictions += [image.contradiction for image in told]
        self._starved = None
        kept = {image.image_path for image in told}
        return [item for item in images if str(item.image_path) in kept]

    def _note_maps(self, *, has_maps: bool) -> None:
        self._recording.folder.note_maps(has_maps=has_maps)
        self._maps_noted = True
        if not has_maps:
            self._report("Note: The model gives no anomaly maps, so there are no masks, regions and raw maps.")

    def finish(self, seconds: float) -> Predicted:
        """Write what needs all predictions.

        Args:
            seconds: Time that the prediction took.

        Raises:
            OutOfMemoryError: There was too little memory for an image, and no other was predicted, now or before.
        """
        if self._starved is not None and not (self._predicted or self._existing):
            raise OutOfMemoryError(self._starved)
        if self._recording.settings.coco:
            write_coco(self._recording.folder)
        said = count_of(self._contradictions)
        return Predicted(self._predicted, self._existing, self._anomalous, self._failed, seconds, said)
