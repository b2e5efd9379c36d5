"""Thresholds that replace calibrated ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch

from anomalib_tiled.ensemble.calibration import Stages
from anomalib_tiled.ensemble.raw_prediction import final_scores
from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.stages.thresholding import reported_threshold
from anomalib_tiled.stages.uncertain import check_place

if TYPE_CHECKING:
    from anomalib.data import InferenceBatch

    from anomalib_tiled.ensemble.calibration import Calibration, Learned
    from anomalib_tiled.ensemble.raw_prediction import RawPrediction
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.results.request import PredictionSettings
    from anomalib_tiled.stages.uncertain import Band, Uncertain

FEW = 1 - 1e-9
"""Expected number of validation scores above a quantile below which it is just the highest score."""


@dataclass(frozen=True)
class Threshold:
    """A threshold; scores above it are anomalous.

    Args:
        value: The score.
        raw: Whether it is on the scale before the normalization of images, instead of the scale of final scores.
    """

    value: float
    raw: bool

    def exceeded(self, raw: torch.Tensor, final: torch.Tensor) -> torch.Tensor:
        """Say which scores are above the threshold.

        Args:
            raw: Scores before the normalization of images.
            final: Scores after the normalization, same shape.
        """
        return (raw if self.raw else final) > self.value


@dataclass(frozen=True)
class Thresholds:
    """Thresholds that replace calibrated ones.

    Args:
        images: For labels; ``None`` for the calibrated one.
        pixels: For masks and regions; ``None`` for the calibrated one.
        uncertain: Final scores of uncertain images; ``None`` if no image is.
    """

    images: Threshold | None = None
    pixels: Threshold | None = None
    uncertain: Band | None = None

    def decide(self, raw: RawPrediction, decided: InferenceBatch) -> InferenceBatch:
        """Replace labels and masks of a prediction.

        Args:
            raw: The prediction before normalization and thresholding of whole images.
            decided: The same, normalized and thresholded as calibrated.
        """
        labels, masks = decided.pred_label, decided.pred_mask
        if self.images is not None:
            labels = self.images.exceeded(raw.scores, cast("torch.Tensor", decided.pred_score))
        if self.pixels is not None and raw.has_maps:
            masks = raw.without_unseen(self.pixels.exceeded(raw.maps, cast("torch.Tensor", decided.anomaly_map)))
        return decided._replace(pred_label=labels, pred_mask=masks)

    def is_uncertain(self, score: float) -> bool:
        """Whether an image with this final score is uncertain."""
        return self.uncertain is not None and self.uncertain.holds(score)


@dataclass(frozen=True)
class FinalThresholds:
    """The thresholds that decide, on the scale of final scores, for readers.

    Args:
        images: Images with a higher score are anomalous; ``None`` if each tile has a threshold of its own.
        pixels: The same for pixels.
    """

    images: float | None = None
    pixels: float | None = None


def final_thresholds(
    stages: Stages, calibration: Calibration | None, given: Thresholds | None = None
) -> FinalThresholds:
    """Give the thresholds that decide.

    Args:
        stages: The stages.
        calibration: What they learned.
        given: Thresholds that replace calibrated ones; ``None`` if none do.
    """
    given, level = given or Thresholds(), None if calibration is None else calibration.image
    of_images, of_pixels = (None, None) if level is None else (level.scores, level.maps)
    return FinalThresholds(
        _final(stages, given.images, of_images, stages.image_sensitivity),
        _final(stages, given.pixels, of_pixels, stages.pixel_sensitivity),
    )


def _final(stages: Stages, given: Threshold | None, learned: Learned | None, sensitivity: float) -> float | None:
    if given is not None:
        if learned is None or not given.raw:
            return given.value
        return final_scores(stages, torch.tensor(given.value), learned).item()
    if learned is None or stages.threshold_at == "tile":
        return None
    return reported_threshold(learned.threshold, sensitivity=sensitivity, normalize_at=stages.normalize_at)


def thresholds_of(run: Run, settings: PredictionSettings) -> tuple[Thresholds, tuple[str, ...]]:
    """Give the requested thresholds; quantiles are looked up among the scores of normal validation images.

    Args:
        run: The run.
        settings: The request.

    Returns:
        The thresholds, and notes for a reader of the results.

    Raises:
        RunFolderError: The run has no scores to look a quantile up.
        ConfigurationError: The threshold of images is not within the limits of ``thresholding.uncertain``.
    """
    rules, found, notes = settings.rules, {}, []
    scores = run.validation_scores() if any(rule.fraction is not None for rule in rules.values()) else None
    for option, rule in rules.items():
        level = "pixels" if option == "pixel_threshold" else "images"
        if rule.fraction is None:
            found[level] = Threshold(rule.score, raw=False)
            continue
        normal = None if scores is None else getattr(scores, level)
        if normal is None or not normal.total:
            reason = _lacking(run) if normal is None else "There are none, or masks are unknown. Give a number."
            message = (
                f"{rule.text} is looked up among the scores of normal validation images and their pixels. {reason}"
            )
            raise RunFolderError(message)
        if 0 < (1 - rule.fraction) * normal.total < FEW:
            total = normal.total
            notes.append(
                f"{rule.text} is finer than {total} normal validation scores resolve: it is the highest of them."
            )
        found[level] = Threshold(normal.quantile(rule.fraction), raw=True)
    images, limits = found.get("images"), settings.limits(run.settings.thresholding.uncertain)
    uncertain = None if limits is None else _uncertain(run, limits, images)
    return Thresholds(images, found.get("pixels"), uncertain), tuple(notes)


def _uncertain(run: Run, limits: Uncertain, threshold: Threshold | None) -> Band:
    """Give the final scores of uncertain images.

    Args:
        run: The run.
        limits: Which images are uncertain.
        threshold: Threshold of images; ``None`` for the calibrated one.
    """
    check_place(run.settings.thresholding.stage)
    deciding = final_thresholds(Stages.build(run.settings), run.calibration(), Thresholds(threshold))
    return limits.around(cast("float", deciding.images))  # images are thresholded


def _lacking(run: Run) -> str:
    """Say why a run keeps no validation scores, and what to do."""
    if run.settings.normalization.stage == run.settings.thresholding.stage == "tile":
        return (
            "A run that normalizes and thresholds tiles has no such scores. Give a number, or fit a run with "
            "thresholding.stage image."
        )
    return (
        f"{run.folder.path} keeps none, because an earlier version calibrated it. Run `anomalib tiled fit "
        f"--ckpt_dir {run.folder.path}` once more, which trains no tile again; or give a number."
    )
