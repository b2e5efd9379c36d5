"""Curves from counts against the same curves of anomalib and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anomalib.metrics.aupr import _AUPR
from anomalib.metrics.aupro import _AUPRO
from anomalib.metrics.auroc import _AUROC
from anomalib.metrics.f1_score import _F1Max
from scipy.ndimage import gaussian_filter, label
from sklearn.metrics import average_precision_score, roc_auc_score

from anomalib_tiled.stages import curves
from anomalib_tiled.stages.distribution import ExactScores, ScoreCounts, ScoreDistribution

RANDOM = np.random.default_rng(1)
LABELS = RANDOM.random(3000) < 0.2
SMOOTH = (RANDOM.normal(size=3000) + LABELS).astype(np.float32)
SCORES = {"distinct": SMOOTH, "tied": np.round(SMOOTH), "all equal": np.ones_like(SMOOTH), "far": SMOOTH + 1000}
OURS = {"AUROC": curves.auroc, "AUPR": curves.aupr, "F1Max": curves.f1_max}
THEIRS = {"AUROC": _AUROC, "AUPR": _AUPR, "F1Max": _F1Max}


def counts_of(
    scores: object, anomalous: object, regions: object = None, *, kind: type[ScoreDistribution] = ExactScores
) -> ScoreCounts:
    distribution = kind()
    distribution.add(np.asarray(scores, np.float32), np.asarray(anomalous, bool), regions)
    return distribution.counts()


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_exact_scores_give_the_curves_of_anomalib_and_scikit_learn(scores: np.ndarray) -> None:
    counts = counts_of(scores, LABELS)
    # In double precision and already between 0 and 1, or torchmetrics would round the scores itself.
    ranks = np.unique(scores, return_inverse=True)[1] / scores.size
    for name, curve in OURS.items():
        metric = THEIRS[name]()
        metric.update(torch.from_numpy(ranks), torch.from_numpy(LABELS.astype(int)))
        assert curve(counts) == pytest.approx(float(metric.compute()), abs=1e-6)
    assert curves.auroc(counts) == pytest.approx(roc_auc_score(LABELS, scores), abs=1e-9)
    assert curves.aupr(counts) == pytest.approx(average_precision_score(LABELS, scores), abs=1e-9)


@pytest.mark.parametrize("scores", [SMOOTH, SMOOTH - 5, np.round(SMOOTH)], ids=["around zero", "negative", "tied"])
def test_binned_scores_are_nearly_as_good(scores: np.ndarray) -> None:
    for curve in OURS.values():
        exact, binned = (curve(counts_of(scores, LABELS, kind=kind)) for kind in (ExactScores, ScoreDistribution))
        assert binned == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize("seed", range(2))
def test_aupro_is_that_of_anomalib(seed: int) -> None:
    random = np.random.default_rng(seed)
    masks = np.stack([gaussian_filter(random.normal(size=(48, 64)), 3) > 0.08 for _ in range(3)])
    maps = np.stack([gaussian_filter(mask + random.normal(size=mask.shape), 1) for mask in masks]).astype(np.float32)
    regions = np.zeros(masks.shape)
    for mask, weights in zip(masks, regions, strict=True):
        labelled, _ = label(mask, np.ones((3, 3)))
        weights[mask] = 1 / np.bincount(labelled.ravel())[labelled[mask]]
    theirs = _AUPRO()
    theirs.update(torch.from_numpy(maps), torch.from_numpy(masks.astype(int)))
    ours = curves.aupro(counts_of(maps, masks, regions, kind=ScoreDistribution))
    assert ours == pytest.approx(float(theirs.compute()), abs=1e-3)


def test_a_small_region_weighs_as_much_as_a_large_one() -> None:
    # The small region is found without a false alarm, the large one never: the mean overlap is a half throughout.
    scores, anomalous, regions = [9, 1, 1, 1, 5, 4], [1, 1, 1, 1, 0, 0], [1, 1 / 3, 1 / 3, 1 / 3, 0, 0]
    distribution = ScoreDistribution()
    distribution.add(np.array(scores, np.float32), np.array(anomalous, bool), np.array(regions))
    assert curves.aupro(distribution.counts()) == pytest.approx(0.5)


def test_f1_scores_of_four_scores() -> None:
    assert curves.f1_scores(counts_of([1, 2, 3, 4], [0, 1, 0, 1])) == pytest.approx([2 / 3, 4 / 5, 1 / 2, 2 / 3])


def test_perfect_and_worst() -> None:
    perfect, worst = counts_of([1, 2, 3], [0, 0, 1]), counts_of([1, 2, 3], [1, 0, 0])
    assert [curve(perfect) for curve in OURS.values()] == [1, 1, 1]
    assert curves.auroc(worst) == 0


@pytest.mark.parametrize(
    ("anomalous", "undefined"),
    [
        ([0, 0], [curves.auroc, curves.aupr, curves.f1_max, curves.aupro]),
        ([1, 1], [curves.auroc, curves.aupro]),
        ([], [curves.auroc, curves.aupr, curves.f1_max, curves.aupro]),
    ],
)
def test_undefined_with_one_class_only(anomalous: list[int], undefined: list[object]) -> None:
    counts = counts_of(np.arange(len(anomalous)), anomalous)
    assert [curve(counts) for curve in undefined] == [None] * len(undefined)
