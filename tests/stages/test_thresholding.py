from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from anomalib.data import InferenceBatch
from anomalib.metrics.threshold.f1_adaptive_threshold import _F1AdaptiveThreshold
from anomalib.post_processing import PostProcessor
from sklearn.metrics import f1_score, precision_recall_curve

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.distribution import TILE_BITS, ExactScores, ScoreDistribution
from anomalib_tiled.stages.normalization import MinMax
from anomalib_tiled.stages.thresholding import (
    At,
    ExtremeValueThreshold,
    F1AdaptiveThreshold,
    ManualThreshold,
    QuantileThreshold,
    Thresholder,
    check_sensitivity,
    decided,
)

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


def adaptive(kind: type[ScoreDistribution], scores: object, anomalous: object, at: At = "middle") -> float:
    distribution = kind()
    distribution.add(np.asarray(scores, np.float32), np.asarray(anomalous, bool))
    return F1AdaptiveThreshold(at).learn(distribution)


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
    ours = adaptive(ExactScores, scores, LABELS, "lowest_anomalous")
    assert ours == pytest.approx(expected, abs=1e-4 * float(np.ptp(scores)))


@BOTH
@pytest.mark.parametrize("scores", CASES.values(), ids=CASES)
def test_decisions_reach_the_best_f1_score(kind: type[ScoreDistribution], scores: np.ndarray) -> None:
    precision, recall, _ = precision_recall_curve(LABELS, scores)
    best = (2 * precision * recall / (precision + recall)).max()
    tolerance = 1e-6 if kind is ExactScores else 1e-2  # bins part scores to one part in 2048
    for at in get_args(At):
        reached = f1_score(LABELS, called(scores, adaptive(kind, scores, LABELS, at)))
        assert reached == pytest.approx(best, abs=tolerance)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_thresholds_from_counts_are_those_from_all_scores(form: Callable[[np.ndarray], np.ndarray]) -> None:
    """To a hundred-thousandth of the range, wherever it lies, and however many batches the scores come in."""
    anomalous = np.random.default_rng(1).random(30_000) < 0.05
    scores = form(np.random.default_rng(2).normal(size=anomalous.size) + 2 * anomalous).astype(np.float32)
    counted = ScoreDistribution(TILE_BITS)
    for part in np.array_split(np.arange(scores.size), 5):
        counted.add(scores[part], anomalous[part])
    expected = adaptive(ExactScores, scores, anomalous)
    assert F1AdaptiveThreshold().learn(counted) == pytest.approx(expected, abs=1e-5 * float(np.ptp(scores)))


@BOTH
def test_two_scores_are_parted(kind: type[ScoreDistribution]) -> None:
    for normal, anomalous in [(0.5, 0.625), (-2, -1), (0, 1), (-1, 0), (0, 1e-30), (3000, 3001)]:
        for at in get_args(At):
            threshold = adaptive(kind, [normal, anomalous], [False, True], at)
            assert called([normal, anomalous], threshold) == [False, True]


def test_exact_scores_are_parted_that_bins_cannot_part() -> None:
    scores = [1, np.nextafter(np.float32(1), np.float32(2))]
    assert called(scores, adaptive(ExactScores, scores, [False, True])) == [False, True]


@pytest.mark.parametrize(("factor", "offset"), [(1, 0), (3, -900), (1e-3, 1)])
def test_the_middle_of_a_gap_leaves_most_of_it_to_defects(factor: float, offset: float) -> None:
    scores = np.array([100, 120, 150, 167, 421.6, 500, 900])
    threshold = adaptive(ScoreDistribution, factor * scores + offset, scores > 200)
    assert (threshold - offset) / factor == pytest.approx(248, abs=1), "the arithmetic middle is 294"


@pytest.mark.parametrize(("gap", "share"), [(0.01, 0.5), (1, 0.455), (4, 0.312), (10, 0.213), (1000, 0.154)])
def test_the_wider_a_gap_for_the_range_of_normal_scores_the_lower_its_middle(gap: float, share: float) -> None:
    threshold = adaptive(ExactScores, [1, 2, 2 + gap, 9000], [False, False, True, True])
    assert (threshold - 2) / gap == pytest.approx(share, abs=2e-3)


def test_of_gaps_that_are_as_good_the_widest_is_taken() -> None:
    """One of two defects is found without a false alarm, or both with two: an F1 score of 2/3 in both cases."""
    anomalous = [False, True, False, False, True]
    assert 4 < adaptive(ExactScores, [0, 2, 3, 4, 9], anomalous) < 9
    assert 0 < adaptive(ExactScores, [0, 7, 7.5, 8, 9], anomalous) < 7
    low = adaptive(ExactScores, [0, 2, 3, 4, 9], anomalous, "lowest_anomalous")
    assert low == pytest.approx(2, abs=1e-3), "as in anomalib"


def test_where_in_a_gap_is_one_of_two_places() -> None:
    message = "F1AdaptiveThreshold needs at to be middle or lowest_anomalous, got 'top'."
    with pytest.raises(ValueError, match=message):
        F1AdaptiveThreshold("top")


@BOTH
def test_without_anomalous_scores_none_is_called_anomalous(kind: type[ScoreDistribution]) -> None:
    threshold = adaptive(kind, SCORES, np.zeros(400))
    assert not any(called(SCORES * (1 + 1e-4), threshold)), "nor if rounding moves it"
    assert threshold == pytest.approx(SCORES.max(), rel=1e-3)
    assert adaptive(kind, SCORES, np.zeros(400), "lowest_anomalous") == SCORES.max(), "as in anomalib"


@BOTH
@pytest.mark.parametrize("level", [5.0, -5.0])
def test_where_normal_scores_do_not_vary_nothing_up_to_a_tenth_above_is_anomalous(
    kind: type[ScoreDistribution], level: float
) -> None:
    for rule in (F1AdaptiveThreshold(), QuantileThreshold(), ExtremeValueThreshold()):
        threshold = rule.learn(distribution(kind, np.full(8, level)))
        assert threshold == pytest.approx(level + abs(level) / 10)


@BOTH
def test_without_normal_scores_all_are_called_anomalous(kind: type[ScoreDistribution]) -> None:
    for scores in ([3, 7], [-7, -3], [0, 0], [5, 5], [1e6, 1e6 + 1]):
        assert all(called(scores, adaptive(kind, scores, [True, True])))


@BOTH
def test_a_normal_and_an_anomalous_image_of_one_score(kind: type[ScoreDistribution]) -> None:
    for value in (-2.0, 0.0, 0.3):
        threshold = adaptive(kind, [value, value], [False, True])
        assert threshold == pytest.approx(value, abs=1e-4)
        assert called([value], threshold) == [True], "calling both anomalous has the higher F1 score"


def test_a_threshold_by_hand() -> None:
    assert ManualThreshold(0.25).learn(ExactScores()) == 0.25
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"ManualThreshold needs a number as value, got {value}"):
            ManualThreshold(value)


NORMAL_ONLY = [QuantileThreshold(0.9), ExtremeValueThreshold(0.1), ExtremeValueThreshold(0.01)]
OF_NORMALS = pytest.mark.parametrize("rule", NORMAL_ONLY, ids=["quantile", "extreme 0.1", "extreme 0.01"])


def distribution(kind: type[ScoreDistribution], scores: object, anomalous: object = 0) -> ScoreDistribution:
    result = kind()
    scores = np.asarray(scores, np.float32)
    result.add(scores, np.broadcast_to(np.asarray(anomalous, bool), scores.shape))
    return result


def maps_of(images: int, seed: int = 0) -> np.ndarray:
    """Maps with a blob that covers half the image: its pixels depend on one another."""
    maps = np.random.default_rng(seed).normal(size=(images, 1, 1)) * np.ones((1, 4, 4))
    maps[:, :2] -= 10
    return maps


@OF_NORMALS
def test_anomalous_scores_are_ignored(rule: Thresholder) -> None:
    normal, mixed = distribution(ScoreDistribution, SCORES), distribution(ScoreDistribution, SCORES)
    mixed.add(np.full(300, 50, np.float32), np.ones(300, bool))
    assert rule.learn(mixed) == rule.learn(normal)


@OF_NORMALS
def test_pixels_are_judged_by_the_highest_one_of_each_image(rule: Thresholder) -> None:
    maps = maps_of(400)
    assert rule.learn(distribution(ScoreDistribution, maps)) == rule.learn(
        distribution(ExactScores, maps.max(axis=(1, 2)))
    )


@pytest.mark.parametrize("rate", [0.3, 0.01])
def test_new_normal_images_are_called_anomalous_at_the_rate(rate: float) -> None:
    seen, new = maps_of(4000), maps_of(20000, seed=1)
    for rule in (QuantileThreshold(1 - rate), ExtremeValueThreshold(rate)):
        threshold = rule.learn(distribution(ScoreDistribution, seen))
        shown = (new.reshape(len(new), -1) > threshold).any(axis=1).mean()
        assert shown == pytest.approx(rate, abs=4 * (rate / 4000) ** 0.5)


def test_a_quantile_of_every_pixel() -> None:
    pixels = np.random.default_rng(0).normal(size=(10, 50, 50))
    threshold = QuantileThreshold(0.9, every_pixel=True).learn(distribution(ScoreDistribution, pixels))
    assert (pixels > threshold).mean() == pytest.approx(0.1, abs=0.002)
    assert threshold < QuantileThreshold(0.9).learn(distribution(ScoreDistribution, pixels))


def test_every_pixel_makes_no_difference_to_scores_of_images() -> None:
    scores = distribution(ExactScores, SCORES)
    assert QuantileThreshold(0.9, every_pixel=True).learn(scores) == QuantileThreshold(0.9).learn(scores)


@BOTH
@OF_NORMALS
def test_few_or_equal_scores_give_at_most_just_above_the_highest(
    kind: type[ScoreDistribution], rule: Thresholder
) -> None:
    for scores in ([1], [3, 1, 2], [-3, -1, -2], [0, 0, 0], np.ones(60), np.repeat([1, 2, 5], 30)):
        learned_from = distribution(kind, scores)
        assert np.min(scores) <= rule.learn(learned_from) <= np.max(scores) + learned_from.margin


@OF_NORMALS
def test_without_normal_scores_everything_is_anomalous(rule: Thresholder) -> None:
    assert all(called([3, 7], rule.learn(distribution(ScoreDistribution, [3, 7], anomalous=1))))


def test_a_tail_that_cannot_be_fitted_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ExtremeValueThreshold().learn(distribution(ExactScores, np.ones(30)))
    assert caplog.messages == ["The tail of 30 normal scores cannot be fitted: the threshold is their quantile."]


def test_rarer_than_seen_is_extrapolated() -> None:
    scores = SCORES[~LABELS][:50]
    threshold = ExtremeValueThreshold(0.001).learn(distribution(ExactScores, scores))
    assert scores.max() < threshold < 10


@pytest.mark.parametrize(
    ("rule", "images", "end"),
    [
        (QuantileThreshold(0.99), 50, "The threshold is this score."),
        (ExtremeValueThreshold(0.01), 50, "The threshold is extrapolated beyond it, and uncertain."),
        (ExtremeValueThreshold(0.01), 3, "The threshold is this score."),
    ],
)
def test_a_note_says_what_so_few_images_cannot_show(rule: Thresholder, images: int, end: str) -> None:
    (note,) = rule.notes(distribution(ExactScores, np.arange(images)))
    assert note == (
        f"A false-positive rate of 0.01 is too low for {images} normal validation images: of new normal images, "
        f"1 in {images + 1} exceeds their highest score. {end}"
    )


@pytest.mark.parametrize(
    ("rule", "images"),
    [
        (QuantileThreshold(0.99), 99),
        (QuantileThreshold(0.9), 9),
        (ExtremeValueThreshold(0.01), 99),
        (ManualThreshold(1), 1),
    ],
)
def test_nothing_to_note_of_enough_images(rule: Thresholder, images: int) -> None:
    assert not rule.notes(distribution(ExactScores, np.arange(images)))


@OF_NORMALS
def test_a_note_says_that_no_image_is_normal(rule: Thresholder) -> None:
    expected = "No validation image is normal: all scores from the lowest upwards count as anomalous."
    assert list(rule.notes(distribution(ExactScores, [1, 2], anomalous=1))) == [expected]


@pytest.mark.parametrize(("at", "where"), [("middle", "just above "), ("lowest_anomalous", "")])
def test_a_note_says_that_no_image_is_anomalous(at: At, where: str) -> None:
    expected = f"No validation image is anomalous: the threshold is {where}the highest normal score."
    assert list(F1AdaptiveThreshold(at).notes(distribution(ExactScores, [1, 2]))) == [expected]


def test_a_note_names_a_wide_gap() -> None:
    wide = distribution(ExactScores, [150, 167, 421.6, 500], [False, False, True, True])
    (note,) = F1AdaptiveThreshold().notes(wide)
    assert note == (
        "No validation image has a score between 167 and 421.6: every threshold there has the same F1 score. The "
        "middle is taken, measured in ranges of the normal scores."
    )
    assert not F1AdaptiveThreshold("lowest_anomalous").notes(wide)
    assert not F1AdaptiveThreshold().notes(distribution(ExactScores, SCORES, LABELS)), "there are scores everywhere"
    assert not F1AdaptiveThreshold().notes(distribution(ExactScores, [1, 2], [True, True]))


@pytest.mark.parametrize("value", [0, 1])
def test_rates_are_shares(value: float) -> None:
    with pytest.raises(ValueError, match=f"QuantileThreshold needs a quantile between 0 and 1, got {value}."):
        QuantileThreshold(value)
    with pytest.raises(
        ValueError, match=f"ExtremeValueThreshold needs a false_positive_rate between 0 and 1, got {value}"
    ):
        ExtremeValueThreshold(value)
    with pytest.raises(ValueError, match=f"ExtremeValueThreshold needs a tail between 0 and 1, got {value}."):
        ExtremeValueThreshold(tail=value)


RAW = torch.linspace(-2, 12, 29)
LEARNED = {"minimum": 0.0, "maximum": 10.0, "threshold": 4.0}
NORMALIZED = MinMax().apply(RAW, LEARNED)


@pytest.mark.parametrize("sensitivity", [0.0, 0.3, 0.5, 1.0])
def test_decisions_are_those_of_anomalibs_post_processor(sensitivity: float) -> None:
    theirs = PostProcessor(image_sensitivity=sensitivity, pixel_sensitivity=sensitivity)
    theirs.image_min, theirs.image_max, theirs._image_threshold = torch.tensor([0.0, 10.0, 4.0])
    theirs.pixel_min, theirs.pixel_max, theirs._pixel_threshold = torch.tensor([0.0, 10.0, 4.0])
    maps = RAW.view(1, 1, 1, -1)
    expected = theirs(InferenceBatch(pred_score=RAW, anomaly_map=maps))
    mine = decided(RAW, NORMALIZED, threshold=4.0, sensitivity=sensitivity)
    assert torch.equal(mine, expected.pred_label)
    assert torch.equal(mine.view(1, 1, 1, -1), expected.pred_mask)


def test_scores_that_rounding_would_join_are_parted_at_the_threshold() -> None:
    below, above = torch.tensor([1.0, 1 + 2**-23])
    learned = {"minimum": 0.0, "maximum": 1000.0, "threshold": 1.0}
    raw = torch.stack([below, above])
    normalized = MinMax().apply(raw, learned)
    assert normalized.tolist() == [0.5, 0.5]
    assert decided(raw, normalized, threshold=1.0, sensitivity=0.5).tolist() == [False, True]


@pytest.mark.parametrize("given", [-0.1, 1.1, "0.3", None, float("nan")])
def test_a_sensitivity_is_between_0_and_1(given: object) -> None:
    message = f"thresholding.pixel_sensitivity must be a number between 0 and 1, but is {given!r}. Higher finds more."
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        check_sensitivity("pixel_sensitivity", given, normalize_at="image", threshold_at="image")


@pytest.mark.parametrize("threshold_at", ["tile", "image"])
@pytest.mark.parametrize("normalize_at", ["tile", "image", "none"])
def test_a_sensitivity_needs_normalized_scores(normalize_at: str, threshold_at: str) -> None:
    places = {"normalize_at": normalize_at, "threshold_at": threshold_at}
    check_sensitivity("image_sensitivity", 0.5, **places)
    if (normalize_at, threshold_at) in {("image", "image"), ("tile", "image"), ("tile", "tile")}:
        check_sensitivity("image_sensitivity", 0.3, **places)
        return
    message = (
        "thresholding.image_sensitivity is 0.3, but a sensitivity needs normalized scores, and with "
        f"normalization.stage {normalize_at} and thresholding.stage {threshold_at} thresholds apply to raw "
        "scores. Set both stages to image or both to tile, or leave the sensitivity out and give a threshold by "
        "ManualThreshold."
    )
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        check_sensitivity("image_sensitivity", 0.3, **places)
