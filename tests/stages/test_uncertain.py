from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.uncertain import Band, Uncertain, check_limits, verdict_by, verdict_on


@pytest.mark.parametrize(("score", "expected"), [(0.45, False), (0.4500001, True), (0.55, True), (0.5500001, False)])
def test_scores_above_the_lower_limit_and_up_to_the_upper_one_are_uncertain(score: float, *, expected: bool) -> None:
    assert Band(0.45, 0.55).holds(score) is expected
    assert Band(0.45, 0.55).holds(float(np.float32(score))) is expected, "scores are in single precision"


def test_the_limits_are_compared_as_the_threshold_is() -> None:
    """So a limit that is the threshold parts the same scores."""
    for threshold in np.random.default_rng(0).random(1000).tolist():
        score = torch.tensor([threshold], dtype=torch.float32)
        assert not bool(score > threshold)
        assert Band(threshold - 0.1, threshold).holds(float(score))
        assert not Band(threshold, threshold + 0.1).holds(float(score))


def test_a_width_lies_around_the_threshold() -> None:
    assert Uncertain(width=0.1).around(0.5) == Band(0.45, 0.55)
    assert Uncertain(width=3).around(20) == Band(18.5, 21.5)


def test_two_limits_include_the_threshold() -> None:
    limits = Uncertain(lower=0.45, upper=0.6)
    for threshold in (0.45, 0.5, 0.6):
        assert limits.around(threshold) == Band(0.45, 0.6)
    for threshold in (0.4, 0.61):
        with pytest.raises(
            ConfigurationError, match=rf"but is {threshold}, and the limits are 0\.45 and 0\.6: .*width"
        ):
            limits.around(threshold)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"width": 0},
        {"width": -0.1},
        {"width": float("nan")},
        {"width": float("inf")},
        {"width": "wide"},
        {"lower": 0.4},
        {"upper": 0.4},
        {"lower": 0.6, "upper": 0.4},
        {"lower": 0.5, "upper": 0.5},
        {"width": 0.1, "lower": 0.4, "upper": 0.6},
        {"width": 0.1, "upper": 0.6},
    ],
)
def test_what_is_neither_a_width_nor_two_limits_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"or null, but is {given}.")):
        Uncertain(**given)


def test_limits_are_checked_before_training_where_the_threshold_is_known() -> None:
    limits = Uncertain(lower=0.6, upper=0.7)
    for normalize_at in ("image", "tile"):
        with pytest.raises(
            ConfigurationError, match=r"must be within thresholding.uncertain, but is 0\.5, and the limits"
        ):
            check_limits(limits, sensitivity=0.5, normalize_at=normalize_at, threshold_at="image")
        check_limits(limits, sensitivity=0.35, normalize_at=normalize_at, threshold_at="image")
    check_limits(limits, sensitivity=0.5, normalize_at="none", threshold_at="image")


def test_tiles_have_no_threshold_of_images() -> None:
    message = (
        "thresholding.uncertain needs thresholding.stage image, .* but the stage is tile, .* Set the stage to image"
    )
    with pytest.raises(ConfigurationError, match=message):
        check_limits(Uncertain(width=0.1), sensitivity=0.5, normalize_at="tile", threshold_at="tile")


def test_the_verdict_is_that_of_the_label_unless_an_image_is_uncertain() -> None:
    assert verdict_on(is_anomalous=True, is_uncertain=True) == "uncertain"
    assert verdict_on(is_anomalous=False, is_uncertain=True) == "uncertain"
    for undecided in (False, None):
        assert verdict_on(is_anomalous=True, is_uncertain=undecided) == "anomalous"
        assert verdict_on(is_anomalous=False, is_uncertain=undecided) == "normal"


def test_a_verdict_goes_by_the_score() -> None:
    assert verdict_by(Band(0.4, 0.6), 0.6, is_anomalous=True) == "uncertain"
    assert verdict_by(Band(0.4, 0.6), 0.7, is_anomalous=True) == "anomalous"
    assert verdict_by(Band(0.4, 0.6), None, is_anomalous=True) == "anomalous"
    assert verdict_by(None, 0.5, is_anomalous=False) == "normal"
