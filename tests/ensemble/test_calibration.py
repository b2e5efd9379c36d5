from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.ensemble.calibration import Calibration, Learned, Level, Stages
from anomalib_tiled.ensemble.false_alarms import FalseAlarms
from anomalib_tiled.ensemble.observed import Observed, Truth
from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.stages.merging import Gaussian, Mean
from anomalib_tiled.stages.normalization import MinMax
from anomalib_tiled.stages.scoring import Max
from anomalib_tiled.stages.thresholding import F1AdaptiveThreshold, ManualThreshold

STAGES = Stages(Mean(), Max(), None, MinMax(), F1AdaptiveThreshold(), "image", "image")
LEVEL = Level(Learned(1.5, {"minimum": 0.0, "maximum": 2.0, "threshold": 1.5}), Learned(2.5, None))
LABELS = torch.tensor([0, 0, 1])
SCORES = torch.tensor([1.0, 2.0, 4.0])
MAPS = torch.tensor([[1.0, 0.0], [10.0, 20.0], [30.0, 40.0]]).view(3, 1, 1, 2)
MASKS = torch.tensor([[0, 0], [0, 0], [0, 1]]).view(3, 1, 2)


def test_the_stages_of_a_configuration(configuration: dict[str, object]) -> None:
    stages = Stages.build(Settings.from_mapping(configuration))
    assert isinstance(stages.merger, Gaussian)
    assert stages.merger.sigma == 0.5
    assert stages.smoother is None
    assert (stages.normalize_at, stages.threshold_at) == ("image", "tile")
    assert stages.learn_from_tiles
    assert stages.learn_from_images


def test_tiles_whose_thresholds_decide_nothing_are_centred_on_those_of_f1() -> None:
    lowest_anomalous, manual = F1AdaptiveThreshold("lowest_anomalous"), ManualThreshold(3)
    for place, rule, expected in [
        ("image", lowest_anomalous, lowest_anomalous),
        ("tile", manual, manual),
        ("image", manual, None),
    ]:
        found = replace(STAGES, thresholder=rule, threshold_at=place).tile_rule
        assert found is expected if expected else (isinstance(found, F1AdaptiveThreshold) and found.at == "middle")


@pytest.mark.parametrize(("kind", "allowed"), [("normalization", "image, none, tile"), ("thresholding", "image, tile")])
def test_a_place_that_is_not_allowed(configuration: dict[str, object], kind: str, allowed: str) -> None:
    configuration[kind]["stage"] = "images"
    message = f"{kind}.stage cannot be 'images'. Did you mean 'image'? Allowed: {allowed}."
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Stages.build(Settings.from_mapping(configuration))


@pytest.mark.parametrize("name", ["image_sensitivity", "pixel_sensitivity"])
def test_sensitivities_come_from_the_configuration_and_are_checked(configuration: dict[str, object], name: str) -> None:
    configuration["thresholding"] |= {"stage": "image", name: 0.3}
    assert getattr(Stages.build(Settings.from_mapping(configuration)), name) == 0.3
    configuration["normalization"]["stage"] = "none"
    with pytest.raises(ConfigurationError, match=f"^thresholding.{name} is 0.3, but a sensitivity needs normalized"):
        Stages.build(Settings.from_mapping(configuration))


def test_a_calibration_survives_json() -> None:
    tiles = {"r00_c00": LEVEL, "r00_c01": LEVEL}
    calibration = Calibration(image=LEVEL, tiles=tiles, notes=("a note",), borrowed={"r00_c00": "r00_c01"})
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration
    assert Calibration.from_json(json.loads(json.dumps(Calibration().to_json()))) == Calibration()
    of_earlier_version = {name: value for name, value in calibration.to_json().items() if name != "borrowed"}
    assert Calibration.from_json(of_earlier_version) == replace(calibration, borrowed={})


def test_false_alarms_are_kept_where_they_are_known() -> None:
    calibration = Calibration(false_alarms=FalseAlarms(0.1, 0.021, 0.265, 30))
    content = json.loads(json.dumps(calibration.to_json()))
    assert content["false_alarms"] == {"rate": 0.1, "low": 0.021, "high": 0.265, "images": 30}
    assert Calibration.from_json(content) == calibration
    assert "false_alarms" not in Calibration().to_json()
    del content["false_alarms"]["low"]
    with pytest.raises(RunFolderError, match=r"^calibration.json has changed \(TypeError"):
        Calibration.from_json(content)


def test_a_calibration_that_was_altered() -> None:
    content = {name: value for name, value in Calibration().to_json().items() if name != "tiles"}
    with pytest.raises(RunFolderError, match=r"calibration.json has changed \(KeyError\('tiles'\)\). Delete it, and"):
        Calibration.from_json(content)


def test_scores_and_maps_have_scales_of_their_own() -> None:
    observed = Observed()
    observed.add(SCORES, MAPS, Truth.of(LABELS, MASKS, 3))
    level = observed.learn(STAGES, normalize=True)
    assert 2 < level.scores.threshold < 4
    assert 30 < level.maps.threshold < 40
    lowest_anomalous = replace(STAGES, thresholder=F1AdaptiveThreshold("lowest_anomalous"))
    level = observed.learn(lowest_anomalous, normalize=True)
    assert level.scores.threshold == pytest.approx(4, abs=1e-3)
    assert level.maps.threshold == pytest.approx(40, abs=1e-2)
    assert level.scores.normalization == pytest.approx({"minimum": 1, "maximum": 4, "threshold": 4}, abs=1e-3)
    assert level.maps.normalization == pytest.approx({"minimum": 0, "maximum": 40, "threshold": 40}, abs=1e-2)


def test_without_masks_no_pixel_of_an_anomalous_image_counts_as_normal() -> None:
    observed = Observed()
    observed.add(SCORES, MAPS, Truth.of(LABELS, None, 3))
    assert observed.maps.maximum_normal == 20
    assert observed.maps.peaks.tolist() == [1, 20]
    assert observed.maps.has_anomalous


def test_batch_by_batch_is_all_at_once() -> None:
    whole, pieces = Observed(), Observed()
    whole.add(SCORES, MAPS, Truth.of(LABELS, MASKS, 3))
    for each in range(3):
        part = slice(each, each + 1)
        pieces.add(SCORES[part], MAPS[part], Truth.of(LABELS[part], MASKS[part], 1))
    assert pieces.learn(STAGES, normalize=True) == whole.learn(STAGES, normalize=True)


def test_without_masks_the_threshold_of_the_scores_serves_for_the_maps() -> None:
    observed = Observed()
    observed.add(SCORES, MAPS, Truth.of(LABELS, None, 3))
    level = observed.learn(STAGES, normalize=True)
    assert level.maps.threshold == level.scores.threshold
    assert level.maps.normalization["maximum"] == 40


def test_one_batch_without_masks_is_enough_not_to_trust_the_others() -> None:
    observed = Observed()
    observed.add(SCORES, MAPS, Truth.of(LABELS, MASKS, 3))
    observed.add(SCORES, MAPS, Truth.of(LABELS, None, 3))
    level = observed.learn(STAGES, normalize=False)
    assert level.maps.threshold == level.scores.threshold


def test_a_model_without_maps_has_one_scale() -> None:
    observed = Observed()
    observed.add(SCORES, None, Truth.of(LABELS, MASKS, 3))
    level = observed.learn(STAGES, normalize=False)
    assert level.maps == level.scores
    assert level.scores.normalization is None


def test_a_tile_is_anomalous_where_its_mask_is_or_without_masks_where_its_image_is() -> None:
    masks = np.zeros((2, 4, 6), dtype=bool)
    masks[1, 1, 4] = True
    truth = Truth(np.array([False, True]), masks)
    left, right = truth.cut(slice(0, 4), slice(0, 3)), truth.cut(slice(0, 4), slice(3, 6))
    assert (left.labels.tolist(), right.labels.tolist()) == ([False, False], [False, True])
    assert np.argwhere(right.masks).tolist() == [[1, 1, 1]]
    assert replace(truth, masks=None).cut(slice(0, 1), slice(0, 1)).labels.tolist() == [False, True]
    assert Truth.of(None, None, 2).labels.tolist() == [False, False]


def test_nothing_is_learned_from_pixels_and_defects_that_no_model_sees() -> None:
    observed = Observed(uninspected=np.array([[False, True]]))
    observed.add(SCORES, MAPS, Truth.of(LABELS, MASKS, 3))
    maps, scores = observed.maps.counts(), observed.scores.counts()
    assert (maps.lower.tolist(), maps.anomalous.tolist()) == ([1, 10, 30], [0, 0, 0])
    assert (scores.lower.tolist(), scores.anomalous.tolist()) == ([1, 2], [0, 0]), "its defect lies only there"


def test_without_masks_nobody_knows_what_no_model_sees() -> None:
    observed = Observed(uninspected=np.array([[False, True]]))
    observed.add(SCORES, None, Truth.of(LABELS, None, 3))
    assert observed.scores.counts().anomalous.tolist() == [0, 0, 1]
