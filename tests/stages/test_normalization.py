from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from anomalib.post_processing import PostProcessor

from anomalib_tiled.stages.distribution import ExactScores, ScoreDistribution
from anomalib_tiled.stages.normalization import MinMax, Normalizer, Quantile, Standardize
from anomalib_tiled.stages.thresholding import (
    ExtremeValueThreshold,
    F1AdaptiveThreshold,
    ManualThreshold,
    QuantileThreshold,
)

NEW = torch.linspace(-50, 50, 1001)  # reaches far beyond what was learned from


def learned(scores: list[float], threshold: float) -> dict[str, float]:
    distribution = ExactScores()
    distribution.add(np.array(scores, np.float32), np.zeros(len(scores), bool))
    return MinMax().learn(distribution, threshold)


def test_the_formula_is_that_of_anomalib() -> None:
    theirs = PostProcessor._normalize(NEW, torch.tensor(-3.0), torch.tensor(4.0), torch.tensor(1.5))
    torch.testing.assert_close(MinMax().apply(NEW, learned([-3, 1, 4], 1.5)), theirs)


def test_of_a_single_score_above_and_below_can_be_said() -> None:
    assert MinMax().apply(torch.tensor([1.0, 2.0, 3.0]), learned([2, 2], 2)).tolist() == [0, 0.5, 1]


RANDOM = np.random.default_rng(0)
NORMALIZERS = pytest.mark.parametrize(
    "normalizer", [MinMax(), Quantile(), Standardize()], ids=lambda each: type(each).__name__
)
ROBUST = pytest.mark.parametrize("normalizer", [Quantile(), Standardize()], ids=["Quantile", "Standardize"])
RULES = [
    F1AdaptiveThreshold(),
    ManualThreshold(0.1),
    ManualThreshold(-60),
    ManualThreshold(1e4),
    QuantileThreshold(0.9),
    ExtremeValueThreshold(),
]
SAMPLES = {
    "both": (RANDOM.normal(size=200), RANDOM.random(200) < 0.2),
    "normal only": (RANDOM.normal(size=60), np.zeros(60, bool)),
    "anomalous only": (RANDOM.normal(size=60), np.ones(60, bool)),
    "negative and large": (RANDOM.normal(size=60) * 1e3 - 5e3, np.zeros(60, bool)),
    "small": (RANDOM.exponential(size=60) * 1e-6, np.zeros(60, bool)),
    "equal": (np.full(60, 0.3), np.zeros(60, bool)),
    "one": (np.array([-2.5]), np.zeros(1, bool)),
}


@NORMALIZERS
@pytest.mark.parametrize(("scores", "anomalous"), SAMPLES.values(), ids=SAMPLES)
def test_the_threshold_of_any_rule_lands_at_one_half(
    normalizer: Normalizer, scores: np.ndarray, anomalous: np.ndarray
) -> None:
    distribution = ScoreDistribution()
    distribution.add(scores.astype(np.float32), anomalous)
    for rule in RULES:
        threshold = rule.learn(distribution)
        values = json.loads(json.dumps(normalizer.learn(distribution, threshold)))
        assert float(normalizer.apply(torch.tensor(threshold, dtype=torch.float32), values)) == 0.5
        new = torch.cat([threshold + NEW, torch.from_numpy(scores).float(), torch.tensor([-1e30, 1e30])]).sort().values
        before = new.clone()
        normalized = normalizer.apply(new, values)
        assert torch.equal(new, before), "nothing is changed in place"
        assert normalized.min() >= 0
        assert normalized.max() <= 1
        assert (normalized.diff() >= -1e-7).all(), "one step of single precision is what rounding may do"
        far = (new - threshold).abs() > 1e-3 * max(1, abs(threshold))
        if not abs(threshold) > 1e3 * np.ptp(scores):
            assert torch.equal((normalized > 0.5)[far], (new > threshold)[far])


@NORMALIZERS
@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_scores_come_back_on_their_device(normalizer: Normalizer, device: str) -> None:
    values = dict.fromkeys(("minimum", "lower"), 0.0) | dict.fromkeys(("maximum", "upper", "deviation"), 2.0)
    maps = torch.ones(2, 1, 3, 4, device=device)
    normalized = normalizer.apply(maps, {**values, "threshold": 1.0})
    assert (normalized.device.type, normalized.shape) == (device, maps.shape)


def applied(normalizer: Normalizer, scores: list[float], new: list[float], threshold: float) -> torch.Tensor:
    distribution = ExactScores()
    distribution.add(np.array(scores, np.float32), np.zeros(len(scores), bool))
    return normalizer.apply(torch.tensor(new), normalizer.learn(distribution, threshold))


@ROBUST
def test_anomalous_scores_do_not_change_the_scale(normalizer: Normalizer) -> None:
    distribution = ScoreDistribution()
    distribution.add(SAMPLES["normal only"][0].astype(np.float32), np.zeros(60, bool))
    before = normalizer.learn(distribution, 2)
    distribution.add(np.full(10, 50, np.float32), np.ones(10, bool))
    assert normalizer.learn(distribution, 2) == pytest.approx(before, rel=1e-3)


def test_quantiles_are_not_moved_by_an_odd_image() -> None:
    usual = [float(score) for score in range(40)]
    new = [5.0, 20.0, 60.0]
    odd = applied(Quantile(), [*usual, 1e6], new, 30)
    torch.testing.assert_close(odd, applied(Quantile(), usual, new, 30), atol=0.03, rtol=0)


def test_the_formula_of_quantiles() -> None:
    scores = [float(score) for score in range(101)]
    given = applied(Quantile(0.1, 0.9), scores, [0, 10, 60, 110, 160, 310], 110)
    torch.testing.assert_close(given, torch.tensor([0, 0, 0.25, 0.5, 2 / 3, 5 / 6]))


def test_below_the_upper_quantile_that_one_gives_the_scale() -> None:
    scores = [float(score) for score in range(101)]
    given = applied(Quantile(0.1, 0.9), scores, [10, 50, 130], 50)
    torch.testing.assert_close(given, torch.tensor([0.25, 0.5, 0.75]))


@pytest.mark.parametrize(("lower", "upper"), [(0.5, 0.5), (0.9, 0.1), (-0.1, 0.5), (0.5, 1.1)])
def test_quantiles_are_shares_in_order(lower: float, upper: float) -> None:
    with pytest.raises(
        ValueError, match=f"Quantile needs 0 <= lower < upper <= 1, got lower {lower} and upper {upper}."
    ):
        Quantile(lower, upper)


def test_standard_scores_near_the_threshold_are_those_of_the_normal_distribution() -> None:
    new = torch.linspace(-0.2, 0.2, 9)
    given = applied(Standardize(), [1, -1], new.tolist(), 0)
    torch.testing.assert_close(given, torch.special.ndtr(new), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        applied(Standardize(), [1, -1], [-1, 1], 0), torch.tensor([0.1891, 0.8109]), atol=1e-4, rtol=0
    )


@ROBUST
def test_far_defects_are_told_apart(normalizer: Normalizer) -> None:
    """In single precision, up to fifty standard deviations beyond the threshold."""
    given = applied(normalizer, SAMPLES["normal only"][0].tolist(), [float(score) for score in range(2, 50)], 2)
    assert (given.diff() > 0).all()
    assert given.max() < 1
