from __future__ import annotations

import re

import pytest
import torch
from anomalib.data import InferenceBatch
from anomalib.post_processing import PostProcessor

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.normalization import MinMax
from anomalib_tiled.stages.sensitivity import check_sensitivity, decided

RAW = torch.linspace(-2, 12, 29)
LEARNED = {"minimum": 0.0, "maximum": 10.0, "threshold": 4.0}
NORMALIZED = MinMax().apply(RAW, LEARNED)


@pytest.mark.parametrize("sensitivity", [0.0, 0.1, 0.3, 0.5, 0.7, 1.0])
def test_decisions_are_those_of_anomalibs_post_processor(sensitivity: float) -> None:
    theirs = PostProcessor(image_sensitivity=sensitivity, pixel_sensitivity=sensitivity)
    theirs.image_min, theirs.image_max, theirs._image_threshold = torch.tensor([0.0, 10.0, 4.0])
    theirs.pixel_min, theirs.pixel_max, theirs._pixel_threshold = torch.tensor([0.0, 10.0, 4.0])
    maps = RAW.view(1, 1, 1, -1)
    expected = theirs(InferenceBatch(pred_score=RAW, anomaly_map=maps))
    mine = decided(RAW, NORMALIZED, threshold=4.0, sensitivity=sensitivity)
    assert torch.equal(mine, expected.pred_label)
    assert torch.equal(mine.view(1, 1, 1, -1), expected.pred_mask)


def test_higher_finds_more() -> None:
    counts = [int(decided(RAW, NORMALIZED, threshold=4.0, sensitivity=each / 10).sum()) for each in range(11)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 26), "nothing lies above 1, and all but what is cut off to 0 above 0"


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


def is_allowed(given: float, normalize_at: str, threshold_at: str) -> bool:
    try:
        check_sensitivity("image_sensitivity", given, normalize_at=normalize_at, threshold_at=threshold_at)
    except ConfigurationError:
        return False
    return True


@pytest.mark.parametrize("normalize_at", ["tile", "image", "none"])
@pytest.mark.parametrize("threshold_at", ["tile", "image"])
def test_the_neutral_one_is_always_allowed_and_others_where_decided_scores_are_normalized(
    normalize_at: str, threshold_at: str
) -> None:
    normalized = (normalize_at, threshold_at) in {("image", "image"), ("tile", "image"), ("tile", "tile")}
    assert is_allowed(0.5, normalize_at, threshold_at)
    for other in (0, 0.3, 1):
        assert is_allowed(other, normalize_at, threshold_at) == normalized


@pytest.mark.parametrize(("normalize_at", "threshold_at"), [("none", "image"), ("none", "tile"), ("image", "tile")])
def test_scores_on_the_models_own_scale_have_no_sensitivity(normalize_at: str, threshold_at: str) -> None:
    message = (
        "thresholding.image_sensitivity is 0.3, but a sensitivity needs normalized scores, and with "
        f"normalization.stage {normalize_at} and thresholding.stage {threshold_at} thresholds apply to raw "
        "scores. Set both stages to image or both to tile, or leave the sensitivity out and give a threshold by "
        "ManualThreshold."
    )
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        check_sensitivity("image_sensitivity", 0.3, normalize_at=normalize_at, threshold_at=threshold_at)
