"""The upper tail of few scores: a generalized Pareto distribution fitted to the scores above a high quantile.

For nearly every distribution of scores, their excesses over a high level nearly follow this distribution: the
theorem of Pickands (1975), Balkema and de Haan (1974). Coles, "An Introduction to Statistical Modeling of Extreme
Values" (2001), chapter 4, is the textbook; Siffer et al., "Anomaly Detection in Streams with Extreme Value Theory"
(KDD 2017), takes thresholds from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

FEWEST_EXCESSES = 10
"""Fewer excesses cannot describe a tail."""

FEWEST_SCORES = 2 * FEWEST_EXCESSES
"""With fewer scores, most of them would be in the tail."""

FEWEST_FOR_ANY_SHAPE = 100
"""With fewer excesses a fitted tail often ends right above the highest one, so the false-positive rate is far off."""

HEAVIEST = 0.5
"""Highest shape that is accepted for few excesses: from here on the variance is infinite."""


@dataclass(frozen=True)
class Tail:
    """The distribution of scores above a level.

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
        """Give the score that is exceeded with a probability of at most that of the level.

        Args:
            rate: The probability, above 0.
        """
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
