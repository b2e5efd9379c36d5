from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from anomalib.metrics.threshold.f1_adaptive_threshold import _F1AdaptiveThreshold
from sklearn.metrics import f1_score, precision_recall_curve

from anomalib_tiled.stages.distribution import IMAGE_BITS, TILE_BITS, ExactScores, ScoreDistribution
from anomalib_tiled.stages.thresholding import F1AdaptiveThreshold, ManualThreshold

BOTH = pytest.mark.parametrize("kind", [ExactScores, ScoreDistribution])
RANDOM = np.random.default_rng(0)
LABELS = RANDOM.random(400) < 0.2
SCORES = (RANDOM.normal(size=400) + 2 * LABELS).astype(np.float32)
CASES = {
    "around zero": SCORES,
    "between 0 and 1": 1 / (1 + np.exp(-SCORES)),
    "large": 500 + 100 * SCORES,
    "tied": np.round(SCORES),
    "apart": SCORES + 50 * LABELS,
}
FORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "from 8 to 40": lambda scores: 8 + 3 * np.exp(0.4 * scores),
    "between 0 and 1": lambda scores: 1 / (1 + np.exp(-scores)),
    "cut off at 0 and 1": lambda scores: np.clip(0.3 + 0.2 * scores, 0, 1),
    "negative": lambda scores: -np.exp(-np.exp(scores)),
    "far from zero": lambda scores: 100 + 1 / (1 + np.exp(-scores)),
    "a few very high ones": lambda scores: np.exp(3 * scores),
}


def adaptive(kind: type[ScoreDistribution], scores: object, anomalous: object) -> float:
    distribution = kind()
    distribution.add(np.asarray(scores, np.float32), np.asarray(anomalous, bool))
    return F1AdaptiveThreshold().learn(distribution)


def called(scores: object, threshold: float) -> list[bool]:
    """Decide as everywhere else: tensors of single precision against a plain number."""
    return (torch.as_tensor(np.asarray(scores, np.float32)) > threshold).tolist()


@pytest.mark.parametrize("scores", CASES.values(), ids=CASES)
def test_near_the_threshold_of_anomalib(scores: np.ndarray) -> None:
    theirs = _F1AdaptiveThreshold()
    # anomalib's metric squashes scores outside of [0, 1], so it is given ranks and its answer is looked up.
    ranks = np.unique(scores, return_inverse=True)[1]
    theirs.update(torch.from_numpy(ranks / ranks.max()), torch.from_numpy(LABELS.astype(int)))
    expected = np.unique(scores)[round(float(theirs.compute()) * ranks.max())]
    assert adaptive(ExactScores, scores, LABELS) == pytest.approx(expected, abs=1e-4 * float(np.ptp(scores)))


@BOTH
@pytest.mark.parametrize("scores", CASES.values(), ids=CASES)
def test_decisions_reach_the_best_f1_score(kind: type[ScoreDistribution], scores: np.ndarray) -> None:
    precision, recall, _ = precision_recall_curve(LABELS, scores)
    best = (2 * precision * recall / (precision + recall)).max()
    tolerance = 1e-6 if kind is ExactScores else 1e-2  # bins part scores to one part in 2048
    assert f1_score(LABELS, called(scores, adaptive(kind, scores, LABELS))) == pytest.approx(best, abs=tolerance)


@pytest.mark.parametrize("bits", [IMAGE_BITS, TILE_BITS])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_thresholds_from_counts_are_those_from_all_scores(form: Callable[[np.ndarray], np.ndarray], bits: int) -> None:
    """To a hundred-thousandth of the range, wherever it lies, and however many batches the scores come in."""
    anomalous = np.random.default_rng(1).random(100_000) < 0.05
    scores = form(np.random.default_rng(2).normal(size=anomalous.size) + 2 * anomalous).astype(np.float32)
    counted = ScoreDistribution(bits)
    for part in np.array_split(np.arange(scores.size), 5):
        counted.add(scores[part], anomalous[part])
    expected = adaptive(ExactScores, scores, anomalous)
    assert F1AdaptiveThreshold().learn(counted) == pytest.approx(expected, abs=1e-5 * float(np.ptp(scores)))


@BOTH
@pytest.mark.parametrize(("normal", "anomalous"), [(0.5, 0.625), (-2, -1), (0, 1), (-1, 0), (0, 1e-30), (100, 101)])
def test_two_scores_are_parted(kind: type[ScoreDistribution], normal: float, anomalous: float) -> None:
    assert called([normal, anomalous], adaptive(kind, [normal, anomalous], [False, True])) == [False, True]


@pytest.mark.parametrize(
    ("kind", "normal", "anomalous"),
    [
        (ExactScores, 3000, 3001),
        (ScoreDistribution, 3000, 3001),
        (ExactScores, 1, np.nextafter(np.float32(1), np.float32(2))),
    ],
)
def test_scores_that_are_near_for_their_size_are_parted(
    kind: type[ScoreDistribution], normal: float, anomalous: float
) -> None:
    assert called([normal, anomalous], adaptive(kind, [normal, anomalous], [False, True])) == [False, True]


@BOTH
def test_without_anomalous_scores_none_is_called_anomalous(kind: type[ScoreDistribution]) -> None:
    threshold = adaptive(kind, SCORES, np.zeros(400))
    assert threshold == SCORES.max()
    assert not any(called(SCORES, threshold))


@BOTH
@pytest.mark.parametrize("scores", [[3, 7], [-7, -3], [0, 0], [5, 5]])
def test_without_normal_scores_all_are_called_anomalous(kind: type[ScoreDistribution], scores: list[float]) -> None:
    assert all(called(scores, adaptive(kind, scores, [True, True])))


@BOTH
def test_without_normal_scores_all_large_ones_are_called_anomalous(kind: type[ScoreDistribution]) -> None:
    assert all(called([1e6, 1e6 + 1], adaptive(kind, [1e6, 1e6 + 1], [True, True])))


@BOTH
@pytest.mark.parametrize("value", [-2.0, 0.0, 0.3])
def test_a_normal_and_an_anomalous_image_of_one_score(kind: type[ScoreDistribution], value: float) -> None:
    threshold = adaptive(kind, [value, value], [False, True])
    assert threshold == pytest.approx(value, abs=1e-4)
    assert called([value], threshold) == [True], "calling both anomalous has the higher F1 score"


def test_a_threshold_by_hand() -> None:
    assert ManualThreshold(0.25).learn(ExactScores()) == 0.25
