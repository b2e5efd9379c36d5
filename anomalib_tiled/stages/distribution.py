"""Distributions of scores, from which calibration and metrics are computed without keeping millions of pixels.

Normal and anomalous scores are counted separately, in bins: ranges of floats, fine enough for the range of the scores
and for those near zero. They adapt to the range of the scores so far, so the range need not be known in advance, and
one pass is enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing_extensions import Self

Integers = NDArray[np.int64]
Singles = NDArray[np.float32]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

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

MOST_IGNORED_BITS = 12
"""Bits of the mantissa's 23 that a bin ignores at most: its width is then a 2^11th of its scores."""

MANTISSA_BITS = np.uint32(23)
MANTISSA = np.uint32(0x007F_FFFF)
SIGN_BIT = np.uint32(0x8000_0000)

OCTAVES = 512
"""Exponents of negative floats, highest first, then those of positive ones."""

LOWEST_EXPONENT = -126
"""Exponent of the smallest normal floats; subnormal floats share it."""


def tile_bits(tiles: int) -> int:
    """Give the bits for the scores of a tile, if so many tiles have their counts in memory at once."""
    return max(LEAST_TILE_BITS, TILE_BITS - math.ceil(math.log2(max(1, tiles / FINE_TILES))))


@dataclass(frozen=True)
class Bins:
    """How floats are cut into bins, numbered so that a higher float never has a lower bin.

    A float32 has an exponent and 23 bits of mantissa; read as an integer of 32 bits, negative ones inverted, higher
    floats are higher integers. Floats of one exponent, an octave, are cut into 2^23, 2^22, 2^21, ... bins by ignoring
    trailing bits of the mantissa. How many are ignored is different from octave to octave:

        ──┬────┬────┬────┬──┬──┬──┬─┬─┬┬┬┬┬|┬┬┬┬┬─┬─┬──┬──┬──┬────┬────┬────┬──
          one width, a fraction of the range  0     narrower near zero: the score / 2^11

    So no bin is wider than a given fraction of the range of the scores, and none wider than a 2^11th of its scores.
    When the range grows, bins become twice as wide: each is the union of old ones then, and nothing has to be counted
    again.

    Args:
        width_exponent: Bins are 2 to the power of this wide, where that is neither too wide near zero, nor narrower
            than floats can tell apart.
    """

    width_exponent: int

    @classmethod
    def for_range(cls, minimum: float, maximum: float, bits: int) -> Bins:
        """Give the bins for scores between two numbers.

        Args:
            minimum: Lowest score.
            maximum: Highest score.
            bits: The range is cut into at least 2 to the power of ``bits`` - 1, and at most 2 to the power of ``bits``
                bins of one width.
        """
        return cls(math.frexp(maximum - minimum)[1] - bits if maximum > minimum else LOWEST_EXPONENT * 2)

    def of(self, scores: Singles) -> Integers:
        """Give the bin of each score."""
        bits = (scores + np.float32(0)).view(np.uint32)  # adding zero turns -0.0 into 0.0
        ordered = np.where(bits & SIGN_BIT, ~bits, bits | SIGN_BIT)
        octaves = ordered >> MANTISSA_BITS
        ordered &= MANTISSA
        ordered >>= self._ignored[octaves]
        first: Integers = self._first[octaves]
        return first + ordered

    def lowest(self, bins: Integers) -> Singles:
        """Give the lowest float of each bin."""
        octaves = np.searchsorted(self._first, bins, side="right") - 1
        mantissas = (bins - self._first[octaves]) << self._ignored[octaves]
        ordered = (octaves << np.int64(MANTISSA_BITS)) + mantissas
        bits = ordered.astype(np.uint32)
        return np.where(bits & SIGN_BIT, bits & ~SIGN_BIT, ~bits).view(np.float32)

    @cached_property
    def _ignored(self) -> NDArray[np.uint32]:
        """Trailing bits of the mantissa that the bins of each octave ignore."""
        half = OCTAVES // 2
        exponents = np.maximum(np.arange(half) - 1, 0) + LOWEST_EXPONENT
        ignored = np.clip(self.width_exponent - exponents + int(MANTISSA_BITS), 0, MOST_IGNORED_BITS)
        return np.concatenate([ignored[::-1], ignored]).astype(np.uint32)

    @cached_property
    def _first(self) -> Integers:
        """First bin of each octave."""
        numbers = np.int64(1) << (np.int64(MANTISSA_BITS) - self._ignored.astype(np.int64))
        first: Integers = np.cumsum(numbers) - numbers
        return first


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
        self.has_anomalous = False
        self.given_rounding: float | None = None
        self._peaks: list[Singles] = []
        self._bins = Bins.for_range(0, 0, bits)
        self._first = 0
        self._counts: Floats = np.zeros((2, 0))  # all scores, anomalous ones, weights of regions if there are any

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
        return self.minimum > self.maximum

    @property
    def has_normal(self) -> bool:
        """Whether a normal score was added."""
        return self.maximum_normal > float("-inf")

    def add(self, scores: Singles, anomalous: Flags, regions: Floats | None = None) -> None:
        """Count scores.

        Args:
            scores: Finite scores, higher is more anomalous, shape (images, ...).
            anomalous: Which scores are anomalous, same shape.
            regions: For anomalous pixels 1 / size of their region, else 0, same shape; for AUPRO only.
        """
        if scores.size == 0:
            return
        flat, mask = np.ascontiguousarray(scores, dtype=np.float32).ravel(), np.ravel(anomalous)
        self._observe(flat.reshape(len(scores), -1), mask.reshape(len(scores), -1))
        self._make_room(2 if regions is None else 3)
        for start in range(0, flat.size, AT_ONCE):
            part = slice(start, start + AT_ONCE)
            self._count(flat[part], mask[part], None if regions is None else np.ravel(regions)[part])

    def merge(self, other: Self) -> None:
        """Add the scores of a distribution of the same bits, as if they had been added here, after all others.

        Counts and peaks are those of one pass over all scores, to the last bit. Only the weights of regions are sums of
        fractions: their last digits depend on which scores were counted together, so the same parts must be merged in
        the same order.

        Args:
            other: Scores of other images, or of other parts of images; stays unchanged.
        """
        if other.empty:
            return
        first = self.empty
        self._observe_extremes(other)
        if first:
            self._bins, self._first, self._counts = other._bins, other._first, other._counts.copy()
            return
        self._make_room(len(other._counts))
        filled = np.flatnonzero(other._counts[0])
        places = self._bins.of(other._bins.lowest(filled + other._first)) - self._first
        for row, counted in enumerate(other._counts):
            np.add.at(self._counts[row], places, counted[filled])

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
        """Join the anomalous scores of this distribution with the shifted normal scores of another one of its bits."""
        own, others = self.counts(), other.counts()
        upper = np.minimum(others.upper, other.maximum_normal) + shift
        values = np.concatenate([own.lower, upper]).astype(np.float32)
        anomalous = np.concatenate([own.anomalous, np.zeros(len(others.normal))])
        weights = anomalous + np.concatenate([np.zeros(len(own.normal)), others.normal])
        values, anomalous, weights = values[weights > 0], anomalous[weights > 0], weights[weights > 0]
        result = ScoreDistribution(self.bits)
        result.minimum, result.maximum = float(values.min()), float(values.max())
        result.maximum_normal = float(values[weights > anomalous].max())
        result.has_anomalous = self.has_anomalous
        result._peaks = [(other.peaks + shift).astype(np.float32)]
        result._make_room(2)
        bins = result._bins.of(values) - result._first
        for row, counted in enumerate((weights, anomalous)):
            np.add.at(result._counts[row], bins, counted)
        return result

    def __getstate__(self) -> dict[str, object]:
        """Pickle the filled bins only, in the shortest integers: few of those near zero are filled."""
        filled = np.flatnonzero(self._counts[0])
        rows = [_shortest(row[filled]) for row in self._counts]
        counts = (self._counts.shape, _shortest(np.diff(filled, prepend=0)), rows)
        return {**vars(self), "_peaks": [self.peaks.astype(np.float32)], "_counts": counts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle the bins."""
        shape, steps, rows = state.pop("_counts")
        vars(self).update(state)
        self._counts = np.zeros(shape)
        self._counts[:, np.cumsum(steps, dtype=np.int64)] = rows

    @property
    def _level(self) -> float:
        return float(np.abs([self.maximum_normal, *self.peaks]).max())

    def _observe(self, scores: Singles, anomalous: Flags) -> None:
        """Note the lowest and highest scores; both arguments of shape (images, scores)."""
        self.minimum = min(self.minimum, float(scores.min()))
        self.maximum = max(self.maximum, float(scores.max()))
        self.maximum_normal = max(self.maximum_normal, float(scores.max(where=~anomalous, initial=-np.inf)))
        self.has_anomalous |= bool(anomalous.any())
        self._peaks.append(scores[~anomalous.any(axis=1)].max(axis=1))

    def _observe_extremes(self, other: ScoreDistribution) -> None:
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        self.maximum_normal = max(self.maximum_normal, other.maximum_normal)
        self.has_anomalous |= other.has_anomalous
        self._peaks += other._peaks

    def _count(self, scores: Singles, anomalous: Flags, regions: Floats | None) -> None:
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
        self._scores: list[Singles] = []
        self._anomalous: list[Flags] = []

    def add(self, scores: Singles, anomalous: Flags, regions: Floats | None = None) -> None:
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
        self._observe(flat[:, None], mask[:, None])
        self._scores.append(flat)
        self._anomalous.append(mask)

    @property
    def values(self) -> Singles:
        """Every score, in the order of ``add``, shape (scores,)."""
        return self._all()[0]

    def part(self, chosen: Flags) -> ExactScores:
        """Give the distribution of some of the scores.

        Args:
            chosen: Which of ``values``, shape (scores,).
        """
        scores, mask = self._all()
        result = ExactScores()
        result.add(scores[chosen], mask[chosen])
        result.given_rounding = self.given_rounding
        return result

    def merge(self, other: Self) -> None:
        """Add the scores of another distribution that keeps every score.

        Args:
            other: Scores of other images; stays unchanged.
        """
        scores, mask = other._all()
        if scores.size:
            self._observe_extremes(other)
            self._scores.append(scores)
            self._anomalous.append(mask)

    def counts(self) -> ScoreCounts:
        """Give one bin for each distinct score, in ascending order of score."""
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

    def __getstate__(self) -> dict[str, object]:
        """Pickle the scores of all batches as one array."""
        scores, anomalous = self._all()
        return {**super().__getstate__(), "_scores": [scores], "_anomalous": [anomalous]}

    def _all(self) -> tuple[Singles, Flags]:
        """Give every score, and whether it is anomalous."""
        scores = np.concatenate([np.zeros(0, np.float32), *self._scores])
        return scores, np.concatenate([np.zeros(0, bool), *self._anomalous])


def _shortest(numbers: Floats | Integers) -> NDArray[np.generic]:
    """Convert whole numbers, none of them negative, to the shortest integers that hold them; keep fractions."""
    whole = numbers.astype(np.uint64)
    return whole.astype(np.min_scalar_type(whole.max(initial=0))) if np.array_equal(whole, numbers) else numbers
