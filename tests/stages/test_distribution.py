from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from anomalib_tiled.stages.distribution import (
    FINE_TILES,
    IMAGE_BITS,
    LEAST_TILE_BITS,
    TILE_BITS,
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


@BOTH
def test_a_higher_score_never_lies_in_a_lower_bin(kind: type[ScoreDistribution]) -> None:
    counts = distribution(kind, SPREAD).counts()
    assert (counts.lower <= counts.upper).all()
    assert (counts.upper[:-1] < counts.lower[1:]).all()


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


@pytest.mark.parametrize("bits", [IMAGE_BITS, TILE_BITS])
def test_bins_are_narrow_for_the_range(bits: int) -> None:
    scores = ScoreDistribution(bits)
    scores.add((100 + RANDOM.random(5000)).astype(np.float32), np.zeros(5000, dtype=bool))
    counts = scores.counts()
    assert ((counts.upper - counts.lower) <= 2.0 ** (1 - bits)).all()


def test_bins_are_narrow_everywhere() -> None:
    counts = distribution(ScoreDistribution, SPREAD).counts()
    nearest_to_zero = np.minimum(np.abs(counts.lower), np.abs(counts.upper))
    assert ((counts.upper - counts.lower) <= 2.0**-11 * nearest_to_zero).all()


@BOTH
def test_lowest_and_highest_are_exact(kind: type[ScoreDistribution]) -> None:
    scores = distribution(kind, [0.1, 0.7, 0.3], [False, True, False])
    assert (scores.minimum, scores.maximum) == (np.float32(0.1), np.float32(0.7))
    assert scores.maximum_normal == np.float32(0.3)
    counts = scores.counts()
    assert (counts.lower[0], counts.upper[-1]) == (np.float32(0.1), np.float32(0.7))


@BOTH
def test_zero_has_no_sign(kind: type[ScoreDistribution]) -> None:
    counts = distribution(kind, [-0.0, 0.0, -1e-30, 1e-30]).counts()
    assert counts.normal.tolist() == [1, 2, 1]


@BOTH
@pytest.mark.parametrize("parts", [2, 7])
def test_adding_in_parts_and_in_any_order_is_adding_at_once(kind: type[ScoreDistribution], parts: int) -> None:
    whole, pieces = distribution(kind, SPREAD), kind()
    for part in np.array_split(SPREAD, parts)[::-1]:
        pieces.add(part, np.zeros(part.shape, dtype=bool))
    for name in ("lower", "upper", "normal", "anomalous"):
        np.testing.assert_array_equal(getattr(whole.counts(), name), getattr(pieces.counts(), name))


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
        regions = None if region is None else np.array([0.0, region])
        scores.add(np.array([value, value], np.float32), np.array([False, True]), regions)
    counts = scores.counts()
    assert counts.normal.tolist() == [1, 2, 1]
    assert counts.anomalous.tolist() == [1, 2, 1]
    assert counts.regions.tolist() == [1.0, 0.25, 0.5]


def test_regions_weigh_anomalous_pixels_only() -> None:
    scores = ScoreDistribution()
    regions = np.array([[0.5, 0.5, 9.0]])
    scores.add(np.array([[1, 2, 3]], np.float32), np.array([[True, True, False]]), regions)
    assert scores.counts().regions.tolist() == [0.5, 0.5, 0]


@BOTH
@pytest.mark.parametrize(
    ("anomalous", "normal_there", "anomalous_there"),
    [([], False, False), ([True], False, True), ([False], True, False), ([False, True], True, True)],
)
def test_which_classes_are_there(
    kind: type[ScoreDistribution],
    anomalous: list[bool],
    normal_there: bool,  # noqa: FBT001
    anomalous_there: bool,  # noqa: FBT001
) -> None:
    scores = distribution(kind, np.ones(len(anomalous)), anomalous)
    assert scores.empty == (not anomalous)
    assert (scores.has_normal, scores.has_anomalous) == (normal_there, anomalous_there)
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
