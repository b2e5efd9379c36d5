"""Normalization: from scores on the model's scale to scores between 0 and 1, the threshold at 0.5."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch

from anomalib_tiled.stages.distribution import ScoreDistribution
from anomalib_tiled.stages.normals import deviation, quantile_of_counts


class Normalizer(ABC):
    """How scores are scaled to the range 0 to 1, with the threshold at 0.5.

    A normalizer learns plain numbers, and needs only these to normalize.
    One object is used for the image scores and anomaly maps of all tiles, so it must not keep what it learned.
    """

    @abstractmethod
    def learn(self, scores: ScoreDistribution, threshold: float) -> dict[str, float]:
        """Learn from validation scores.

        Args:
            scores: Distribution of scores, higher is more anomalous.
            threshold: Scores above it are anomalous.

        Returns:
            Numbers for ``apply``, by name; saved with the run.
        """

    @abstractmethod
    def apply(self, scores: torch.Tensor, learned: Mapping[str, float]) -> torch.Tensor:
        """Normalize scores.

        Args:
            scores: Scores or maps of any shape.
            learned: Numbers that ``learn`` returned.

        Returns:
            Scores in [0, 1] of the same shape; the threshold lands at 0.5 and the order is kept.
        """


class MinMax(Normalizer):
    """The range of the validation scores becomes one unit, the threshold moves to 0.5, and the rest is cut off.

    The formula of anomalib's ``PostProcessor``: clip((score - threshold) / (maximum - minimum) + 0.5, 0, 1).
    """

    def learn(self, scores: ScoreDistribution, threshold: float) -> dict[str, float]:
        """Keep the lowest and the highest score."""
        return {"minimum": scores.minimum, "maximum": scores.maximum, "threshold": threshold}

    def apply(self, scores: torch.Tensor, learned: Mapping[str, float]) -> torch.Tensor:
        """Scale, move and cut off."""
        span = learned["maximum"] - learned["minimum"]
        distance = scores - learned["threshold"]
        if span == 0:
            return _above_or_below(distance)
        return (distance / span + 0.5).clamp(0, 1)


class Quantile(Normalizer):
    """Linear from a low quantile of the normal scores up to the threshold at 0.5, then ever flatter towards 1.

    A few outliers among the validation images do not matter, and neither do anomalous images: only quantiles of the
    normal scores and the threshold do. With w from the lower quantile to the threshold, or to the upper quantile if
    that is higher, and d = (score - threshold) / w, it is max(0.5 + d / 2, 0) up to the threshold and
    1 - 1 / (2 + 2d) above; the slopes meet. So 0.75 is as far above the threshold as normal scores reach below, and
    no score is cut off at 1, unlike with MinMax. EfficientAD scales its maps by quantiles of normal pixels in a similar
    way (Batzner, Heckler, König, WACV 2024).

    Args:
        lower: Quantile of the normal scores that becomes 0, from 0 up to but not including ``upper``.
        upper: Quantile of the normal scores that gives the scale where the threshold lies below it, at most 1.
    """

    def __init__(self, lower: float = 0.05, upper: float = 0.95) -> None:
        if not 0 <= lower < upper <= 1:
            message = f"Quantile needs 0 <= lower < upper <= 1, got lower {lower} and upper {upper}."
            raise ValueError(message)
        self.lower = lower
        self.upper = upper

    def learn(self, scores: ScoreDistribution, threshold: float) -> dict[str, float]:
        """Keep both quantiles."""
        counts = scores.counts()
        lower, upper = (quantile_of_counts(counts, quantile) for quantile in (self.lower, self.upper))
        return {"lower": lower, "upper": upper, "threshold": threshold}

    def apply(self, scores: torch.Tensor, learned: Mapping[str, float]) -> torch.Tensor:
        """Scale and move, then flatten above the threshold."""
        width = max(learned["threshold"], learned["upper"]) - learned["lower"]
        distance = scores - learned["threshold"]
        if width == 0:
            return _above_or_below(distance)
        distance = distance / width
        above = 1 - 0.5 / (1 + distance.clamp(min=0))
        return torch.where(distance > 0, above, (0.5 + 0.5 * distance).clamp(min=0))


class Standardize(Normalizer):
    """Distance from the threshold in standard deviations of the normal scores, through a distribution function.

    With d = (score - threshold) / standard deviation it is Phi(asinh(d)), Phi that of the normal distribution. One
    standard deviation above the threshold gives 0.81, below it 0.19. Near the threshold this is Phi(d), the standard
    score shifted; but Phi alone is 1 from 5.4 standard deviations on in single precision, and defects lie farther out.
    With asinh in between, order is kept beyond a hundred of them. It is the distribution function of Johnson's S_U law
    ("Systems of frequency curves generated by methods of translation", Biometrika 36, 1949). Use it to compare scores
    of tiles or models that differ in scale.
    """

    def learn(self, scores: ScoreDistribution, threshold: float) -> dict[str, float]:
        """Keep the standard deviation of the normal scores."""
        return {"deviation": deviation(scores.counts()), "threshold": threshold}

    def apply(self, scores: torch.Tensor, learned: Mapping[str, float]) -> torch.Tensor:
        """Move, scale, and apply the distribution function."""
        distance = scores - learned["threshold"]
        if learned["deviation"] == 0:
            return _above_or_below(distance)
        squashed = torch.asinh(distance / learned["deviation"])
        return torch.erf(squashed / math.sqrt(2)).mul(0.5).add(0.5)


def _above_or_below(distance: torch.Tensor) -> torch.Tensor:
    """Give 0 below, 0.5 at and 1 above the threshold, for validation scores that are all equal."""
    return torch.sign(distance).mul(0.5).add(0.5)
