"""Compares new images with the normal images that a run was calibrated with: which quantity has moved, and when.

    all images, and windows of images that follow each other
      -> a two-sample test of each quantity, corrected for the number of tests      can it be chance?
      -> stability index, and how far the quartiles have moved                      does it matter?
      -> the image where it began

The chance of a false alarm is shared equally by the kinds of quantities: a light that fades is found as fast with ten
thousand tiles as with one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

from anomalib_tiled.drift.change import Change, Period, Quartiles
from anomalib_tiled.drift.predicted import APPEARANCE, quantities_of
from anomalib_tiled.drift.statistics import holm, p_values, stability_index

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from anomalib_tiled.drift.predicted import PredictedNumbers, Quantity
    from anomalib_tiled.runs.drift_reference import DriftReference

    Numbers = NDArray[np.float64]
    Flags = NDArray[np.bool_]

FALSE_ALARMS = 0.002
"""Chance that a check of undisturbed images finds that something has moved, at most."""

LEAST_INDEX = 0.2
"""Stability index that a quantity exceeds if it has moved."""

FEWEST = 5
"""Fewest images that can be compared, and fewest images of a window."""

USUAL_WINDOW = 50
"""Images of a window, unless there are many."""

MOST_WINDOWS = 200
"""Number of windows, from which they become larger instead."""

CLEAR = 4.0
"""Standard deviations of a sum of ranks, from which a change inside a window is told from chance."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """New images beside a reference.

    Args:
        reference: The normal images that the run was calibrated with, at least `FEWEST`. If these are training images,
            only how images look is tested: models know these images, so scores of any others are higher.
        images: The new images, at least as many.
        windows: Windows of the new images, as `windows_of` gives them.
    """

    reference: DriftReference
    images: PredictedNumbers
    windows: Sequence[slice]

    @cached_property
    def quantities(self) -> tuple[Quantity, ...]:
        """What is compared: all that some image of the reference and some new image has."""
        return tuple(
            quantity
            for (quantity, known), new in zip(quantities_of(self.reference).items(), self.images.values.T, strict=True)
            if not (np.isnan(known).all() or np.isnan(new).all())
        )

    @cached_property
    def known(self) -> Numbers:
        """Numbers of the reference, shape (images, quantities)."""
        numbers = quantities_of(self.reference)
        return np.stack([numbers[each] for each in self.quantities], axis=1)

    @cached_property
    def new(self) -> Numbers:
        """Numbers of the new images, shape (new images, quantities)."""
        places = {quantity: place for place, quantity in enumerate(quantities_of(self.reference))}
        return self.images.values[:, [places[each] for each in self.quantities]]

    @cached_property
    def moved(self) -> Flags:
        """Which quantities have moved in which span, shape (quantities, spans): in each window, then in all images."""
        values = np.stack([p_values(self.known, self.new[span]) for span in self._spans], axis=1)
        kinds = np.array([each.kind for each in self.quantities])
        tested = set(kinds) if self.reference.subset == "val" else {APPEARANCE}
        moved = np.zeros(values.shape, np.bool_)
        for kind in tested:
            moved[kinds == kind] = holm(values[kinds == kind]) <= FALSE_ALARMS / len(tested)
        for number, place in zip(*np.nonzero(moved), strict=True):
            change = self._change(number, self._spans[place])
            moved[number, place] = change.matters and change.stability_index > LEAST_INDEX
        return moved

    def changes(self) -> list[Change]:
        """Give how each quantity compares with the reference."""
        return [self._change(number, *self._period(number)) for number in range(len(self.quantities))]

    @property
    def _spans(self) -> Sequence[slice]:
        """Give the windows, and all images together unless there is only one window."""
        return self.windows if len(self.windows) == 1 else [*self.windows, slice(0, len(self.images.paths))]

    def _change(self, number: int, span: slice, period: Period | None = None) -> Change:
        known, new = self.known[:, number, None], self.new[span, number, None]
        return Change(
            self.quantities[number],
            Quartiles.of(known),
            Quartiles.of(new),
            stability_index(known[~np.isnan(known)], new[~np.isnan(new)]),
            float(p_values(known, new)[0]),
            period,
        )

    def _period(self, number: int) -> tuple[slice, Period | None]:
        """Say in which images a quantity has moved."""
        everything = slice(0, len(self.images.paths))
        in_windows = np.flatnonzero(self.moved[number, : len(self.windows)])
        if not self.moved[number].any():
            return everything, None
        if not len(in_windows):
            return everything, Period(0, everything.stop, is_clear=False)
        first, last = self.windows[in_windows[0]], self.windows[in_windows[-1]]
        before = self.windows[max(in_windows[0] - 1, 0)]
        start = before.start + _beginning(self.new[before.start : first.stop, number], first.start - before.start)
        return slice(start, last.stop), Period(start, last.stop)


def windows_of(images: int, window: int | None = None) -> list[slice]:
    """Divide images that follow each other into windows; less than half a window in the end belongs to the last.

    Args:
        images: How many there are.
        window: Images of a window; ``None`` to choose.
    """
    each = window or max(USUAL_WINDOW, -(-images // MOST_WINDOWS))
    number = max(1, (images + each // 2) // each)
    return [slice(place * each, images if place == number - 1 else (place + 1) * each) for place in range(number)]


def _beginning(numbers: Numbers, otherwise: int) -> int:
    """Find the image where numbers change: their ranks before and behind it differ the most.

    Args:
        numbers: Of images that follow each other.
        otherwise: Its position if no image stands out.
    """
    known = np.flatnonzero(~np.isnan(numbers))
    ranks, before = rankdata(numbers[known]), np.arange(1, len(known))
    if not len(before):
        return otherwise
    behind = len(known) - before
    usual = np.sqrt(before * behind * (len(known) + 1) / 12)
    apart = np.abs(np.cumsum(ranks)[:-1] - before * (len(known) + 1) / 2) / usual
    best = int(apart.argmax())
    return int(known[best + 1]) if apart[best] >= CLEAR else otherwise
