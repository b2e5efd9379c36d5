"""How many false alarms to expect of the threshold of images, as numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
"""Confidence level of the interval."""

ALARMING = 0.1
"""A note warns where even the low end of the interval is higher."""

MOST = 0.5
"""A threshold with a higher rate calls most normal images anomalous."""


@dataclass(frozen=True)
class FalseAlarms:
    """Share of new normal images that will be called anomalous.

    It is estimated by cross-validation: for each normal validation image, the threshold is learned without it. The
    interval is that of Clopper and Pearson ("The Use of Confidence or Fiducial Limits", Biometrika 26, 1934), as if the
    images had been judged independently. They are not: any two of the thresholds are learned from nearly the same
    images.

    Args:
        rate: Share of the normal validation images that are called anomalous.
        low: Low end of the 95 % confidence interval.
        high: High end of the interval.
        images: Number of normal validation images.
    """

    rate: float
    low: float
    high: float
    images: int

    @classmethod
    def of(cls, called: NDArray[np.bool_]) -> FalseAlarms:
        """Estimate them.

        Args:
            called: Which normal validation images are called anomalous, shape (images,), at least one.
        """
        from scipy.stats import binomtest

        interval = binomtest(int(called.sum()), len(called)).proportion_ci(CONFIDENCE, method="exact")
        return cls(float(called.mean()), float(interval.low), float(interval.high), len(called))

    def __str__(self) -> str:
        """Give a line for every reader of the results."""
        return (
            f"False alarms to expect: {_percent(self.rate)} % of new normal images, between {_percent(self.low)} and "
            f"{_percent(self.high)} % (from {self._called} of {self.images} normal validation images)."
        )

    def note(self, *, on_test: bool = False) -> str | None:
        """Warn if they are many; ``None`` if they are few, or may be few.

        Args:
            on_test: Whether the validation images are the test images.
        """
        if self.low <= ALARMING:
            return None
        which = " (they are test images)" if on_test else ""
        useless = " The threshold does not separate normal from anomalous images." if self.rate > MOST else ""
        return (
            f"Of {self.images} normal validation images{which}, {self._called} are called anomalous by a threshold "
            f"that was learned without them: expect {_percent(self.low)} to {_percent(self.high)} % of new normal "
            f"images to be called anomalous.{useless}"
        )

    @property
    def _called(self) -> int:
        return round(self.rate * self.images)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"
