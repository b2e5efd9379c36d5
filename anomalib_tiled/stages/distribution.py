"""Distributions of scores, from which calibration and metrics are computed without keeping millions of pixels.

Normal and anomalous scores are counted separately, in bins. The bins adapt to the range of the scores so far, so the
range need not be known in advance, and one pass is enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anomalib_tiled.stages.bins import Bins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

IMAGE_BITS = 19
"""The range of the scores of whole images is cut into at most 2^19 bins."""

TILE_BITS = 17
"""The range of the scores of a tile is cut into at most 2^17 bins: all tiles have their counts in memory at once."""

FINE_TILES = 64
"""With more tiles, each has fewer bins, so that all counts together take no more memory than those of 64 tiles."""

LEAST_TILE_BITS = 12
"""Every tile has at least 2^12 bins."""

ROUNDING = 2.0**-11.5
"""How far rounding may move a score, as a fraction of it: the square root of the resolution of single precision.

A distance that is computed as the root of x² - 2xy + y² is as inexact as that where x and y differ by a hundredth.
"""

UNKNOWN = 0.1
"""How far scores may move that do not vary on the validation images, as a fraction of them: their spread is unknown."""

AT_ONCE = 2**16
"""Scores that are counted together: few enough for the cache of the processor."""


def tile_bits(tiles: int) -> int:
    """Give the number of bins for the scores of a tile, as a power of two.

    Args:
        tiles: Number of tiles that have their counts in memory at once.
    """
    return max(LEAST_TILE_BITS, TILE_BITS - math.ceil(math.log2(max(1, tiles / FINE_TILES))))


@dataclass(frozen=True)
class ScoreCounts:
    """Counts of scores in ascending order of score, from which curves and thresholds are computed.

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
    """Counts of normal and anomalous scores per bin, with the exact lowest and highest score.

    Memory does not grow with the number of scores: 16 bytes for each of at most 2^19 bins in the range of the scores,
    and of 2^11 bins for each power of two near zero; 8 bytes more if there are regions.
    The highest score of each normal image is kept too: pixels of one image depend on one another, so the share of
    anomalous images does not follow from the share of anomalous pixels.

    Args:
        bits: The range of the scores is cut into at most 2 to the power of ``bits`` bins.
    """

    def __init__(self, bits: int = IMAGE_BITS) -> None:
        self.bits = bits
        self.minimum = float("inf")
        self.maximum = float("-inf")
        self.maximum_normal = float("-inf")
        self.given_rounding: float | None = None
        self._peaks: list[NDArray[np.float32]] = []
        self._bins = Bins.for_range(0, 0, bits)
        self._first = 0
        self._counts: Floats = np.zeros(
            (2, 0)
        )  # rows: all scores, anomalous scores, weights of regions if there are any

    @property
    def peaks(self) -> Floats:
        """Highest score of each image without anomalous scores, in the order of ``add``, shape (images,)."""
        return np.concatenate([np.zeros(0), *self._peaks])

    @property
    def rounding(self) -> float:
        """How far rounding alone may move a normal score, for example if images are predicted in other batch sizes.

        A fraction of the highest scores of images, unless ``given_rounding`` is set, as for scores that are normalized
        already.
        """
        return ROUNDING * self._level if self.given_rounding is None else self.given_rounding

    @property
    def margin(self) -> float:
        """Distance above the highest normal score within which scores still count as normal.

        The rounding; or a tenth of the scores if normal images do not differ by more than the rounding.
        """
        differ = self.peaks.size and np.ptp(self.peaks) > self.rounding
        return self.rounding if differ else max(UNKNOWN * self._level, self.rounding)

    @property
    def empty(self) -> bool:
        """Whether no score was added yet."""
        return self._counts.size == 0

    @property
    def has_normal(self) -> bool:
        """Whether a normal score was added."""
        return bool(np.any(self._counts[0] > self._counts[1]))

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
            anomalous: Which scores are anomalous, same shape.
            regions: For anomalous pixels 1 / size of their region, else 0, same shape; for AUPRO only.
        """
        if scores.size == 0:
            return
        flat, mask = np.ascontiguousarray(scores, dtype=np.float32).ravel(), np.ravel(anomalous)
        self.minimum = min(self.minimum, float(flat.min()))
        self.maximum = max(self.maximum, float(flat.max()))
        self.maximum_normal = max(self.maximum_normal, float(flat.max(where=~mask, initial=-np.inf)))
        self._peaks.append(_peaks(flat.reshape(len(scores), -1), mask.reshape(len(scores), -1)))
        self._make_room(2 if regions is None else 3)
        for start in range(0, flat.size, AT_ONCE):
            part = slice(start, start + AT_ONCE)
            self._count(flat[part], mask[part], None if regions is None else np.ravel(regions)[part])

    def counts(self) -> ScoreCounts:
        """Give the bins that hold at least one score, in ascending order of score."""
        filled = np.flatnonzero(self._counts[0])
        bins = filled + self._first
        lower = np.maximum(self._bins.lowest(bins), self.minimum)
        upper = np.minimum(np.nextafter(self._bins.lowest(bins + 1), -np.inf, dtype=np.float32), self.maximum)
        every, anomalous, *regions = self._counts[:, filled]
        return ScoreCounts(
            lower=lower.astype(np.float64),
            upper=upper.astype(np.float64),
            normal=every - anomalous,
            anomalous=anomalous,
            regions=regions[0] if regions else np.zeros(len(filled)),
        )

    def with_normal_scores_of(self, other: ScoreDistribution, shift: float) -> ScoreDistribution:
        """Join the anomalous scores of this distribution with the normal scores of another distribution.

        Args:
            other: A distribution with normal scores and the same number of bits.
            shift: Added to the normal scores.
        """
        own, others = self.counts(), other.counts()
        upper = np.minimum(others.upper, other.maximum_normal) + shift
        values = np.concatenate([own.lower, upper]).astype(np.float32)
        anomalous = np.concatenate([own.anomalous, np.zeros(len(others.normal))])
        weights = anomalous + np.concatenate([np.zeros(len(own.normal)), others.normal])
        values, anomalous, weights = values[weights > 0], anomalous[weights > 0], weights[weights > 0]
        result = ScoreDistribution(self.bits)
        result.minimum, result.maximum = float(values.min()), float(values.max())
        result.maximum_normal = float(values[weights > anomalous].max())
        result._peaks = [(other.peaks + shift).astype(np.float32)]
        result._make_room(2)
        bins = result._bins.of(values) - result._first
        for row, counted in enumerate((weights, anomalous)):
            np.add.at(result._counts[row], bins, counted)
        return result

    @property
    def _level(self) -> float:
        return float(np.abs([self.maximum_normal, *self.peaks]).max())

    def _count(self, scores: NDArray[np.float32], anomalous: NDArray[np.bool_], regions: Floats | None) -> None:
        bins = self._bins.of(scores)
        bins -= self._first
        np.add.at(self._counts[0], bins, 1.0)  # unlike that of bincount, its time does not grow with the bins
        bins = bins[anomalous]
        np.add.at(self._counts[1], bins, 1.0)
        if regions is not None:
            np.add.at(self._counts[2], bins, regions[anomalous])

    def _make_room(self, rows: int) -> None:
        """Extend the counts from the lowest to the highest score, with bins for that range."""
        bins = Bins.for_range(self.minimum, self.maximum, self.bits)
        first, last = bins.of(np.array([self.minimum, self.maximum], np.float32)).tolist()
        rows, length = max(rows, len(self._counts)), last - first + 1
        if (bins, rows, length) == (self._bins, *self._counts.shape):
            return
        counts: Floats = np.zeros((rows, length))
        filled = np.flatnonzero(self._counts[0])
        places = bins.of(self._bins.lowest(filled + self._first)) - first
        for row, old in enumerate(self._counts):
            counts[row] = np.bincount(places, weights=old[filled], minlength=length)
        self._bins, self._first, self._counts = bins, first, counts


class ExactScores(ScoreDistribution):
    """A distribution that keeps every score, for image scores, which are few."""

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
            anomalous: Which scores are anomalous, same shape.
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
        scores, mask = self._all()
        values, inverse = np.unique(scores.astype(np.float64), return_inverse=True)
        total = np.bincount(inverse, minlength=len(values)).astype(np.float64)
        positive = np.bincount(inverse[mask], minlength=len(values)).astype(np.float64)
        return ScoreCounts(values, values, total - positive, positive, np.zeros(len(values)))

    def with_normal_scores_of(self, other: ScoreDistribution, shift: float) -> ExactScores:
        """Join the anomalous scores of this distribution with the normal scores of another distribution."""
        scores, mask = self._all()
        result, normal = ExactScores(), (other.peaks + shift).astype(np.float32)
        result.add(scores[mask], np.ones(int(mask.sum()), bool))
        result.add(normal, np.zeros(len(normal), bool))
        return result

    def _all(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Give every score, and whether it is anomalous."""
        return np.concatenate(self._scores), np.concatenate(self._anomalous)


def _peaks(scores: NDArray[np.float32], anomalous: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Give the highest score of each image without anomalous scores; both arguments of shape (images, scores)."""
    highest: NDArray[np.float32] = scores[~anomalous.any(axis=1)].max(axis=1)
    return highest
