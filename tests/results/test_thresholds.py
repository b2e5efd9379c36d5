from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import InferenceBatch

from anomalib_tiled.ensemble.calibration import Calibration, Learned, Level, Stages
from anomalib_tiled.ensemble.raw_prediction import RawPrediction
from anomalib_tiled.ensemble.validation_scores import NormalScores, ValidationScores
from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.results.request import PredictionSettings
from anomalib_tiled.results.thresholds import (
    FinalThresholds,
    Threshold,
    Thresholds,
    final_thresholds,
    thresholds_of,
)
from anomalib_tiled.stages.merging import Mean
from anomalib_tiled.stages.normalization import MinMax
from anomalib_tiled.stages.scoring import Max
from anomalib_tiled.stages.thresholding import NEUTRAL, F1AdaptiveThreshold

HUNDRED = NormalScores(np.arange(1.0, 101), np.ones(100))
NOTHING = NormalScores(np.zeros(0), np.zeros(0))
SCORES = ValidationScores(HUNDRED, NormalScores(np.array([7.0]), np.array([1e6])), "abc")


def looked_up(
    images: str | None, pixels: str | None, scores: ValidationScores | None = SCORES, stage: str = "image"
) -> tuple[Thresholds, tuple[str, ...]]:
    """Look thresholds up in a run that keeps these scores."""
    place = SimpleNamespace(stage=stage, uncertain=None)
    settings = SimpleNamespace(normalization=place, thresholding=place)
    run = SimpleNamespace(settings=settings, validation_scores=lambda: scores, folder=SimpleNamespace(path="RUN"))
    return thresholds_of(run, PredictionSettings(images, pixels))


def raw(*, has_maps: bool = True) -> RawPrediction:
    maps = torch.tensor([[1.0, 8.0], [3.0, 4.0]]).view(1, 1, 2, 2)
    return RawPrediction(torch.tensor([8.0]), maps, has_maps, None, None)


def decided(given: RawPrediction) -> InferenceBatch:
    return InferenceBatch(
        pred_score=given.scores / 10,
        anomaly_map=given.maps / 10,
        pred_label=torch.tensor([False]),
        pred_mask=torch.zeros(1, 1, 2, 2, dtype=torch.bool) if given.has_maps else None,
    )


@pytest.mark.parametrize(
    ("text", "threshold"),
    [
        ("0.7", Threshold(0.7, raw=False)),
        ("-3", Threshold(-3, raw=False)),
        ("1e-3", Threshold(0.001, raw=False)),
        (" .5 ", Threshold(0.5, raw=False)),
        ("q0.99", Threshold(99, raw=True)),
        ("q1", Threshold(100, raw=True)),
        ("fpr0.01", Threshold(99, raw=True)),
        ("fpr 0.5", Threshold(50, raw=True)),
    ],
)
def test_what_can_be_asked_for(text: str, threshold: Threshold) -> None:
    assert looked_up(text, None) == (Thresholds(threshold, None), ())


@pytest.mark.parametrize("text", ["", "high", "q", "q1.1", "fpr-0.1", "nan", "0.5%", "1e999"])
def test_what_cannot(text: str) -> None:
    for option in ("threshold", "pixel_threshold"):
        with pytest.raises(ConfigurationError, match=f"^--{option} must be a score such as 0.7, .* but is '{text}'"):
            PredictionSettings(**{option: text})


def test_the_smallest_area_is_no_less_than_nothing() -> None:
    with pytest.raises(ConfigurationError, match=r"^--min_area must be a number of pixels, 0 for .*, but is -1.$"):
        PredictionSettings(min_area=-1)


def test_a_number_needs_no_validation_scores() -> None:
    assert looked_up("0.5", "0.6", None)[0] == Thresholds(Threshold(0.5, raw=False), Threshold(0.6, raw=False))


def test_images_and_pixels_are_looked_up_each_among_their_own() -> None:
    assert looked_up("q0.5", "q0.5")[0] == Thresholds(Threshold(50, raw=True), Threshold(7, raw=True))


def test_without_scores_a_fraction_says_why() -> None:
    with pytest.raises(
        RunFolderError, match=r"q0\.5 is looked up among the scores of normal .* RUN keeps none, because"
    ):
        looked_up(None, "q0.5", None)
    with pytest.raises(RunFolderError, match=r"A run that normalizes and thresholds tiles has no such scores\."):
        looked_up(None, "q0.5", None, "tile")
    with pytest.raises(RunFolderError, match=r"There are none, or masks are unknown\. Give a number\.$"):
        looked_up(None, "q0.5", ValidationScores(HUNDRED, NOTHING, "abc"))


@pytest.mark.parametrize(("text", "told"), [("q0.99", False), ("fpr0.01", False), ("q0.991", True), ("q1", False)])
def test_a_fraction_finer_than_the_scores_is_reported(text: str, *, told: bool) -> None:
    _, notes = looked_up(text, None)
    assert notes == ((f"{text} is finer than 100 normal validation scores resolve: it is the highest of them.",) * told)


def test_no_threshold_leaves_what_was_decided() -> None:
    given = decided(raw())
    assert Thresholds().decide(raw(), given).pred_label is given.pred_label
    assert Thresholds().decide(raw(), given).pred_mask is given.pred_mask


def test_each_threshold_replaces_its_own_decision() -> None:
    given = decided(raw())
    labelled = Thresholds(images=Threshold(0.7, raw=False)).decide(raw(), given)
    assert labelled.pred_label.tolist() == [True]
    assert labelled.pred_mask is given.pred_mask
    masked = Thresholds(pixels=Threshold(3, raw=True)).decide(raw(), given)
    assert masked.pred_label is given.pred_label
    assert masked.pred_mask.flatten().tolist() == [False, True, False, True]


def test_what_equals_a_threshold_is_normal() -> None:
    assert Thresholds(images=Threshold(8, raw=True)).decide(raw(), decided(raw())).pred_label.tolist() == [False]


def test_a_model_without_maps_has_no_mask_whatever_the_threshold() -> None:
    given = raw(has_maps=False)
    assert Thresholds(pixels=Threshold(0, raw=True)).decide(given, decided(given)).pred_mask is None


LEARNED = {"minimum": 0.0, "maximum": 10.0, "threshold": 4.0}
NEVER = FinalThresholds(None, None)


def final(
    normalize: str, threshold: str, given: Thresholds | None = None, *, sensitivity: float = NEUTRAL
) -> FinalThresholds:
    """Give the thresholds of a calibration with the threshold 4 for images, and 5 for pixels."""
    places: dict[str, Any] = {"normalize_at": normalize, "threshold_at": threshold}
    stages = Stages(Mean(), Max(), None, MinMax(), F1AdaptiveThreshold(), **places, image_sensitivity=sensitivity)
    numbers = LEARNED if normalize == "image" else None
    level = Level(Learned(4.0, numbers), Learned(5.0, None if numbers is None else {**numbers, "threshold": 5.0}))
    return final_thresholds(stages, Calibration(image=level if stages.learn_from_images else None), given)


@pytest.mark.parametrize(
    ("normalize", "threshold", "expected"),
    [
        ("image", "image", FinalThresholds(0.5, 0.5)),
        ("tile", "image", FinalThresholds(0.5, 0.5)),
        ("none", "image", FinalThresholds(4.0, 5.0)),
        ("tile", "tile", NEVER),
        ("image", "tile", NEVER),
        ("none", "tile", NEVER),
    ],
)
def test_thresholds_are_shown_on_the_scale_of_final_scores(
    normalize: str, threshold: str, expected: FinalThresholds
) -> None:
    assert final(normalize, threshold) == expected


def test_a_sensitivity_is_shown_as_the_threshold_that_it_makes() -> None:
    assert final("image", "image", sensitivity=0.75) == FinalThresholds(0.25, 0.5)


def test_given_thresholds_replace_them() -> None:
    given = Thresholds(Threshold(0.7, raw=False), Threshold(6.0, raw=True))
    assert final("image", "image", given) == FinalThresholds(0.7, pytest.approx(0.6))
    assert final("none", "image", given) == FinalThresholds(0.7, 6.0)
    assert final("tile", "tile", given) == FinalThresholds(0.7, 6.0)
