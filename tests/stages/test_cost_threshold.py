from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from anomalib_tiled.stages.distribution import TILE_BITS, ExactScores, ScoreDistribution
from anomalib_tiled.stages.gaps import widest_gap
from anomalib_tiled.stages.thresholding import CostThreshold, F1AdaptiveThreshold

BOTH = pytest.mark.parametrize("kind", [ExactScores, ScoreDistribution])
SEEDS = range(200)


def distribution(kind: type[ScoreDistribution], scores: object, anomalous: object) -> ScoreDistribution:
    result = kind()
    result.add(np.asarray(scores, np.float32), np.asarray(anomalous, bool))
    return result


def cost(rule: CostThreshold, scores: np.ndarray, anomalous: np.ndarray, threshold: float) -> float:
    """Expected cost by its definition, of scores in single precision against a plain number."""
    called = np.asarray(scores, np.float32) > np.float32(threshold)
    missed, alarms = (~called[anomalous]).mean(), called[~anomalous].mean()
    return float(rule.prevalence * rule.miss * missed + (1 - rule.prevalence) * rule.false_alarm * alarms)


def balanced_accuracy_above(scores: np.ndarray, anomalous: np.ndarray, threshold: float) -> float:
    called = scores > np.float32(threshold)
    return float(called[anomalous].mean() + (~called[~anomalous]).mean()) / 2


def drawn(seed: int) -> tuple[CostThreshold, np.ndarray, np.ndarray]:
    """Draw costs, and scores that overlap; in every second set many of them are equal."""
    random = np.random.default_rng(seed)
    anomalous = np.arange(number := int(random.integers(4, 60))) < random.integers(1, number)
    scores = (random.normal(size=number) + random.uniform(0, 3) * anomalous).astype(np.float32)
    scores = np.round(scores) if seed % 2 else scores
    miss, false_alarm = np.exp(random.uniform(-3, 3, 2)).tolist()
    return CostThreshold(miss, false_alarm, float(random.uniform(0.01, 0.99))), scores, anomalous


def test_no_threshold_costs_less() -> None:
    for rule, scores, anomalous in map(drawn, SEEDS):
        threshold = rule.learn(distribution(ExactScores, scores, anomalous))
        least = min(cost(rule, scores, anomalous, each) for each in (-np.inf, *np.unique(scores)))
        assert cost(rule, scores, anomalous, threshold) == pytest.approx(least, rel=1e-9)


def test_only_the_ratio_of_both_costs_matters() -> None:
    for rule, scores, anomalous in map(drawn, SEEDS):
        found = distribution(ExactScores, scores, anomalous)
        for factor in (1 / 3, 7, 1e6):
            scaled = CostThreshold(factor * rule.miss, factor * rule.false_alarm, rule.prevalence)
            assert scaled.learn(found) == rule.learn(found)


def test_equal_costs_and_prevalence_give_the_best_balanced_accuracy() -> None:
    for _, scores, anomalous in map(drawn, SEEDS):
        balanced = partial(balanced_accuracy_above, scores, anomalous)
        threshold = CostThreshold(3, 3, 0.5).learn(distribution(ExactScores, scores, anomalous))
        assert balanced(threshold) == pytest.approx(max(map(balanced, [-np.inf, *np.unique(scores)])))


def test_the_share_of_anomalous_validation_images_does_not_matter() -> None:
    for rule, scores, anomalous in map(drawn, SEEDS):
        once = rule.learn(distribution(ExactScores, scores, anomalous))
        more = distribution(ExactScores, [*scores, *scores[anomalous]], [*anomalous, *anomalous[anomalous]])
        assert rule.learn(more) == once


@pytest.mark.parametrize("form", [np.exp, lambda scores: 100 + scores, lambda scores: 1 / (1 + np.exp(-scores))])
def test_pixels_in_bins_cost_what_pixels_one_by_one_do(form: Callable[[np.ndarray], np.ndarray]) -> None:
    random, rule = np.random.default_rng(0), CostThreshold(20, 1, 0.02)
    anomalous = random.random(30_000) < 0.05
    scores = form(random.normal(size=anomalous.size) + 2 * anomalous).astype(np.float32)
    counted = ScoreDistribution(TILE_BITS)
    for part in np.array_split(np.arange(scores.size), 5):
        counted.add(scores[part], anomalous[part])
    exact = rule.learn(distribution(ExactScores, scores, anomalous))
    assert cost(rule, scores, anomalous, rule.learn(counted)) == pytest.approx(
        cost(rule, scores, anomalous, exact), rel=1e-3
    )


@BOTH
def test_in_a_gap_it_lies_where_the_f1_score_puts_it(kind: type[ScoreDistribution]) -> None:
    found = distribution(kind, [150, 160, 167, 421.6, 500], [False, False, False, True, True])
    for rule in (CostThreshold(1, 1, 0.5), CostThreshold(100, 1, 0.01), CostThreshold(1, 100, 0.9)):
        assert rule.learn(found) == F1AdaptiveThreshold().learn(found)


def test_of_gaps_that_cost_the_same_the_widest_is_taken() -> None:
    """One of two defects is missed without a false alarm, or none with one of two."""
    anomalous, rule = [False, True, False, True], CostThreshold(1, 1, 0.5)
    assert 3 < rule.learn(distribution(ExactScores, [0, 1, 3, 9], anomalous)) < 9
    assert 0 < rule.learn(distribution(ExactScores, [0, 7, 8, 9], anomalous)) < 7
    counts = distribution(ExactScores, [0, 7, 8, 9], anomalous).counts()
    assert widest_gap(counts, np.array([0, 2, 4])) == 2, "what is below and above all scores has no width"
    assert widest_gap(counts, np.array([0, 4])) == 0, "then defects are found"


@BOTH
def test_the_dearer_a_miss_the_lower_the_threshold(kind: type[ScoreDistribution]) -> None:
    random = np.random.default_rng(1)
    anomalous = np.arange(200) < 60
    found = distribution(kind, random.normal(size=200) + 2 * anomalous, anomalous)
    thresholds = [CostThreshold(miss, 1, 0.1).learn(found) for miss in (0.01, 1, 10, 100, 1e4)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] > found.maximum_normal > thresholds[-1]
    assert CostThreshold(1e9, 1, 0.1).learn(distribution(kind, [5, 1, 2], [False, True, True])) < 1


@BOTH
def test_without_anomalous_scores_none_is_called_anomalous(kind: type[ScoreDistribution]) -> None:
    found, rule = distribution(kind, [1, 2, 4], [False] * 3), CostThreshold(10, 1, 0.01)
    assert rule.learn(found) == F1AdaptiveThreshold().learn(found) > 4
    (note,) = rule.notes(found)
    assert note == (
        "No validation image is anomalous, so how many images are missed is unknown: the threshold is just above the "
        "highest normal score."
    )


@BOTH
def test_without_normal_scores_all_are_called_anomalous(kind: type[ScoreDistribution]) -> None:
    found, rule = distribution(kind, [1, 2, 4], [True] * 3), CostThreshold(10, 1, 0.01)
    assert rule.learn(found) == F1AdaptiveThreshold().learn(found) < 1
    (note,) = rule.notes(found)
    assert note == "No validation image is normal: all scores from the lowest upwards count as anomalous."


def test_notes_say_what_it_costs_and_how_sure_that_is() -> None:
    found = distribution(ExactScores, [1, 2, 3, 5, 6, 4, 40, 50], [*[False] * 5, *[True] * 3])
    first, gap = CostThreshold(10, 1, 0.1).notes(found)
    assert first == (
        "Expected cost of an image: 0.3333, at a prevalence of 0.1; more for new images, because the threshold was "
        "learned from these. 1 of 3 (0.84 to 91 %) anomalous validation images are missed, 0 of 5 (0 to 52 %) normal "
        "ones are false alarms; in brackets: with 95 % confidence."
    )
    assert gap == (
        "No validation image has a score between 6 and 40: every threshold there has the same expected cost. The "
        "middle is taken, measured in ranges of the normal scores."
    )
    for miss, words in {1e6: "every image", 1e-6: "no image"}.items():
        overlapping = distribution(ExactScores, [1, 2, 3, 5, 0, 4], [*[False] * 4, *[True] * 2])
        rule = CostThreshold(miss, 1, 0.1)
        assert (rule.learn(overlapping) > 5) == (words == "no image")
        (note,) = rule.notes(overlapping)
        assert note.endswith(f"It is cheapest to call {words} anomalous.")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_costs_are_above_0(value: float) -> None:
    with pytest.raises(ValueError, match=f"CostThreshold needs a cost above 0 as miss, got {value}."):
        CostThreshold(value, 1, 0.1)
    with pytest.raises(ValueError, match=f"CostThreshold needs a cost above 0 as false_alarm, got {value}."):
        CostThreshold(1, value, 0.1)


@pytest.mark.parametrize("value", [0, 1, -0.1, 2])
def test_a_prevalence_is_a_share(value: float) -> None:
    with pytest.raises(ValueError, match=f"CostThreshold needs a prevalence between 0 and 1, got {value}."):
        CostThreshold(1, 1, value)
