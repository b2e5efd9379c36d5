"""Statistics of the normal scores: quantiles, standard deviation, upper tail."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from anomalib_tiled.stages.distribution import Floats, ScoreCounts, ScoreDistribution

FEWEST_EXCESSES = 10
"""Fewer excesses cannot describe a tail."""

FEWEST_SCORES = 2 * FEWEST_EXCESSES
"""With fewer scores, most of them would be in the tail."""

FEWEST_FOR_ANY_SHAPE = 100
"""With fewer excesses a fitted tail often ends right above the highest one, so the false-positive rate is far off."""

HEAVIEST = 0.5
"""Highest shape that is accepted for few excesses: from here on the variance is infinite."""


def clear_of_rounding(threshold: float, scores: Floats, margin: float) -> float:
    """Move a threshold away from scores that rounding could move across it.

    It stays between the same two neighbouring scores, and moves at most to the middle between them.

    Args:
        threshold: The threshold; a score that equals it counts as below.
        scores: Ascending, at least one, shape (scores,).
        margin: How far rounding may move a score.
    """
    index = int(np.searchsorted(scores, threshold, side="right"))
    below = float(scores[index - 1]) if index else -math.inf
    above = float(scores[index]) if index < len(scores) else math.inf
    least = min(margin, (above - below) / 2)
    return min(max(threshold, below + least), above - least)


def peaks_of(scores: ScoreDistribution) -> Floats:
    """Give the highest score of each normal image, ascending, shape (normal images,).

    If every image has anomalous scores, there is one peak: the highest normal score; without any, the lowest score.
    """
    peaks = np.sort(scores.peaks)
    if peaks.size:
        return peaks
    return np.array([scores.maximum_normal if scores.has_normal else scores.minimum])


def quantile_of_images(scores: ScoreDistribution, quantile: float) -> float:
    """Estimate the score that a new normal image stays below with a given probability, clear of rounding.

    The k-th lowest of n peaks is exceeded by a new one with probability 1 - k / (n + 1) for any distribution.
    So the quantile is read at k = quantile × (n + 1), interpolated linearly between neighbours: type 6 of Hyndman and
    Fan, "Sample Quantiles in Statistical Packages", The American Statistician 50 (1996). For k > n it is the highest
    peak.
    """
    peaks = peaks_of(scores)
    return clear_of_rounding(float(np.quantile(peaks, quantile, method="weibull")), peaks, scores.margin)


def quantile_of_counts(counts: ScoreCounts, quantile: float) -> float:
    """Give the highest score of the bin that holds a quantile of the normal scores; of all, if none is normal."""
    weights = _weights(counts)
    reached = np.cumsum(weights)
    # The first bin where the share is reached; rounding must not move it past the last bin that holds a score.
    index = int(np.searchsorted(reached, min(quantile * reached[-1], reached[-1])))
    return float(counts.upper[max(index, int(np.flatnonzero(weights)[0]))])


def deviation(counts: ScoreCounts) -> float:
    """Give the standard deviation of the normal scores, or of all scores if none is normal."""
    middle, weights = (counts.lower + counts.upper) / 2, _weights(counts)
    mean = np.average(middle, weights=weights)
    return math.sqrt(np.average((middle - mean) ** 2, weights=weights))


def _weights(counts: ScoreCounts) -> Floats:
    return counts.normal if counts.normal.any() else counts.anomalous


@dataclass(frozen=True)
class Tail:
    """The distribution of few scores above a high level: a generalized Pareto distribution.

    For nearly every distribution of scores, their excesses over a high level nearly follow this distribution: the
    theorem of Pickands (1975), Balkema and de Haan (1974). Coles, "An Introduction to Statistical Modeling of Extreme
    Values" (2001), chapter 4, is the textbook; Siffer et al., "Anomaly Detection in Streams with Extreme Value Theory"
    (KDD 2017), takes thresholds from it.

    Args:
        level: Score above which the tail begins.
        rate: Probability that a score exceeds the level.
        shape: Below 0 the tail ends, at 0 it falls like an exponential, above 0 like a power; xi or gamma in books.
        scale: Scale of the excesses, on the scale of the scores; sigma in books.
    """

    level: float
    rate: float
    shape: float
    scale: float

    @classmethod
    def fit(cls, scores: Floats, share: float) -> Tail | None:
        """Fit a tail by maximum likelihood.

        Excesses over the level, each at least 0, are divided by their mean, so that the fit does not depend on units.

        Args:
            scores: Ascending, shape (scores,).
            share: Share of the scores to fit to, but at least ``FEWEST_EXCESSES``.

        Returns:
            The tail; ``None`` if there are too few scores, they are tied, or no fit is found.
        """
        if len(scores) < FEWEST_SCORES:
            return None
        count = min(max(FEWEST_EXCESSES, round(share * len(scores))), len(scores) - 1)
        level = float(scores[-count - 1])
        excesses = scores[-count:] - level
        unit = float(excesses.mean())
        if len(np.unique(excesses[excesses > 0])) < FEWEST_EXCESSES or not math.isfinite(unit):
            return None
        fitted = _fit(excesses / unit)
        if fitted is None:
            return None
        shape, scale = fitted
        return cls(level, count / (len(scores) + 1), shape, unit * scale)

    def threshold(self, rate: float) -> float:
        """Give the score that is exceeded with a probability above 0 and of at most that of the level."""
        from scipy.stats import genpareto

        return self.level + float(genpareto.isf(min(1.0, rate / self.rate), self.shape, scale=self.scale))


def _fit(excesses: Floats) -> tuple[float, float] | None:
    """Fit shape and scale; ``None`` if none has a finite likelihood."""
    from scipy.stats import FitError, genpareto

    few = len(excesses) < FEWEST_FOR_ANY_SHAPE
    with np.errstate(all="ignore"):  # the search also tries invalid values
        try:
            shape, _, scale = genpareto.fit(excesses, floc=0)
            if few and not 0 <= shape <= HEAVIEST:
                shape, _, scale = genpareto.fit(excesses, fc=min(max(shape, 0.0), HEAVIEST), floc=0)
        except FitError:
            return None
        likelihood = genpareto.logpdf(excesses, shape, scale=scale).sum()
    return (float(shape), float(scale)) if scale > 0 and math.isfinite(likelihood) else None
