"""Thresholding: the score above which an image or a pixel is anomalous."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from anomalib_tiled.stages.curves import f1_scores

if TYPE_CHECKING:
    from anomalib_tiled.stages.distribution import ScoreCounts, ScoreDistribution

MARGIN = 1e-5
"""Distance from the threshold to the lowest score above it, as a fraction of the range of scores."""


class Thresholder(ABC):
    """The score above which an image or pixel is anomalous. What equals the threshold is normal, as in anomalib."""

    @abstractmethod
    def learn(self, scores: ScoreDistribution) -> float:
        """Find the threshold.

        Args:
            scores: Distribution of validation scores, higher is more anomalous.

        Returns:
            The threshold, on the scale of the scores.
        """


class F1AdaptiveThreshold(Thresholder):
    """Threshold with the highest F1 score on the validation images.

    Without anomalous scores, it is the highest normal score, so that no validation image is called anomalous;
    without normal scores, just below the lowest one.
    """

    def learn(self, scores: ScoreDistribution) -> float:
        """Compare all thresholds between validation scores."""
        if not scores.has_anomalous:
            return scores.maximum
        counts = scores.counts()
        best = int(np.argmax(f1_scores(counts))) if scores.has_normal else 0
        return _just_below(counts, best)


class ManualThreshold(Thresholder):
    """Threshold that you give.

    Args:
        value: Score above which is anomalous, on the scale that scores have where the threshold is applied: that of
            the model, or [0, 1] where tiles are normalized and images thresholded.
    """

    def __init__(self, value: float) -> None:
        self.value = value

    def learn(self, scores: ScoreDistribution) -> float:
        """Return the value given."""
        del scores
        return self.value


def _just_below(counts: ScoreCounts, index: int) -> float:
    """Give a threshold that parts the bin from the one below, so near that it is the bin's score for all purposes."""
    lowest = counts.lower[index]
    below = counts.upper[index - 1] if index else -np.inf
    scale = counts.upper[-1] - counts.lower[0] or abs(lowest) or 1.0
    threshold = lowest - min(MARGIN * scale, (lowest - below) / 2)
    # Scores are compared in single precision, where the threshold must not be rounded up to the lowest score itself.
    return float(min(threshold, np.nextafter(np.float32(lowest), np.float32(-np.inf))))
