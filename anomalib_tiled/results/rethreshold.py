"""Applies new thresholds to predictions, without loading a model or predicting again."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, cast

import torch
from anomalib.data import ImageItem

from anomalib_tiled.ensemble.raw_prediction import RawPrediction, with_lowest
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.results.prediction_folder import HAS_MAPS
from anomalib_tiled.results.prediction_row import Details
from anomalib_tiled.results.prediction_writer import PredictionWriter
from anomalib_tiled.results.regions import InFile
from anomalib_tiled.results.request import Predicted
from anomalib_tiled.results.thresholds import Thresholds, final_thresholds, thresholds_of
from anomalib_tiled.system.progress import track

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomalib_tiled.ensemble.ensemble import EnsembleModel
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.results.prediction_folder import PredictionFolder
    from anomalib_tiled.results.prediction_row import PredictedImage
    from anomalib_tiled.results.request import PredictionSettings

CPU = "cpu"
"""Device to normalize maps again; that needs no model."""


def rethreshold(
    run: Run, folder: PredictionFolder, settings: PredictionSettings, report: Callable[[str], None]
) -> Predicted:
    """Apply new thresholds to predictions.

    Args:
        run: The run that made the predictions.
        folder: The predictions; they are replaced once all new ones are written.
        settings: The new thresholds; ``None`` keeps the earlier decisions. A width of uncertain scores is around the
            earlier threshold if there is no new one.
        report: Called with each line that a reader of the results should know.

    Raises:
        ConfigurationError: There are no predictions, another run made them, raw maps are needed but were not written,
            or applying other thresholds was interrupted.
    """
    writer = PredictionWriter.reopen(run, folder, settings)
    judges = settings.threshold is not None or settings.uncertain is not None
    applied = replace(settings, threshold=writer.settings.threshold) if judges else settings
    thresholds, notes = thresholds_of(run, applied)
    if not judges:
        thresholds = replace(thresholds, uncertain=folder.uncertain())
    for note in notes:
        report(f"Note: {note}")
    done = folder.repair()
    summary = Predicted(existing=len(done))
    ensemble = run.calibrated_ensemble(CPU)
    every, _ = thresholds_of(run, writer.settings)  # with those that an earlier command has given
    writer = writer.deciding(final_thresholds(ensemble.stages, ensemble.calibration, every), every.uncertain)
    rethresholding = Rethresholding(ensemble, writer, thresholds, summary)
    writer.check_kept(maps=thresholds.pixels is not None)
    started = monotonic()
    with folder.rethresholding(writer.settings, settings.given, thresholds.uncertain):
        images = map(rethresholding.decide, folder.predicted())
        folder.replace(track(images, "Applying thresholds", len(done)))
        if writer.settings.coco:
            folder.write_coco()
    if rethresholding.outdated:
        report(
            f"Note: {rethresholding.outdated} pictures show the earlier threshold and what it decided, because "
            "--threshold alone draws no picture again."
        )
    summary.seconds = monotonic() - started
    return summary


class Rethresholding:
    """Applies new thresholds to predictions.

    Args:
        ensemble: Normalizes scores; its models are never used.
        writer: Reads and writes the predictions.
        thresholds: The new thresholds; ``None`` keeps the earlier decisions.
        summary: Counts the images.

    Attributes:
        outdated: Number of pictures that show earlier decisions.

    Raises:
        ConfigurationError: Pixels cannot get a new threshold, because there are no raw maps.
    """

    def __init__(
        self, ensemble: EnsembleModel, writer: PredictionWriter, thresholds: Thresholds, summary: Predicted
    ) -> None:
        if thresholds.pixels is not None and writer.folder.facts().get(HAS_MAPS) is False:
            message = (
                "--pixel_threshold needs anomaly maps, but the model gives none, so there are no masks and regions. "
                "Leave it out; --threshold decides about images."
            )
            raise ConfigurationError(message)
        if thresholds.pixels is not None and writer.settings.maps is None:
            message = (
                f"--pixel_threshold needs the raw maps of {writer.folder.path}, but they were not written. "
                "Predict with --maps npy into another folder; --threshold alone needs no maps."
            )
            raise ConfigurationError(message)
        self._ensemble, self._writer, self._thresholds = ensemble, writer, thresholds
        self._summary, self.outdated = summary, 0

    def decide(self, image: PredictedImage) -> PredictedImage:
        """Give the prediction of an image with new decisions, and write its files again if pixels change."""
        judged = self._decided(image).judged(self._thresholds.uncertain)
        self._summary.count(judged)
        return judged

    def _decided(self, image: PredictedImage) -> PredictedImage:
        if image.unaligned or image.raw_score is None or image.pred_score is None:  # no threshold decides that
            return image
        decided = image
        if (threshold := self._thresholds.images) is not None:
            raw, final = torch.tensor([image.raw_score]), torch.tensor([image.pred_score])
            decided = replace(image, pred_label=int(threshold.exceeded(raw, final)))
        if self._thresholds.pixels is not None:
            decided = self._with_regions(decided, image.raw_score, image.pred_score)
        elif self._writer.settings.overlays:
            self.outdated += 1
        return decided

    def _with_regions(self, image: PredictedImage, raw_score: float, pred_score: float) -> PredictedImage:
        maps = self._writer.read_map(image.path)[None, None]
        hidden = maps.isnan() if maps.amax().isnan() else None
        raw = RawPrediction(
            scores=torch.tensor([raw_score]),
            maps=maps if hidden is None else with_lowest(maps, hidden, dim=(1, 2, 3)),
            has_maps=True,
            labels=None,
            masks=None,
            uninspected=self._ensemble.uninspected if image.unaligned is None else None,  # else NaN shows them
            hidden=hidden,
        )
        decided = self._thresholds.decide(raw, self._ensemble.decide(raw))
        item = ImageItem(
            image=torch.zeros(3, *maps.shape[-2:]),  # pictures show the file itself
            image_path=image.image_path,
            pred_score=torch.tensor(pred_score),
            pred_label=torch.tensor(bool(image.pred_label)),
            anomaly_map=raw.shown(cast("torch.Tensor", decided.anomaly_map))[0],
            pred_mask=cast("torch.Tensor", decided.pred_mask)[0],
        )
        written = self._writer.write_decision(item, InFile(image.image_size), raw_score)
        # Named regions keep thresholds of their own.
        return Details.of(image).added_to(replace(written, unaligned=image.unaligned))
