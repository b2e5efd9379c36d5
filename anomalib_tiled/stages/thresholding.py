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
from anomalib_tiled.stages.distribution import ExactScores, Floats, ScoreCounts, ScoreDistribution
from anomalib_tiled.stages.gaps import between, just_below, note_on_gap, widest_gap
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

ROUNDING = 1e-9
"""In floating point, a quantile of 0.9 gives a rate of slightly less than 0.1."""

TIED = 1e-9
"""Costs that differ by less, as a fraction, differ by rounding."""

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
            return just_below(counts, 0)
        if self.at == "lowest_anomalous":
            return just_below(counts, int(np.argmax(f1_scores(counts))))
        return between(counts, _widest_best(counts))

    def notes(self, scores: ScoreDistribution) -> Sequence[str]:
        """Say that no validation image is anomalous, or how wide the gap around the threshold is."""
        if not scores.has_anomalous:
            where = "just above " if self.at == "middle" else ""
            return (f"No validation image is anomalous: the threshold is {where}the highest normal score.",)
        if self.at == "middle" and scores.has_normal:
            return note_on_gap(counts := scores.counts(), _widest_best(counts), "F1 score")
        return ()


class CostThreshold(Thresholder):
    """Threshold with the least expected cost of an image on the line.

    An image costs prevalence × miss × miss rate + (1 - prevalence) × false_alarm × false alarm rate. The rates are
    those of the validation images: the share of the anomalous ones that are not above the threshold, and the share of
    the normal ones that are. So how many of the validation images are anomalous does not matter, only how many on the
    line are; Provost and Fawcett, "Robust Classification for Imprecise Environments" (Machine Learning 42, 2001). Only
    the ratio of both costs counts. For anomaly maps the rates are those of pixels, for tiles those of tiles.

    Within a gap between scores, and among gaps of the same cost, the threshold is chosen as by ``F1AdaptiveThreshold``.
    Where it is cheapest to call no image anomalous, it is just above the highest score; where it is cheapest to call
    every image anomalous, just below the lowest.

    Without anomalous scores there is no miss rate: it is just above the highest normal score then, so that no
    validation image is anomalous; without normal scores, just below the lowest score.

    Args:
        miss: Cost of an anomalous image that counts as normal, in any unit; above 0.
        false_alarm: Cost of a normal image that counts as anomalous, in the same unit; above 0.
        prevalence: Share of the images on the line that are anomalous, between 0 and 1.
    """

    def __init__(self, miss: float, false_alarm: float, prevalence: float) -> None:
        for name, value in {"miss": miss, "false_alarm": false_alarm}.items():
            if not (math.isfinite(value) and value > 0):
                message = f"CostThreshold needs a cost above 0 as {name}, got {value}."
                raise ValueError(message)
        if not 0 < prevalence < 1:
            message = f"CostThreshold needs a prevalence between 0 and 1, got {prevalence}."
            raise ValueError(message)
        self.miss = miss
        self.false_alarm = false_alarm
        self.prevalence = prevalence

    def learn(self, scores: ScoreDistribution) -> float:
        """Compare all thresholds between validation scores, and those above and below all of them."""
        counts = scores.counts()
        if not scores.has_anomalous or (index := self._cheapest(counts)) == len(counts.lower):
            return scores.maximum + scores.margin
        return between(counts, index)

    def notes(self, scores: ScoreDistribution) -> Sequence[str]:
        """Give the expected cost and both rates, and say how sure these are."""
        if not scores.has_anomalous:
            note = (
                "No validation image is anomalous, so how many images are missed is unknown: the threshold is just "
                "above the highest normal score."
            )
            return (note,)
        if not scores.has_normal:
            return _notes_on_few(0, 0, extrapolated=False)
        counts = scores.counts()
        index = self._cheapest(counts)
        return (self._expected(counts, index), *note_on_gap(counts, index, "expected cost"))

    def _cheapest(self, counts: ScoreCounts) -> int:
        """Give the lowest bin that counts as anomalous, for the least cost; the number of bins if none does."""
        costs = self._costs(counts)
        return widest_gap(counts, np.flatnonzero(costs <= costs.min() * (1 + TIED)))

    def _costs(self, counts: ScoreCounts) -> Floats:
        """Expected cost if all scores from a bin upwards count as anomalous, and if none does, shape (bins + 1,)."""
        missed, passed = (_share_below(each) for each in (counts.anomalous, counts.normal))
        costs: Floats = self.prevalence * self.miss * missed + (1 - self.prevalence) * self.false_alarm * (1 - passed)
        return costs

    def _expected(self, counts: ScoreCounts, index: int) -> str:
        missed = _rate(counts.anomalous[:index].sum(), counts.anomalous.sum())
        alarms = _rate(counts.normal[index:].sum(), counts.normal.sum())
        extreme = {0: "every image", len(counts.lower): "no image"}
        cheapest = f" It is cheapest to call {extreme[index]} anomalous." if index in extreme else ""
        return (
            f"Expected cost of an image: {self._costs(counts)[index]:.4g}, at a prevalence of {self.prevalence:g}; "
            f"more for new images, because the threshold was learned from these. {missed} anomalous validation images "
            f"are missed, {alarms} normal ones are false alarms; in brackets: with 95 % confidence.{cheapest}"
        )


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
            return just_below(scores.counts(), 0)
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
            return just_below(scores.counts(), 0)
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


def _widest_best(counts: ScoreCounts) -> int:
    """Give the lowest bin that counts as anomalous, for the highest F1 score."""
    f1 = f1_scores(counts)
    return widest_gap(counts, np.flatnonzero(f1 == f1.max()))


def _share_below(counts: Floats) -> Floats:
    """Share of the counts in the bins below each bin, and in all bins, shape (bins + 1,); 0 if there are none."""
    below = np.concatenate([[0.0], np.cumsum(counts)])
    shares: Floats = below / max(below[-1], 1)
    return shares


def _rate(number: float, total: float) -> str:
    """Give a number of images, and the interval of their share, that of Clopper and Pearson."""
    from scipy.stats import binomtest

    interval = binomtest(int(number), int(total)).proportion_ci()
    return f"{number:.0f} of {total:.0f} ({100 * interval.low:.2g} to {100 * interval.high:.2g} %)"
