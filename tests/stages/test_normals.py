from __future__ import annotations

import numpy as np
import pytest

from anomalib_tiled.stages.distribution import ExactScores, ScoreDistribution
from anomalib_tiled.stages.normals import clear_of_rounding, deviation, peaks_of, quantile_of_counts, quantile_of_peaks

BOTH = pytest.mark.parametrize("kind", [ExactScores, ScoreDistribution])
SCORES = np.random.default_rng(0).normal(3, 2, 5000).astype(np.float32)
ANOMALOUS = np.arange(5000) % 5 == 0
NORMAL = SCORES[~ANOMALOUS]


def distribution(kind: type[ScoreDistribution], scores: object, anomalous: object) -> ScoreDistribution:
    result = kind()
    result.add(np.asarray(scores, np.float32), np.asarray(anomalous, bool))
    return result


@BOTH
@pytest.mark.parametrize("quantile", [0, 0.01, 0.3, 0.99, 1])
def test_quantiles_are_those_of_numpy(kind: type[ScoreDistribution], quantile: float) -> None:
    counts = distribution(kind, SCORES + 1000 * ANOMALOUS, ANOMALOUS).counts()
    expected = np.quantile(NORMAL, quantile, method="inverted_cdf")
    assert quantile_of_counts(counts, quantile) == pytest.approx(expected, rel=1e-3)


@BOTH
def test_the_deviation_is_that_of_numpy(kind: type[ScoreDistribution]) -> None:
    counts = distribution(kind, SCORES + 1000 * ANOMALOUS, ANOMALOUS).counts()
    assert deviation(counts) == pytest.approx(NORMAL.std(), rel=1e-3)


@BOTH
def test_without_normal_scores_all_are_taken(kind: type[ScoreDistribution]) -> None:
    counts = distribution(kind, [1, 2, 3], [True, True, True]).counts()
    assert quantile_of_counts(counts, 0.5) == pytest.approx(2, rel=1e-3)
    assert deviation(counts) == pytest.approx(np.std([1, 2, 3]), rel=1e-3)


@BOTH
def test_a_quantile_is_never_an_anomalous_score(kind: type[ScoreDistribution]) -> None:
    counts = distribution(kind, [1, 2, 3, 9], [True, False, False, True]).counts()
    assert [quantile_of_counts(counts, quantile) for quantile in (0, 1)] == pytest.approx([2, 3], rel=1e-3)


def test_a_peak_is_exceeded_with_the_probability_of_its_rank() -> None:
    """The mean over many samples of what lies above the quantile is the rate, even with few images."""
    random = np.random.default_rng(0)
    above = [1 - quantile_of_peaks(random.random(19), 0.9) for _ in range(4000)]
    assert np.mean(above) == pytest.approx(0.1, abs=0.004)


@pytest.mark.parametrize(
    ("threshold", "expected"), [(5, 5), (1, 1.5), (1.2, 1.5), (9.8, 9.5), (10, 10.1), (10.2, 10.6), (0, 0), (0.9, 0.5)]
)
def test_a_threshold_keeps_clear_of_scores_and_between_the_same_two(threshold: float, expected: float) -> None:
    scores = np.array([1.0, 10.0, 10.2, 11.0, 20.0])
    assert clear_of_rounding(threshold, scores, 0.5) == pytest.approx(expected)


def test_above_the_highest_score_there_is_room_for_rounding() -> None:
    assert clear_of_rounding(3, np.array([1.0, 3.0]), 0.5) == 3.5


def test_beyond_what_was_seen_it_is_the_highest_peak() -> None:
    assert quantile_of_peaks(np.array([1.0, 2.0, 3.0]), 0.99) == 3


@BOTH
def test_peaks_are_ascending_and_of_normal_images(kind: type[ScoreDistribution]) -> None:
    assert peaks_of(distribution(kind, [3, 1, 2, 9], [False, False, False, True])).tolist() == [1, 2, 3]


def test_without_normal_images_the_highest_normal_pixel_is_the_peak() -> None:
    maps, masks = np.array([[[1, 5], [2, 3]]]), np.array([[[False, True], [False, False]]])
    assert peaks_of(distribution(ScoreDistribution, maps, masks)).tolist() == [3]


@BOTH
def test_without_anything_normal_the_lowest_score_is_the_peak(kind: type[ScoreDistribution]) -> None:
    assert peaks_of(distribution(kind, [4, 3], [True, True])).tolist() == [3]
