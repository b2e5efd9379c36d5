"""Thresholding: the score above which an image or a pixel is anomalous, and how far a sensitivity moves that."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.curves import f1_scores
from anomalib_tiled.stages.distribution import ExactScores, ScoreCounts, ScoreDistribution
from anomalib_tiled.stages.normals import (
    FEWEST_SCORES,
    Tail,
    clear_of_rounding,
    peaks_of,
    quantile_of_counts,
    quantile_of_images,
)

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

At = Literal["middle", "lowest_anomalous"]
"""Position of a threshold between two neighbouring scores."""

LEAST_SPREAD = 0.05
"""Least range of normal scores, as a fraction of the gap above them."""

WIDE_GAP = 0.1
"""Smallest gap between scores that a note mentions, as a fraction of the range of scores."""

MARGIN = 1e-5
"""Distance from the threshold to the lowest score above it, as a fraction of the range of scores."""

ROUNDING = 1e-9
"""In floating point, a quantile of 0.9 gives a rate of slightly less than 0.1."""

NEUTRAL = 0.5
"""The sensitivity that leaves decisions at the threshold."""


class Thresholder(ABC):
    """How the threshold is found. Higher scores are anomalous; a score equal to it is normal, as in anomalib."""

    @abstractmethod
    def learn(self, scores: ScoreDistribution) -> float:
        """Find the threshold.

        Args:
            scores: Distribution of validation scores, higher is more anomalous.

        Returns:
            The threshold, on the scale of the scores.
        """

    def notes(self, scores: ScoreDistribution) -> Sequence[str]:
        """Give notes about the threshold for readers of the results, a sentence each; none, unless overridden.

        Args:
            scores: Validation scores of the images, even where thresholds are learned for tiles.
        """
        del scores
        return ()


class F1AdaptiveThreshold(Thresholder):
    """Threshold with the highest F1 score on the validation images.

    All thresholds between two neighbouring scores have the same F1 score; the threshold is the middle between the two,
    on a scale of magnitudes. With r the range from the lowest to the highest normal score, and g the gap, it lies
    r sinh(asinh(g / r) / 2) above the lower score: at half of a gap much narrower than the range, at a third of a gap
    four times as wide. So most of a wide gap is left to new defects, which must be expected there, and new normal
    scores still have room of the order of their range. r is at least a twentieth of the gap. If several gaps have the
    same highest F1 score, the widest is chosen.

    Without anomalous scores, it is just above the highest normal score, so that no validation image is anomalous;
    without normal scores, just below the lowest score.

    Args:
        at: ``middle``; or ``lowest_anomalous`` for the threshold of anomalib: the lowest score that counts as
            anomalous; if several thresholds are best, the lowest; without anomalous scores the highest normal score.
    """

    def __init__(self, at: At = "middle") -> None:
        if at not in get_args(At):
            message = f"F1AdaptiveThreshold needs at to be {' or '.join(get_args(At))}, got {at!r}."
            raise ValueError(message)
        self.at = at

    def learn(self, scores: ScoreDistribution) -> float:
        """Compare all thresholds between validation scores."""
        if not scores.has_anomalous:
            return scores.maximum + (scores.margin if self.at == "middle" else 0)
        counts = scores.counts()
        if not scores.has_normal:
            return _just_below(counts, 0)
        if self.at == "lowest_anomalous":
            return _just_below(counts, int(np.argmax(f1_scores(counts))))
        return _between(counts, _widest_best(counts))

    def notes(self, scores: ScoreDistribution) -> Sequence[str]:
        """Say that no validation image is anomalous, or how wide the gap around the threshold is."""
        if not scores.has_anomalous:
            where = "just above " if self.at == "middle" else ""
            return (f"No validation image is anomalous: the threshold is {where}the highest normal score.",)
        if self.at == "middle" and scores.has_normal:
            return _notes_on_gap(scores.counts())
        return ()


class ManualThreshold(Thresholder):
    """Threshold with a fixed value that you give.

    Args:
        value: Scores above it are anomalous; on the scale of the model, or in [0, 1] if tiles are normalized and
            images thresholded.
    """

    def __init__(self, value: float) -> None:
        if not math.isfinite(value):
            message = f"ManualThreshold needs a number as value, got {value}."
            raise ValueError(message)
        self.value = value

    def learn(self, scores: ScoreDistribution) -> float:
        """Return the fixed value."""
        del scores
        return self.value


class QuantileThreshold(Thresholder):
    """Quantile of the normal scores: of a hundred normal images, 100 × (1 - quantile) count as anomalous.

    For anomaly maps it is the same quantile of the highest pixel of each normal image: pixels of an image depend on one
    another, so the share of images with an anomalous pixel differs from the share of anomalous pixels. Anomalous images
    are not used. With n normal images, a quantile above n / (n + 1) cannot be estimated; it is the highest score then.

    Args:
        quantile: Share of the normal images that stay normal, between 0 and 1.
        every_pixel: Whether the threshold of anomaly maps is that quantile of all normal pixels instead. Masks are
            larger then: a share of 1 - quantile of the pixels of normal images is anomalous.
    """

    def __init__(self, quantile: float = 0.99, *, every_pixel: bool = False) -> None:
        if not 0 < quantile < 1:
            message = f"QuantileThreshold needs a quantile between 0 and 1, got {quantile}."
            raise ValueError(message)
        self.quantile = quantile
        self.every_pixel = every_pixel

    def learn(self, scores: ScoreDistribution) -> float:
        """Look up the quantile."""
        if not scores.has_normal:
            return _just_below(scores.counts(), 0)
        if self.every_pixel and not isinstance(scores, ExactScores):
            quantile = min(quantile_of_counts(scores.counts(), self.quantile), scores.maximum_normal)
            return clear_of_rounding(quantile, np.array([scores.maximum_normal]), scores.margin)
        return quantile_of_images(scores, self.quantile)

    def notes(self, scores: ScoreDistribution) -> Sequence[str]:
        """Say if there are too few images for the quantile."""
        return _notes_on_few(len(scores.peaks), 1 - self.quantile, extrapolated=False)


class ExtremeValueThreshold(Thresholder):
    """Threshold that a given share of new normal images exceeds, from the tail of the normal scores.

    A generalized Pareto distribution is fitted to the highest normal scores (Siffer et al., "Anomaly Detection in
    Streams with Extreme Value Theory", KDD 2017), which extrapolates beyond the validation images: so false-positive
    rates below one in the number of validation images are possible. For anomaly maps the distribution is fitted to the
    highest pixel of each normal image, so the rate is that of images with an anomalous pixel. Anomalous images are not
    used.

    For rates above ``tail``, with fewer than 20 normal images, and if the tail cannot be fitted because scores are
    equal, the threshold is that of ``QuantileThreshold``, at most the highest score.

    Args:
        false_positive_rate: Share of the normal images that count as anomalous, between 0 and 1.
        tail: Share of the normal images, those with the highest scores, that the tail is fitted to, between 0 and 1;
            at least 10 images.
    """

    def __init__(self, false_positive_rate: float = 0.01, tail: float = 0.2) -> None:
        for name, value in {"false_positive_rate": false_positive_rate, "tail": tail}.items():
            if not 0 < value < 1:
                message = f"ExtremeValueThreshold needs a {name} between 0 and 1, got {value}."
                raise ValueError(message)
        self.false_positive_rate = false_positive_rate
        self.tail = tail

    def learn(self, scores: ScoreDistribution) -> float:
        """Fit the tail and look up the rate."""
        if not scores.has_normal:
            return _just_below(scores.counts(), 0)
        peaks = peaks_of(scores)
        if self.false_positive_rate < self.tail and len(peaks) >= FEWEST_SCORES:
            if tail := Tail.fit(peaks, self.tail):
                return tail.threshold(self.false_positive_rate)
            logger.warning(
                "The tail of %d normal scores cannot be fitted: the threshold is their quantile.", len(peaks)
            )
        return quantile_of_images(scores, 1 - self.false_positive_rate)

    def notes(self, scores: ScoreDistribution) -> Sequence[str]:
        """Say if there are too few images for a tail, or for the rate."""
        images = len(scores.peaks)
        extrapolated = images >= FEWEST_SCORES and self.false_positive_rate < self.tail
        return _notes_on_few(images, self.false_positive_rate, extrapolated=extrapolated)


def decided(raw: torch.Tensor, normalized: torch.Tensor, *, threshold: float, sensitivity: float) -> torch.Tensor:
    """Decide what is anomalous: normalized scores greater than 1 - sensitivity, as in anomalib.

    Args:
        raw: Scores or maps of any shape, on the scale of the threshold.
        normalized: The same scores, normalized; the raw scores again if there is no normalization.
        threshold: Scores above it are anomalous.
        sensitivity: Between 0 and 1; a higher sensitivity finds more.

    Returns:
        True where anomalous, of the same shape.
    """
    if sensitivity == NEUTRAL:  # greater than the threshold, which rounding in normalization may blur
        return raw > threshold
    return normalized > 1 - sensitivity


def reported_threshold(learned: float, *, sensitivity: float, normalize_at: str) -> float:
    """Give the threshold of images on the scale of reported scores, as `decided` applies it.

    Args:
        learned: The learned threshold.
        sensitivity: That of images.
        normalize_at: ``tile``, ``image`` or ``none``.
    """
    return learned if normalize_at == "none" else 1 - sensitivity


def check_sensitivity(name: str, given: object, *, normalize_at: str, threshold_at: str) -> None:
    """Check that a sensitivity has a meaning with these places of normalization and thresholding.

    Raises:
        ConfigurationError: It is not between 0 and 1, or would be applied to scores that are not normalized.
    """
    if not isinstance(given, (int, float)) or not 0 <= given <= 1:
        message = f"thresholding.{name} must be a number between 0 and 1, but is {given!r}. Higher finds more."
        raise ConfigurationError(message)
    if given != NEUTRAL and normalize_at not in {"tile", threshold_at}:
        message = (
            f"thresholding.{name} is {given}, but a sensitivity needs normalized scores, and with normalization.stage "
            f"{normalize_at} and thresholding.stage {threshold_at} thresholds apply to raw scores. Set both "
            "stages to image or both to tile, or leave the sensitivity out and give a threshold by ManualThreshold."
        )
        raise ConfigurationError(message)


def _notes_on_few(images: int, rate: float, *, extrapolated: bool) -> Sequence[str]:
    """Say that a rate is too low for this number of normal images."""
    if not images:
        return ("No validation image is normal: all scores from the lowest upwards count as anomalous.",)
    if rate * (images + 1) >= 1 - ROUNDING:
        return ()
    threshold = "extrapolated beyond it, and uncertain" if extrapolated else "this score"
    note = (
        f"A false-positive rate of {rate:g} is too low for {images} normal validation images: of new normal images, "
        f"1 in {images + 1} exceeds their highest score. The threshold is {threshold}."
    )
    return (note,)


def _notes_on_gap(counts: ScoreCounts) -> Sequence[str]:
    """Name the gap that the threshold lies in, if it is a wide one."""
    if not (index := _widest_best(counts)):
        return ()
    below, above = float(counts.upper[index - 1]), float(counts.lower[index])
    if above - below < WIDE_GAP * (counts.upper[-1] - counts.lower[0]):
        return ()
    note = (
        f"No validation image has a score between {below:.4g} and {above:.4g}: every threshold there has the same F1 "
        "score. The middle is taken, measured in ranges of the normal scores."
    )
    return (note,)


def _widest_best(counts: ScoreCounts) -> int:
    """Give the lowest bin that counts as anomalous, for the highest F1 score.

    If several bins have that F1 score: the bin that is farthest from the bin below, and the lowest of these.
    """
    f1 = f1_scores(counts)
    best = np.flatnonzero(f1 == f1.max())
    below = np.concatenate([counts.lower[:1], counts.upper[:-1]])  # there is no score below the lowest bin
    return int(best[np.argmax((counts.lower - below)[best])])


def _between(counts: ScoreCounts, index: int) -> float:
    """Give the middle between a bin and the one below, as ``F1AdaptiveThreshold`` says; just below the lowest bin."""
    if not index:
        return _just_below(counts, 0)
    below, lowest = counts.upper[index - 1], counts.lower[index]
    normal = np.flatnonzero(counts.normal)
    spread = max(counts.upper[normal[-1]] - counts.lower[normal[0]], LEAST_SPREAD * (lowest - below))
    return _below_as_float(lowest, below + spread * math.sinh(math.asinh((lowest - below) / spread) / 2))


def _just_below(counts: ScoreCounts, index: int) -> float:
    """Give a threshold between a bin and the bin below, so close to the bin that it practically equals its score."""
    lowest = counts.lower[index]
    below = counts.upper[index - 1] if index else -np.inf
    scale = counts.upper[-1] - counts.lower[0] or abs(lowest) or 1.0
    return _below_as_float(lowest, lowest - min(MARGIN * scale, (lowest - below) / 2))


def _below_as_float(lowest: float, threshold: float) -> float:
    """Keep a threshold below a score in single precision, in which scores are compared."""
    return float(min(threshold, np.nextafter(np.float32(lowest), np.float32(-np.inf))))
