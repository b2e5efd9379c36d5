"""Deciding again about images that were predicted: no model is asked, and no image is predicted anew."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

import torch
from anomalib.data import ImageBatch

from anomalib_tiled.ensemble.ensemble import RawPrediction
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.results.coco import write_coco
from anomalib_tiled.results.contradictions import count_of
from anomalib_tiled.results.prediction_folder import HAS_MAPS, Predicted
from anomalib_tiled.results.prediction_writer import PredictionWriter
from anomalib_tiled.results.thresholds import Thresholds, given_thresholds, thresholds_of
from anomalib_tiled.system.progress import track

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anomalib_tiled.ensemble.ensemble import TiledEnsemble
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.results.prediction_folder import PredictionFolder
    from anomalib_tiled.results.prediction_row import PredictedImage
    from anomalib_tiled.results.request import PredictionSettings

CPU = "cpu"
"""Where maps are normalized again; no model is needed for that."""


def rethreshold(
    run: Run, folder: PredictionFolder, settings: PredictionSettings, report: Callable[[str], None]
) -> Predicted:
    """Decide by other thresholds about images that were predicted.

    Args:
        run: The run that they were predicted with.
        folder: The predictions; they are replaced once all are decided about.
        settings: The thresholds; where one is ``None``, what was decided stays.
        report: Told in a line what a reader of the results should know.

    Raises:
        ConfigurationError: There are no predictions, another run made them, what is needed was not kept, or deciding
            by other thresholds was interrupted.
    """
    writer = PredictionWriter.reopen(run, folder, settings)
    thresholds, notes = thresholds_of(run, settings)
    for note in notes:
        report(f"Note: {note}")
    done = folder.repair()
    rethresholding = Rethresholding(run.calibrated_ensemble(CPU), writer, thresholds)
    writer.check_kept(maps=thresholds.pixels is not None)
    started = monotonic()
    with folder.rethresholding(writer.settings, given_thresholds(settings)):
        folder.replace(track(rethresholding.images(), "Deciding", len(done)))
        if writer.settings.coco:
            write_coco(folder)
    if rethresholding.outdated:
        report(
            f"Note: {rethresholding.outdated} pictures say something else than the table now of how label and mask "
            "contradict each other: --threshold alone draws none again."
        )
    anomalous = sum(image.pred_label for image in folder.predicted())
    contradictions = count_of(image.contradiction for image in folder.predicted())
    return Predicted(0, len(done), anomalous, 0, monotonic() - started, contradictions)


class Rethresholding:
    """Other thresholds for images that were predicted before.

    Args:
        ensemble: Knows how scores are normalized; its models are never asked.
        writer: Where the predictions are, and what is kept of each.
        thresholds: Thresholds; where one is ``None``, what was decided stays.

    Raises:
        ConfigurationError: Pixels cannot be decided about again: their scores were not kept, or there are none.
    """

    def __init__(self, ensemble: TiledEnsemble, writer: PredictionWriter, thresholds: Thresholds) -> None:
        if thresholds.pixels is not None and writer.folder.facts().get(HAS_MAPS) is False:
            message = (
                "--pixel_threshold decides about pixels, but the model gives no anomaly maps, so there are no masks "
                "and regions to decide about. Leave it out; --threshold decides about images."
            )
            raise ConfigurationError(message)
        if thresholds.pixels is not None and writer.settings.maps is None:
            message = (
                f"--pixel_threshold needs the raw maps of {writer.folder.path}, but they were not kept. "
                "Predict with --maps npy into another folder; --threshold alone needs no maps."
            )
            raise ConfigurationError(message)
        self._ensemble, self._writer, self._thresholds = ensemble, writer, thresholds
        self.outdated = 0

    def images(self) -> Iterator[PredictedImage]:
        """Decide about the images, one by one."""
        for image in self._writer.folder.predicted():
            yield self._decided(image)

    def _decided(self, image: PredictedImage) -> PredictedImage:
        if (threshold := self._thresholds.images) is not None:
            raw, final = torch.tensor([image.raw_score]), torch.tensor([image.pred_score])
            before, image = image, replace(image, pred_label=int(threshold.exceeded(raw, final)))
            drawn_before = self._writer.settings.overlays and self._thresholds.pixels is None
            self.outdated += drawn_before and before.contradiction != image.contradiction
        return image if self._thresholds.pixels is None else self._with_regions(image, image.path)

    def _with_regions(self, image: PredictedImage, path: Path) -> PredictedImage:
        maps = self._writer.read_map(path)[None, None]
        raw = RawPrediction(
            scores=torch.tensor([image.raw_score]),
            maps=maps,
            has_maps=True,
            labels=None,
            masks=None,
            uninspected=self._ensemble.uninspected,
        )
        decided = self._thresholds.decide(raw, self._ensemble.decide(raw))
        batch = ImageBatch(
            image=torch.zeros(1, 3, *maps.shape[-2:]),  # pictures show the file itself
            image_path=[image.image_path],
            pred_score=torch.tensor([image.pred_score]),
            pred_label=torch.tensor([bool(image.pred_label)]),
            anomaly_map=decided.anomaly_map,
            pred_mask=decided.pred_mask,
        )
        item = next(iter(batch))
        self._writer.draw(item)
        return self._writer.prediction_of(item, image.image_size, image.raw_score)
