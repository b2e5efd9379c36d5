from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats

from anomalib_tiled.stages.distribution import ExactScores, ScoreDistribution
from anomalib_tiled.stages.normals import (
    Tail,
    clear_of_rounding,
    deviation,
    peaks_of,
    quantile_of_counts,
    quantile_of_images,
)

BOTH = pytest.mark.parametrize("kind", [ExactScores, ScoreDistribution])
SCORES = np.random.default_rng(0).normal(3, 2, 5000).astype(np.float32)
ANOMALOUS = np.arange(5000) % 5 == 0
NORMAL = SCORES[~ANOMALOUS]


def distribution(kind: type[ScoreDistribution], scores: object, anomalous: object) -> ScoreDistribution:
    result = kind()
    result.add(np.asarray(scores, np.float32), np.asarray(anomalous, bool))
    return result


@BOTH
def test_quantiles_and_deviation_are_those_of_numpy(kind: type[ScoreDistribution]) -> None:
    counts = distribution(kind, SCORES + 1000 * ANOMALOUS, ANOMALOUS).counts()
    for quantile in (0, 0.01, 0.3, 0.99, 1):
        expected = np.quantile(NORMAL, quantile, method="inverted_cdf")
        assert quantile_of_counts(counts, quantile) == pytest.approx(expected, rel=1e-3)
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
    samples = [distribution(ExactScores, random.random(19), np.zeros(19)) for _ in range(400)]
    above = [1 - quantile_of_images(each, 0.9) for each in samples]
    assert np.mean(above) == pytest.approx(0.1, abs=0.012)


@pytest.mark.parametrize(
    ("threshold", "expected"), [(5, 5), (1, 1.5), (1.2, 1.5), (9.8, 9.5), (10, 10.1), (10.2, 10.6), (0, 0), (0.9, 0.5)]
)
def test_a_threshold_keeps_clear_of_scores_and_between_the_same_two(threshold: float, expected: float) -> None:
    scores = np.array([1.0, 10.0, 10.2, 11.0, 20.0])
    assert clear_of_rounding(threshold, scores, 0.5) == pytest.approx(expected)


def test_above_the_highest_score_there_is_room_for_rounding() -> None:
    assert clear_of_rounding(3, np.array([1.0, 3.0]), 0.5) == 3.5


def test_beyond_what_was_seen_it_is_just_above_the_highest_peak() -> None:
    scores = distribution(ExactScores, [1, 2, 3], [False] * 3)
    assert quantile_of_images(scores, 0.99) == 3 + scores.margin


@BOTH
def test_peaks_are_ascending_and_of_normal_images(kind: type[ScoreDistribution]) -> None:
    assert peaks_of(distribution(kind, [3, 1, 2, 9], [False, False, False, True])).tolist() == [1, 2, 3]


def test_without_normal_images_the_highest_normal_pixel_is_the_peak() -> None:
    maps, masks = np.array([[[1, 5], [2, 3]]]), np.array([[[False, True], [False, False]]])
    assert peaks_of(distribution(ScoreDistribution, maps, masks)).tolist() == [3]


@BOTH
def test_without_anything_normal_the_lowest_score_is_the_peak(kind: type[ScoreDistribution]) -> None:
    assert peaks_of(distribution(kind, [4, 3], [True, True])).tolist() == [3]


SHAPES = pytest.mark.parametrize("shape", [-0.4, 0.0, 0.3])
LAWS = {
    "exponential": stats.expon(),
    "normal": stats.norm(),
    "uniform": stats.uniform(),
    "heavy": stats.t(3),
    "skewed": stats.gumbel_r(),
}


def sample(law: object, size: int, seed: int = 0) -> np.ndarray:
    return np.sort(law.rvs(size, random_state=np.random.default_rng(seed)))


@SHAPES
def test_parameters_of_a_generalized_pareto_distribution_are_found(shape: float) -> None:
    """Its excesses over any level are distributed like that too, with a scale that grows by shape × level."""
    tail = Tail.fit(sample(stats.genpareto(shape, scale=2), 20000), 0.5)
    assert tail.shape == pytest.approx(shape, abs=0.05)
    assert tail.scale == pytest.approx(2 + shape * tail.level, rel=0.05)
    assert tail.rate == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_the_rate_is_held_whatever_the_distribution(law: object) -> None:
    tail = Tail.fit(sample(law, 10000), 0.1)
    for rate in (0.05, 0.01, 0.001):
        # The standard deviation of a plain quantile; the fit has a bias of its own besides.
        assert law.sf(tail.threshold(rate)) == pytest.approx(rate, rel=0.2, abs=4 * (rate / 10000) ** 0.5)


@pytest.mark.parametrize("law", [LAWS["normal"], LAWS["heavy"]])
def test_few_scores_do_not_miss_a_rate_they_cannot_show_widely(law: object) -> None:
    rates = [law.sf(Tail.fit(sample(law, 30, seed), 0.2).threshold(0.01)) for seed in range(12)]
    assert np.mean(rates) < 0.03


@pytest.mark.parametrize(("factor", "offset"), [(1e-6, 0), (1e6, 0), (1, -1000)])
def test_units_do_not_matter(factor: float, offset: float) -> None:
    scores = sample(stats.norm(), 200)
    expected = Tail.fit(scores, 0.2).threshold(0.001) * factor + offset
    assert Tail.fit(scores * factor + offset, 0.2).threshold(0.001) == pytest.approx(expected)


def test_a_lower_rate_has_a_higher_threshold() -> None:
    tail = Tail.fit(sample(stats.norm(), 50), 0.2)
    thresholds = [tail.threshold(rate) for rate in (0.5, 0.2, 0.1, 0.01, 1e-4)]
    assert thresholds == sorted(thresholds)
    assert thresholds[0] == tail.level, "above its own rate the tail says nothing"


@pytest.mark.parametrize(
    "scores",
    [np.arange(19.0), np.full(100, 2.0), np.append(np.zeros(95), np.arange(5.0))],
    ids=["too few", "equal", "few different"],
)
def test_few_or_tied_scores_have_no_tail(scores: np.ndarray) -> None:
    assert Tail.fit(scores, 0.2) is None


def test_a_fit_that_fails_is_no_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        message = "Optimization converged to parameters that are outside the range"
        raise stats.FitError(message)

    monkeypatch.setattr(stats.genpareto, "fit", fail)
    assert Tail.fit(sample(stats.norm(), 100), 0.2) is None


def test_what_the_search_tries_warns_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(excesses: np.ndarray, **_: object) -> tuple[float, float, float]:
        np.log(-excesses)  # as of a scale that is not allowed
        return 0.0, 0.0, 1.0

    monkeypatch.setattr(stats.genpareto, "fit", search)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Tail.fit(sample(stats.norm(), 100), 0.2) is not None
