"""Normalization: from scores on the model's scale to scores between 0 and 1, the threshold at 0.5."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomalib_tiled.stages.distribution import ScoreDistribution


class Normalizer(ABC):
    """How scores are brought to the range 0 to 1, the threshold at 0.5.

    What is learned is plain numbers, and applying them needs nothing else.
    One object serves image scores and anomaly maps, of all tiles, so it must not keep what it learned.
    """

    @abstractmethod
    def learn(self, scores: ScoreDistribution, threshold: float) -> dict[str, float]:
        """Learn from validation scores.

        Args:
            scores: Distribution of scores, higher is more anomalous.
            threshold: Score above which is anomalous.

        Returns:
            What ``apply`` needs, by name; saved with the run.
        """

    @abstractmethod
    def apply(self, scores: torch.Tensor, learned: Mapping[str, float]) -> torch.Tensor:
        """Normalize scores.

        Args:
            scores: Scores or maps of any shape.
            learned: What ``learn`` returned.

        Returns:
            Scores in [0, 1] of the same shape; the threshold lands at 0.5 and the order is kept.
        """


class MinMax(Normalizer):
    """Lowest to highest validation score is one unit, the threshold is moved to 0.5, the rest is cut off.

    The formula of anomalib's ``PostProcessor``: clip((score - threshold) / (maximum - minimum) + 0.5, 0, 1).
    """

    def learn(self, scores: ScoreDistribution, threshold: float) -> dict[str, float]:
        """Keep the lowest and the highest score."""
        return {"minimum": scores.minimum, "maximum": scores.maximum, "threshold": threshold}

    def apply(self, scores: torch.Tensor, learned: Mapping[str, float]) -> torch.Tensor:
        """Scale, move and cut off."""
        span = learned["maximum"] - learned["minimum"]
        distance = scores - learned["threshold"]
        if span == 0:  # one single validation score: above or below is all that can be said
            return torch.sign(distance).mul(0.5).add(0.5)
        return (distance / span + 0.5).clamp(0, 1)
