"""How a quantity of new images compares with the reference, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomalib_tiled.drift.predicted import Quantity

SHARE = 0.02
"""Smallest change of a quartile that matters, as a fraction of the reference's median: models hardly notice less."""

LEAST = {"shift_x": 0.5, "shift_y": 0.5, "rotation": 0.1}
"""The same in pixels or degrees, of which 0 is a usual value."""

OPPOSED = 0.25
"""Share of the largest change of a quartile, from which the opposite change of another one counts."""


@dataclass(frozen=True)
class Quartiles:
    """Where the middle half of some numbers lies.

    Args:
        low: A quarter is lower.
        median: Half are lower.
        high: A quarter is higher.
    """

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, numbers: NDArray[np.float64]) -> Quartiles:
        """Compute them; at least one number must not be NaN."""
        return cls(*np.nanquantile(numbers, (0.25, 0.5, 0.75)).tolist())


@dataclass(frozen=True)
class Period:
    """Images in which a quantity has moved, by their positions.

    Args:
        first: The first.
        end: Behind the last.
        is_clear: Whether it is known where it began: not if only all images together show it.
    """

    first: int
    end: int
    is_clear: bool = True


@dataclass(frozen=True)
class Change:
    """How a quantity of new images compares with the reference.

    Args:
        quantity: The quantity.
        reference: Of the reference.
        new: Of the images of the period, if there is one, else of all new images.
        stability_index: As `stability_index` gives it, of the same images.
        p_value: Of a two-sample test with the same images, before it is corrected for the number of tests.
        period: When it has moved; ``None`` if it has not.
    """

    quantity: Quantity
    reference: Quartiles
    new: Quartiles
    stability_index: float
    p_value: float
    period: Period | None = None

    @property
    def strength(self) -> float:
        """How far a quartile has moved at most, as a multiple of what is usual among images of the reference."""
        least = least_change(self.quantity, self.reference.median)
        usual = max(self.reference.high - self.reference.low, least)
        return self._farthest / usual if usual else self._farthest

    @property
    def matters(self) -> bool:
        """Whether a quartile has moved so far that models may notice."""
        return self._farthest > least_change(self.quantity, self.reference.median)

    @property
    def direction(self) -> int:
        """1 if the numbers have risen, -1 if they have fallen, 0 if the middle half has become wider or narrower."""
        low, _, high = differences = self._differences
        smaller = min(abs(low), abs(high))
        return 0 if low * high < 0 and smaller > OPPOSED * self._farthest else int(np.sign(sum(differences)))

    @property
    def _farthest(self) -> float:
        return max(map(abs, self._differences))

    @property
    def _differences(self) -> tuple[float, ...]:
        before, after = vars(self.reference).values(), vars(self.new).values()
        return tuple(new - known for known, new in zip(before, after, strict=True))


def least_change(quantity: Quantity, median: float) -> float:
    """Give the change of a quartile that does not matter yet.

    Args:
        quantity: The quantity.
        median: Median of the reference.
    """
    return LEAST.get(quantity.name if quantity.kind == "appearance" else "", SHARE * abs(median))
