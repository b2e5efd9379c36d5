"""Thresholds that replace calibrated ones."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch

from anomalib_tiled.ensemble.ensemble import RawPrediction
from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.results.request import PredictionSettings

if TYPE_CHECKING:
    from anomalib.data import InferenceBatch

    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.ensemble.validation_scores import NormalScores, ValidationScores

THRESHOLDS = ("threshold", "pixel_threshold")
"""Settings that can change without predicting again."""

FORM = re.compile(r"(q|fpr)?\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
"""A number, or a fraction after ``q`` or ``fpr``."""

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
class ThresholdRule:
    """A threshold as the user types it.

    Args:
        text: The typed text.
        fraction: Fraction of normal validation scores at or below the threshold; ``None`` for a score.
        score: The score; NaN for a fraction.
    """

    text: str
    fraction: float | None
    score: float

    @classmethod
    def read(cls, option: str, text: str) -> ThresholdRule:
        """Read ``0.7``, ``q0.99`` (a quantile of normal scores) or ``fpr0.01`` (a rate of false alarms).

        Args:
            option: Name of the option, for messages.
            text: The typed text.

        Raises:
            ConfigurationError: The text is none of these.
        """
        found = FORM.fullmatch(text.strip())
        number = math.nan if found is None else float(found[2])
        kind = None if found is None else found[1]
        if not math.isfinite(number) or (kind is not None and not 0 <= number <= 1):
            message = (
                f"{option} must be a score such as 0.7, a quantile of normal validation scores such as q0.99, or a "
                f"rate of false alarms such as fpr0.01 (both between 0 and 1), but is {text!r}."
            )
            raise ConfigurationError(message)
        if kind is None:
            return cls(text, None, number)
        return cls(text, number if kind == "q" else 1 - number, math.nan)


@dataclass(frozen=True)
class Thresholds:
    """Thresholds that replace calibrated ones.

    Args:
        images: For labels; ``None`` for the calibrated one.
        pixels: For masks and regions; ``None`` for the calibrated one.
    """

    images: Threshold | None = None
    pixels: Threshold | None = None

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
            masks = raw.without_uninspected(self.pixels.exceeded(raw.maps, cast("torch.Tensor", decided.anomaly_map)))
        return decided._replace(pred_label=labels, pred_mask=masks)


@dataclass(frozen=True)
class ThresholdRules:
    """The requested thresholds of images and pixels; ``None`` for the calibrated ones."""

    images: ThresholdRule | None = None
    pixels: ThresholdRule | None = None

    @classmethod
    def read(cls, images: str | None, pixels: str | None) -> ThresholdRules:
        """Read the values of ``--threshold`` and ``--pixel_threshold``."""
        return cls(
            None if images is None else ThresholdRule.read("--threshold", images),
            None if pixels is None else ThresholdRule.read("--pixel_threshold", pixels),
        )

    @property
    def need_scores(self) -> bool:
        """Whether a threshold has to be looked up among validation scores."""
        return any(rule is not None and rule.fraction is not None for rule in (self.images, self.pixels))

    def thresholds(self, scores: ValidationScores | None, lacking: str) -> tuple[Thresholds, tuple[str, ...]]:
        """Look the thresholds up.

        Args:
            scores: Validation scores; ``None`` if the run keeps none.
            lacking: Why it keeps none, and what to do.

        Returns:
            The thresholds, and notes for a reader of the results.

        Raises:
            RunFolderError: There are no scores to look a fraction up.
        """
        images = None if scores is None else scores.images
        pixels = None if scores is None else scores.pixels
        looked_up = [_look_up(self.images, images, lacking), _look_up(self.pixels, pixels, lacking)]
        notes = tuple(note for _, note in looked_up if note is not None)
        return Thresholds(looked_up[0][0], looked_up[1][0]), notes


def _look_up(
    rule: ThresholdRule | None, scores: NormalScores | None, lacking: str
) -> tuple[Threshold | None, str | None]:
    """Give the requested threshold, and a note for a reader of the results."""
    if rule is None:
        return None, None
    if rule.fraction is None:
        return Threshold(rule.score, raw=False), None
    if scores is None or not scores.total:
        reason = lacking if scores is None else "There are none, or masks are unknown. Give a number."
        message = f"{rule.text} is looked up among the scores of normal validation images and their pixels. {reason}"
        raise RunFolderError(message)
    note = None
    if 0 < (1 - rule.fraction) * scores.total < FEW:
        note = f"{rule.text} is finer than {scores.total} normal validation scores resolve: it is the highest of them."
    return Threshold(scores.quantile(rule.fraction), raw=True), note


def thresholds_of(run: Run, settings: PredictionSettings) -> tuple[Thresholds, tuple[str, ...]]:
    """Give the requested thresholds, and notes for a reader of the results.

    Raises:
        ConfigurationError: The request is no threshold.
        RunFolderError: The run has no scores to look a threshold up.
    """
    rules = ThresholdRules.read(settings.threshold, settings.pixel_threshold)
    if not rules.need_scores:
        return rules.thresholds(None, "")
    if run.settings.normalization.stage == run.settings.thresholding.stage == "tile":
        lacking = (
            "A run that normalizes and thresholds tiles has no such scores. Give a number, or fit a run with "
            "thresholding.stage image."
        )
    else:
        lacking = (
            f"{run.folder.path} keeps none, because an earlier version calibrated it. Run `anomalib tiled fit "
            f"--ckpt_dir {run.folder.path}` once more, which trains no tile again; or give a number."
        )
    return rules.thresholds(run.validation_scores(), lacking)


def given_thresholds(settings: PredictionSettings) -> dict[str, str]:
    """Give the requested thresholds by the names of their options."""
    return {name: value for name in THRESHOLDS if (value := getattr(settings, name)) is not None}
