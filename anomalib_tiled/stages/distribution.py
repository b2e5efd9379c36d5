"""Distributions of scores: what calibration and metrics need to know of millions of pixels.

Scores are counted in bins, normal and anomalous ones apart. A bin is a range of floats that share the leading
bits of their ordered bit pattern, so the bins are fine near zero and coarse far away, with the same relative
width everywhere; no range has to be known beforehand, and one pass is enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

DROPPED_BITS = 12
"""Of the 32 bits of a float, the trailing ones that a bin ignores: 2^20 bins, relative width 2^-11."""

OCTAVE_BITS = 11
"""Of the bits of a bin, the trailing ones that tell scores of one octave (1 to 2, 2 to 4, ...) apart."""

SIGN_BIT = np.uint32(0x8000_0000)


@dataclass(frozen=True)
class ScoreCounts:
    """Counts of scores in ascending order of score, the form that curves and thresholds are computed from.

    Args:
        lower: Lowest score of each bin, ascending, shape (bins,).
        upper: Highest score of each bin, shape (bins,).
        normal: Number of normal scores in each bin, shape (bins,).
        anomalous: Number of anomalous scores in each bin, shape (bins,).
        regions: Sum over the anomalous pixels in each bin of 1 / size of their region, shape (bins,).
    """

    lower: Floats
    upper: Floats
    normal: Floats
    anomalous: Floats
    regions: Floats


class ScoreDistribution:
    """Counts of scores per bin, normal and anomalous apart, with the exact lowest and highest score.

    Memory grows with the octaves that scores lie in, never with the number of scores: 8 bytes × 3 for each of the 2^11
    bins of an octave. There are 2^9 octaves, but scores around zero lie in a few dozen of them.
    Of each normal image the highest score is kept as well: pixels of one image depend on one another, so how many
    images would be called anomalous cannot be told from how many pixels would.
    """

    def __init__(self) -> None:
        self.minimum = float("inf")
        self.maximum = float("-inf")
        self.maximum_normal = float("-inf")
        self._peaks: list[NDArray[np.float32]] = []
        self._octaves: Integers = np.zeros(0, dtype=np.int64)
        self._counts: Floats = np.zeros((3, 0))

    @property
    def peaks(self) -> Floats:
        """Highest score of each image without any anomalous score, in the order in which they came, shape (images,)."""
        return np.concatenate([np.zeros(0), *self._peaks])

    @property
    def empty(self) -> bool:
        """Whether no score was added yet."""
        return self._counts.size == 0

    @property
    def has_normal(self) -> bool:
        """Whether a normal score was added."""
        return bool(np.any(self._counts[0]))

    @property
    def has_anomalous(self) -> bool:
        """Whether an anomalous score was added."""
        return bool(np.any(self._counts[1]))

    def add(
        self, scores: NDArray[np.float32], anomalous: NDArray[np.bool_], regions: NDArray[np.float64] | None = None
    ) -> None:
        """Count scores.

        Args:
            scores: Finite scores, higher is more anomalous, shape (images, ...).
            anomalous: Which of them are anomalous, same shape.
            regions: For anomalous pixels 1 / size of their region, else 0, same shape; for AUPRO only.
        """
        if scores.size == 0:
            return
        flat, mask = np.ascontiguousarray(scores, dtype=np.float32).ravel(), np.ravel(anomalous)
        self.minimum = min(self.minimum, float(flat.min()))
        self.maximum = max(self.maximum, float(flat.max()))
        self.maximum_normal = max(self.maximum_normal, float(flat.max(where=~mask, initial=-np.inf)))
        self._peaks.append(_peaks(flat.reshape(len(scores), -1), mask.reshape(len(scores), -1)))
        bins = _bin_of(flat)
        bins = self._columns(bins)
        total = np.bincount(bins, minlength=self._counts.shape[1])
        positive = np.bincount(bins[mask], minlength=self._counts.shape[1])
        self._counts[0] += total - positive
        self._counts[1] += positive
        if regions is not None and mask.any():
            weights = np.ravel(regions)[mask]
            self._counts[2] += np.bincount(bins[mask], weights=weights, minlength=self._counts.shape[1])

    def counts(self) -> ScoreCounts:
        """Give the bins that hold at least one score, in ascending order of score."""
        filled = np.flatnonzero(self._counts[0] + self._counts[1])
        bins = (self._octaves[filled >> OCTAVE_BITS] << OCTAVE_BITS) + (filled & (2**OCTAVE_BITS - 1))
        ascending = np.argsort(bins)
        filled, bins = filled[ascending], bins[ascending]
        lower = np.maximum(_lowest_of(bins), self.minimum)
        upper = np.minimum(np.nextafter(_lowest_of(bins + 1), -np.inf, dtype=np.float32), self.maximum)
        normal, anomalous, regions = self._counts[:, filled]
        return ScoreCounts(lower, upper.astype(np.float64), normal, anomalous, regions)

    def _columns(self, bins: Integers) -> Integers:
        """Give the columns of the counts that belong to bins, and make room for octaves that are new."""
        octaves = bins >> OCTAVE_BITS
        seen = np.flatnonzero(np.bincount(octaves))
        new = np.setdiff1d(seen, self._octaves)
        self._octaves = np.concatenate([self._octaves, new])
        self._counts = np.pad(self._counts, ((0, 0), (0, len(new) << OCTAVE_BITS)))
        place = np.zeros(self._octaves.max() + 1, dtype=np.int64)
        place[self._octaves] = np.arange(len(self._octaves))
        columns: Integers = (place[octaves] << OCTAVE_BITS) + (bins & (2**OCTAVE_BITS - 1))
        return columns


class ExactScores(ScoreDistribution):
    """A distribution that keeps every score: for image scores, of which there are few."""

    def __init__(self) -> None:
        super().__init__()
        self._scores: list[NDArray[np.float32]] = []
        self._anomalous: list[NDArray[np.bool_]] = []

    @property
    def empty(self) -> bool:
        """Whether no score was added yet."""
        return not self._scores

    @property
    def has_normal(self) -> bool:
        """Whether a normal score was added."""
        return any((~anomalous).any() for anomalous in self._anomalous)

    @property
    def has_anomalous(self) -> bool:
        """Whether an anomalous score was added."""
        return any(anomalous.any() for anomalous in self._anomalous)

    def add(
        self, scores: NDArray[np.float32], anomalous: NDArray[np.bool_], regions: NDArray[np.float64] | None = None
    ) -> None:
        """Keep scores.

        Args:
            scores: Finite scores, higher is more anomalous, one for each image, any shape.
            anomalous: Which of them are anomalous, same shape.
            regions: Not used: an image score belongs to no region.
        """
        del regions
        if scores.size == 0:
            return
        flat, mask = np.asarray(scores, dtype=np.float32).ravel(), np.asarray(anomalous, dtype=bool).ravel()
        self._scores.append(flat)
        self._anomalous.append(mask)
        self._peaks.append(flat[~mask])
        self.minimum = min(self.minimum, float(flat.min()))
        self.maximum = max(self.maximum, float(flat.max()))
        self.maximum_normal = max(self.maximum_normal, float(flat.max(where=~mask, initial=-np.inf)))

    def counts(self) -> ScoreCounts:
        """Give one bin for each distinct score, in ascending order of score."""
        if self.empty:
            nothing: Floats = np.zeros(0)
            return ScoreCounts(nothing, nothing, nothing, nothing, nothing)
        values, inverse = np.unique(np.concatenate(self._scores).astype(np.float64), return_inverse=True)
        mask = np.concatenate(self._anomalous)
        total = np.bincount(inverse, minlength=len(values)).astype(np.float64)
        positive = np.bincount(inverse[mask], minlength=len(values)).astype(np.float64)
        return ScoreCounts(values, values, total - positive, positive, np.zeros(len(values)))


def _peaks(scores: NDArray[np.float32], anomalous: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Give the highest score of each image without an anomalous one; both arguments of shape (images, scores)."""
    highest: NDArray[np.float32] = scores[~anomalous.any(axis=1)].max(axis=1)
    return highest


def _bin_of(scores: NDArray[np.float32]) -> Integers:
    """Map floats to bins so that a higher float never has a lower bin."""
    bits = (scores + np.float32(0)).view(np.uint32)  # adding zero turns -0.0 into 0.0
    ordered = np.where(bits & SIGN_BIT, ~bits, bits | SIGN_BIT)
    return (ordered >> np.uint32(DROPPED_BITS)).astype(np.int64)


def _lowest_of(bins: Integers) -> NDArray[np.float32]:
    """Give the lowest float of each bin."""
    ordered = (bins.astype(np.uint64) << np.uint64(DROPPED_BITS)).astype(np.uint32)
    bits = np.where(ordered & SIGN_BIT, ordered & ~SIGN_BIT, ~ordered)
    return bits.astype(np.uint32).view(np.float32)
