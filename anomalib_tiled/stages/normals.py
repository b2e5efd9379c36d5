"""Statistics of the normal scores, for threshold rules that need no anomalous images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomalib_tiled.stages.distribution import ScoreCounts, ScoreDistribution

    Floats = NDArray[np.float64]


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


def quantile_of_peaks(peaks: Floats, quantile: float) -> float:
    """Estimate the score that a new image stays below with a given probability.

    The k-th lowest of n scores is exceeded by a new one with probability 1 - k / (n + 1) for any distribution.
    So the quantile is read at k = quantile × (n + 1), interpolated linearly between neighbours: type 6 of Hyndman and
    Fan, "Sample Quantiles in Statistical Packages", The American Statistician 50 (1996). For k > n it is the highest
    score.

    Args:
        peaks: One score for each image, shape (images,).
        quantile: Between 0 and 1.
    """
    return float(np.quantile(peaks, quantile, method="weibull"))


def quantile_of_counts(counts: ScoreCounts, quantile: float) -> float:
    """Give the highest score of the bin that holds a quantile of the normal scores, or of all scores if none is normal.

    Args:
        counts: Counts of at least one score.
        quantile: Between 0 and 1.
    """
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
