"""A threshold from normal scores alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from anomalib_tiled import Thresholder
from anomalib_tiled.stages.distribution import ScoreDistribution

Floats = NDArray[np.float64]

NORMAL_CONSISTENT = 1 / norm.ppf(0.75)
"""Standard deviation of a normal distribution as a multiple of its median absolute deviation: 1.4826."""


class MedianDeviation(Thresholder):
    """Median of the normal scores plus some of their deviations; needs no defect to learn from.

    The deviation is 1.4826 × the median distance from the median: the standard deviation, if scores are normally
    distributed. Unlike the standard deviation, it hardly moves when a few images are labelled normal by mistake.
    Leys et al., "Detecting outliers: Do not use standard deviation around the mean, use absolute deviation around
    the median", Journal of Experimental Social Psychology 49 (2013). Without normal scores, the threshold is the
    lowest score.

    Args:
        deviations: How many deviations above the median is anomalous; more of them give fewer alarms.
    """

    def __init__(self, deviations: float = 3.5) -> None:
        if deviations <= 0:
            message = f"MedianDeviation needs a positive number of deviations, got {deviations}."
            raise ValueError(message)
        self.deviations = deviations

    def learn(self, scores: ScoreDistribution) -> float:
        """Take the median, and the median distance from it."""
        if not scores.has_normal:
            return scores.minimum
        counts = scores.counts()
        middles = (counts.lower + counts.upper) / 2
        median = _median(middles, counts.normal)
        deviation = NORMAL_CONSISTENT * _median(np.abs(middles - median), counts.normal)
        return median + self.deviations * float(deviation)


def _median(values: Floats, counts: Floats) -> float:
    """Give the median of values that occur more than once; the mean of the two in the middle if they differ."""
    order = np.argsort(values)
    values, ranks = values[order], np.cumsum(counts[order])
    middle = [np.searchsorted(ranks, ranks[-1] / 2, side) for side in ("left", "right")]
    return float(values[middle].mean())
