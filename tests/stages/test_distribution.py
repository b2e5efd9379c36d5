from __future__ import annotations

import pickle
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from anomalib_tiled.stages.distribution import (
    FINE_TILES,
    LEAST_TILE_BITS,
    TILE_BITS,
    Bins,
    ExactScores,
    ScoreDistribution,
    tile_bits,
)

RANDOM = np.random.default_rng(0)
SPREAD = (RANDOM.normal(size=4000) * 10.0 ** RANDOM.integers(-6, 7, size=4000)).astype(np.float32)
BOTH = pytest.mark.parametrize("kind", [ScoreDistribution, ExactScores])


def distribution(kind: type[ScoreDistribution], scores: object, anomalous: object = None) -> ScoreDistribution:
    result = kind()
    scores = np.asarray(scores, dtype=np.float32)
    result.add(scores, np.zeros(scores.shape, dtype=bool) if anomalous is None else np.asarray(anomalous, dtype=bool))
    return result


def sent(scores: ScoreDistribution) -> ScoreDistribution:
    """The same distribution in another process."""
    received: ScoreDistribution = pickle.loads(pickle.dumps(scores))  # noqa: S301  # from this process
    return received


@BOTH
def test_counts_are_those_of_numpy(kind: type[ScoreDistribution]) -> None:
    anomalous = RANDOM.random(SPREAD.shape) < 0.3
    counts = distribution(kind, SPREAD, anomalous).counts()
    edges = np.append(counts.lower, np.inf)
    np.testing.assert_array_equal(counts.normal, np.histogram(SPREAD[~anomalous], edges)[0])
    np.testing.assert_array_equal(counts.anomalous, np.histogram(SPREAD[anomalous], edges)[0])
    positions = np.searchsorted(counts.lower, SPREAD, side="right") - 1
    assert (counts.upper[positions] >= SPREAD).all()


def test_more_tiles_take_no_more_memory_than_some() -> None:
    scores, normal = np.linspace(5, 50, 2**18, dtype=np.float32)[None], np.zeros((1, 2**18), bool)

    def bins(tiles: int) -> int:
        distribution = ScoreDistribution(tile_bits(tiles))
        distribution.add(scores, normal)
        return distribution.counts().lower.size

    assert tile_bits(1) == tile_bits(FINE_TILES) == TILE_BITS
    assert [tiles * bins(tiles) <= FINE_TILES * 2**TILE_BITS for tiles in (1, 65, 256, 961)] == [True] * 4
    assert bins(100_000) > 2 ** (LEAST_TILE_BITS - 1)


@BOTH
def test_lowest_and_highest_are_exact(kind: type[ScoreDistribution]) -> None:
    scores = distribution(kind, [0.1, 0.7, 0.3], [False, True, False])
    assert (scores.minimum, scores.maximum) == (np.float32(0.1), np.float32(0.7))
    assert scores.maximum_normal == np.float32(0.3)
    counts = scores.counts()
    assert (counts.lower[0], counts.upper[-1]) == (np.float32(0.1), np.float32(0.7))


@BOTH
def test_adding_in_parts_and_in_any_order_is_adding_at_once(kind: type[ScoreDistribution]) -> None:
    whole, pieces = distribution(kind, SPREAD), kind()
    for part in np.array_split(SPREAD, 7)[::-1]:
        pieces.add(part, np.zeros(part.shape, dtype=bool))
    for name in ("lower", "upper", "normal", "anomalous"):
        np.testing.assert_array_equal(getattr(whole.counts(), name), getattr(pieces.counts(), name))


def masks_and_regions(parts: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Scores of images of 8 pixels in parts of their own range; every third image has anomalous pixels."""
    for part, images in enumerate(np.array_split(SPREAD.reshape(-1, 8), parts)):
        anomalous = np.zeros(images.shape, bool)
        anomalous[::3, :4] = True
        yield images * np.float32(10.0**part), anomalous, anomalous / 4


@BOTH
@pytest.mark.parametrize("shards", [1, 2, 5])
def test_merged_distributions_are_those_of_one_pass(kind: type[ScoreDistribution], shards: int) -> None:
    whole, merged, parts = kind(), kind(), [*masks_and_regions(10)]
    if kind is ExactScores:
        parts = [(scores[:, 0], anomalous[:, 0], regions[:, 0]) for scores, anomalous, regions in parts]
    for part in parts:
        whole.add(*part)
    for batches in np.array_split(np.arange(10), shards):
        shard = kind()
        for batch in batches:
            shard.add(*parts[batch])
        merged.merge(sent(shard))
    merged.merge(kind())
    for field, expected in vars(whole.counts()).items():
        np.testing.assert_array_equal(getattr(merged.counts(), field), expected, err_msg=field)
    np.testing.assert_array_equal(merged.peaks, whole.peaks)
    for name in ("minimum", "maximum", "maximum_normal", "has_anomalous", "rounding", "margin"):
        assert getattr(merged, name) == getattr(whole, name), name


def test_weights_of_regions_are_merged_through_pickles_as_without() -> None:
    def merged(*, pickled: bool) -> ScoreDistribution:
        result = ScoreDistribution(LEAST_TILE_BITS)
        for seed in range(3):
            random, shard = np.random.default_rng(seed), ScoreDistribution(LEAST_TILE_BITS)
            scores = random.random((2, 50), np.float32) * np.float32(3**seed)
            shard.add(scores, np.ones(scores.shape, bool), np.full(scores.shape, 1 / (3 + seed)))
            result.merge(sent(shard) if pickled else shard)
        return result

    weights = merged(pickled=True).counts().regions
    assert weights.tolist() == merged(pickled=False).counts().regions.tolist()
    assert weights.sum() == pytest.approx(100 / 3 + 100 / 4 + 100 / 5)


@BOTH
def test_a_pickle_is_small_and_complete(kind: type[ScoreDistribution]) -> None:
    scores = np.linspace(5, 50, 2**19, dtype=np.float32).reshape(8, -1)
    before = distribution(kind, scores[:, :1] if kind is ExactScores else scores)
    needed = 3.5 * before.counts().lower.size + 1000
    assert len(pickle.dumps(before)) < needed, "a byte for the step to the next bin, and two counts"
    after = sent(before)
    for copy in (before, after):
        copy.add(np.array([1e-3, 1e3], np.float32), np.array([False, True]))
    for field, expected in vars(before.counts()).items():
        np.testing.assert_array_equal(getattr(after.counts(), field), expected, err_msg=field)


def test_an_empty_distribution_survives_pickling() -> None:
    empty = sent(ScoreDistribution())
    assert empty.empty
    empty.add(np.ones(1, np.float32), np.zeros(1, bool))
    assert empty.counts().normal.tolist() == [1]


def test_the_range_grows_to_either_side() -> None:
    scores = distribution(ScoreDistribution, [1.0])
    for value in (5.0, -3.0, 1e30, 2.0):
        scores.add(np.full(2, value, np.float32), np.array([True, False]))
    counts = scores.counts()
    assert counts.normal.tolist() == [1, 1, 1, 1, 1]
    assert counts.anomalous.tolist() == [1, 0, 1, 1, 1]
    assert [score > 0 for score in counts.lower] == [False, True, True, True, True]


def test_extremes_of_the_numbers() -> None:
    limits = np.finfo(np.float32)
    values = np.array([limits.min, -limits.smallest_subnormal, limits.smallest_subnormal, limits.max], np.float32)
    counts = distribution(ScoreDistribution, values).counts()
    assert counts.normal.tolist() == [1, 1, 1, 1]
    assert np.isfinite(counts.upper).all()


def test_memory_depends_on_the_range_not_on_the_number() -> None:
    few, many = (
        distribution(ScoreDistribution, [0.5, 1.0]),
        distribution(ScoreDistribution, np.linspace(0.5, 1, 100000)),
    )
    assert few._counts.nbytes == many._counts.nbytes


def test_counts_stay_when_the_range_grows_and_regions_come_later() -> None:
    scores = ScoreDistribution()
    for value, region in ((0.5, None), (0.5, 0.25), (1e6, 0.5), (-1e6, 1.0)):
        regions = None if region is None else np.array([9.0, region])  # a normal pixel has no region
        scores.add(np.array([value, value], np.float32), np.array([False, True]), regions)
    counts = scores.counts()
    assert counts.normal.tolist() == [1, 2, 1]
    assert counts.anomalous.tolist() == [1, 2, 1]
    assert counts.regions.tolist() == [1.0, 0.25, 0.5]


@BOTH
def test_which_classes_are_there(kind: type[ScoreDistribution]) -> None:
    for anomalous in ([], [True], [False], [False, True]):
        scores = distribution(kind, np.ones(len(anomalous)), anomalous)
        assert scores.empty == (not anomalous)
        assert (scores.has_normal, scores.has_anomalous) == (False in anomalous, True in anomalous)
        assert scores.counts().lower.size == bool(anomalous)


def test_peaks_are_the_highest_scores_of_images_without_anything_anomalous() -> None:
    scores = ScoreDistribution()
    masks = np.zeros((3, 2, 2), bool)
    masks[1, 0, 0] = True
    scores.add(np.array([[[1, 9], [3, 4]], [[5, 6], [7, 8]], [[2, 2], [2, 2]]], np.float32), masks)
    scores.add(np.full((1, 2, 2), -1, np.float32), np.zeros((1, 2, 2), bool))
    assert scores.peaks.tolist() == [9, 2, -1]


@BOTH
def test_of_scores_of_images_each_normal_one_is_a_peak(kind: type[ScoreDistribution]) -> None:
    assert distribution(kind, [3, 1, 2], [False, True, False]).peaks.tolist() == [3, 2]
    assert kind().peaks.tolist() == []


def test_exact_scores_keep_what_bins_cannot_part() -> None:
    near: NDArray[np.float32] = np.array([0.0, 1.0, np.nextafter(np.float32(1), np.float32(2))], np.float32)
    assert distribution(ExactScores, near).counts().lower.tolist() == near.tolist()
    assert distribution(ScoreDistribution, near).counts().normal.tolist() == [1, 2]


LIMITS = np.finfo(np.float32)
WIDE = np.sort((RANDOM.normal(size=4000) * 10.0 ** RANDOM.integers(-40, 30, size=4000)).astype(np.float32))
RANGES = {
    "0 to 1": (0.0, 1.0),
    "around zero": (-3.0, 5.0),
    "far from zero": (1000.0, 1001.0),
    "negative": (-1.0, -1e-20),
    "one score": (7.0, 7.0),
    "tiny": (0.0, float(LIMITS.smallest_subnormal)),
    "all floats": (float(LIMITS.min), float(LIMITS.max)),
}


def between(minimum: float, maximum: float) -> np.ndarray:
    """Floats of a range in ascending order, near zero too."""
    near_zero = WIDE[(minimum <= WIDE) & (maximum >= WIDE)]
    even = np.linspace(minimum, maximum, 5000).astype(np.float32)
    return np.sort(np.concatenate([near_zero, even, np.array([minimum, maximum], np.float32)]))


@pytest.mark.parametrize(("minimum", "maximum"), RANGES.values(), ids=RANGES)
def test_bins_are_in_order_narrow_and_few(minimum: float, maximum: float) -> None:
    bins, scores = Bins.for_range(minimum, maximum, 17), between(minimum, maximum)
    numbers = bins.of(scores)
    assert (np.diff(numbers) >= 0).all()
    assert (bins.lowest(numbers) <= scores).all()
    assert (bins.lowest(numbers + 1) > scores).all()
    np.testing.assert_array_equal(bins.of(bins.lowest(numbers)), numbers)
    lowest = bins.lowest(numbers).astype(np.float64)
    highest = np.nextafter(bins.lowest(numbers + 1), -np.inf, dtype=np.float32).astype(np.float64)
    assert (highest - lowest <= (maximum - minimum) / 2**16).all()
    of_the_scores = np.maximum(np.abs(lowest), np.abs(highest)) / 2**11
    assert (highest - lowest <= of_the_scores + 2.0**-137).all(), "the last term is for floats that are not normal"
    powers_of_two_near_zero = 2 * 254
    assert numbers[-1] - numbers[0] < 2**17 + powers_of_two_near_zero * 2**11


def test_when_the_range_grows_bins_are_unions_of_the_bins_before() -> None:
    scores = between(-2, 3)
    before = Bins.for_range(-2, 3, 17).of(scores)
    for maximum in (3.5, 7.9, 8.1, 1e10):
        after = Bins.for_range(-2, maximum, 17).of(scores)
        assert (np.diff(after)[np.diff(before) == 0] == 0).all()


def test_where_floats_themselves_are_coarse_each_has_a_bin() -> None:
    scores = np.arange(2**24, 2**24 + 200, 2, dtype=np.float32)
    assert np.diff(Bins.for_range(scores[0], scores[-1], 17).of(scores)).tolist() == [1] * 99


def test_zero_has_no_sign() -> None:
    bins = Bins.for_range(-1, 1, 17)
    assert bins.of(np.array([-0.0], np.float32)) == bins.of(np.array([0.0], np.float32))
