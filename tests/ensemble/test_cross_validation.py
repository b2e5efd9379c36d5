from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch

from anomalib_tiled.ensemble.calibration import Learned, Stages
from anomalib_tiled.ensemble.cross_validation import called_anomalous, called_without_learning, rounds_for
from anomalib_tiled.ensemble.observed import Observed, Truth
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.distribution import ExactScores, ScoreDistribution
from anomalib_tiled.stages.merging import Mean
from anomalib_tiled.stages.normalization import MinMax
from anomalib_tiled.stages.scoring import Max
from anomalib_tiled.stages.thresholding import (
    ExtremeValueThreshold,
    F1AdaptiveThreshold,
    ManualThreshold,
    QuantileThreshold,
    Thresholder,
)

STAGES = Stages(Mean(), Max(), None, MinMax(), F1AdaptiveThreshold(), "image", "image")
RULES = [F1AdaptiveThreshold(), F1AdaptiveThreshold("lowest_anomalous"), QuantileThreshold(0.7), ManualThreshold(1.0)]


def seen(normal: Iterable[float], anomalous: Iterable[float] = ()) -> Observed:
    """Scores of images; anomalous ones come first, in a batch of their own."""
    observed = Observed()
    for label, values in enumerate((list(anomalous), list(normal))):
        labels = np.full(len(values), label == 0)
        observed.add(torch.tensor(values, dtype=torch.float32), None, Truth(labels, None))
    return observed


def called(observed: Observed, rule: Thresholder, *, stages: Stages = STAGES, rounds: int = 30) -> list[int] | None:
    """Give the normal images that are called anomalous by a threshold that is learned without them."""
    found = called_without_learning(stages, rule, observed, normalize=True, rounds=rounds)
    return None if found is None else np.flatnonzero(found).tolist()


def scores_of(normal: np.ndarray, anomalous: np.ndarray) -> ExactScores:
    scores = ExactScores()
    both = np.concatenate([normal, anomalous]).astype(np.float32)
    scores.add(both, np.arange(len(both)) >= len(normal))
    return scores


def test_without_anomalous_images_only_the_highest_is_above_all_others() -> None:
    assert called(seen([3, 1, 4, 9, 5, 2, 6]), F1AdaptiveThreshold()) == [3]
    assert called(seen([3, 1, 4, 9, 5, 2, 6]), ManualThreshold(4.5)) == [3, 4, 6]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("apart", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("sensitivity", [0.5, 0.3])
def test_each_image_is_judged_by_a_threshold_that_was_learned_from_the_others(
    rule: Thresholder, apart: float, sensitivity: float
) -> None:
    random = np.random.default_rng(0)
    normal, anomalous = random.normal(size=25).astype(np.float32), random.normal(apart, size=9).astype(np.float32)
    expected = []
    for number, score in enumerate(normal):
        others = scores_of(np.delete(normal, number), anomalous)
        threshold = rule.learn(others)
        scale = MinMax().learn(others, threshold)
        normalized = float(MinMax().apply(torch.tensor([score]), scale))
        if normalized > 1 - sensitivity if sensitivity != 0.5 else score > np.float32(threshold):
            expected.append(number)
    stages = replace(STAGES, image_sensitivity=sensitivity)
    assert called(seen(normal, anomalous), rule, stages=stages) == expected


def test_images_of_normalized_tiles_are_centred_on_the_threshold_as_in_prediction() -> None:
    stages = replace(STAGES, normalize_at="tile", image_sensitivity=0.7)
    observed = seen([0.1, 0.2, 0.25, 0.35, 0.4, 0.6])
    found = called_without_learning(stages, ManualThreshold(0.5), observed, normalize=False, rounds=30)
    assert np.flatnonzero(found).tolist() == [3, 4, 5], "more than 0.3 of 0.5, the threshold"


def test_many_images_are_left_out_in_groups() -> None:
    normal = np.random.default_rng(1).normal(size=100)
    order = np.argsort(normal)
    learned = []

    class Noting(Thresholder):
        def learn(self, scores: ScoreDistribution) -> float:
            learned.append(len(scores.peaks))
            return float(normal[order[89]])

    assert called(seen(normal), Noting(), rounds=7) == sorted(order[90:].tolist())
    assert learned == [85, 85, 86, 86, 86, 86, 86]


def test_fewer_than_five_normal_images_tell_nothing() -> None:
    assert called(seen([1, 2, 3, 4], [5, 6, 7]), F1AdaptiveThreshold()) is None
    assert called(seen([1, 2, 3, 4, 5], [60, 70]), F1AdaptiveThreshold()) == []


def test_a_tail_is_fitted_without_the_image_too() -> None:
    normal = np.random.default_rng(2).normal(size=60)
    found = called(seen(normal), ExtremeValueThreshold(0.1))
    assert len(found) in range(3, 10)


@pytest.mark.parametrize("error", [ValueError, ConfigurationError])
def test_a_rule_that_needs_more_images_leaves_them_unknown(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    class AtLeastSix(Thresholder):
        def learn(self, scores: ScoreDistribution) -> float:
            if len(scores.peaks) < 6:
                message = "six are needed"
                raise error(message)
            return scores.maximum

    with caplog.at_level("INFO", "anomalib_tiled"):
        assert called(seen(range(6)), AtLeastSix()) is None
    assert caplog.messages[0].startswith("How many false alarms to expect is unknown, for thresholds of fewer images")
    assert "six are needed" in caplog.messages[0]
    assert called(seen(range(7)), AtLeastSix()) == [6]


def test_normal_tiles_of_anomalous_images_are_learned_from_but_not_left_out() -> None:
    masks = np.zeros((6, 1, 2), dtype=bool)
    masks[0, 0, 1] = True
    left = Truth(masks.any(axis=(1, 2)), masks).cut(slice(0, 1), slice(0, 1))
    observed = Observed()
    observed.add(torch.tensor([9.0, 1, 2, 3, 4, 5]), None, left)
    assert not observed.scores.has_anomalous
    assert (observed.numbers.tolist(), observed.normal_images) == ([-1, 0, 1, 2, 3, 4], 5)
    assert called(observed, F1AdaptiveThreshold()) == [], "9 is a normal score of this tile"


def test_numbers_of_normal_images_go_on_from_part_to_part() -> None:
    whole, labels = Observed(), np.array([False, True, False, False, True, False])
    scores = torch.arange(6.0)
    whole.add(scores, None, Truth(labels, None))
    merged = Observed()
    for part in (slice(0, 2), slice(2, 3), slice(3, 6)):
        other = Observed()
        other.add(scores[part], None, Truth(labels[part], None))
        merged.merge(other)
    assert merged.numbers.tolist() == whole.numbers.tolist() == [0, -1, 1, 2, -1, 3]
    assert merged.normal_images == whole.normal_images == 4


def test_a_defect_that_no_model_sees_has_neither_score_nor_number() -> None:
    masks = np.zeros((3, 1, 2), dtype=bool)
    masks[1, 0, 1] = True
    observed = Observed(uninspected=np.array([[False, True]]))
    observed.add(torch.tensor([1.0, 2.0, 3.0]), None, Truth(masks.any(axis=(1, 2)), masks))
    assert observed.numbers.tolist() == [0, 1]
    assert observed.scores.values.tolist() == [1, 3]


def test_a_threshold_from_elsewhere_is_applied_to_all_normal_images() -> None:
    found = called_anomalous(STAGES, seen([3, 1, 4], [5]), Learned(2.5, None))
    assert found.tolist() == [True, False, True]


@pytest.mark.parametrize(("tiles", "rounds"), [(1, 30), (600, 30), (1000, 20), (2000, 10), (10_000, 5), (10**6, 5)])
def test_the_more_tiles_the_fewer_rounds(tiles: int, rounds: int) -> None:
    assert rounds_for(tiles) == rounds


def test_an_image_that_a_tile_does_not_see_keeps_its_number() -> None:
    """The other tiles of the image have scores: whether one of them calls it anomalous is looked up by its number."""
    observed = Observed()
    hidden = torch.tensor([False, True, False]).view(3, 1, 1, 1).expand(3, 1, 1, 2)
    observed.add(torch.tensor([1.0, 2.0, 3.0]), None, Truth(np.zeros(3, dtype=bool), None), hidden)
    assert observed.numbers.tolist() == [0, 2]
    assert observed.normal_images == 3
    assert called_anomalous(STAGES, observed, Learned(2.5, None)).tolist() == [False, False, True]
