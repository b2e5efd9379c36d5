from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from anomalib_tiled.config.settings import ThresholdingSettings
from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.runs.image_decisions import ImageDecisions
from anomalib_tiled.stages.uncertain import Band, Uncertain

LEARNED = 12.5


def settings(normalize_at: str, threshold_at: str = "image", **changes: object) -> SimpleNamespace:
    thresholding = ThresholdingSettings(threshold_at, **changes)
    return SimpleNamespace(normalization=SimpleNamespace(stage=normalize_at), thresholding=thresholding)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (settings("image"), ImageDecisions(0.5)),
        (settings("tile"), ImageDecisions(0.5)),
        (settings("none"), ImageDecisions(LEARNED)),
        (settings("image", image_sensitivity=0.75), ImageDecisions(0.25)),
        (settings("image", "tile"), ImageDecisions(None)),
        (settings("tile", uncertain=Uncertain(width=0.5)), ImageDecisions(0.5, Band(0.25, 0.75))),
        (settings("none", uncertain=Uncertain(width=0.5)), ImageDecisions(LEARNED, Band(12.25, 12.75))),
        (settings("none", uncertain=Uncertain(lower=12, upper=13)), ImageDecisions(LEARNED, Band(12, 13))),
    ],
)
def test_the_threshold_is_that_of_reported_scores(given: SimpleNamespace, expected: ImageDecisions) -> None:
    assert ImageDecisions.of(given, LEARNED) == expected


def test_limits_without_the_threshold_are_refused_once_it_is_known() -> None:
    with pytest.raises(ConfigurationError, match=r"but is 12\.5, and the limits are 0\.4 and 0\.6: "):
        ImageDecisions.of(settings("none", uncertain=Uncertain(lower=0.4, upper=0.6)), LEARNED)


def test_they_are_read_from_files_alone(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    folder = SimpleNamespace(path=tmp_path, calibration_file=file, settings=lambda: settings("none"))
    with pytest.raises(RunFolderError, match=r"calibration.json is missing"):
        ImageDecisions.read(folder)
    file.write_text(json.dumps({"image": {"scores": {"threshold": LEARNED}}}))
    assert ImageDecisions.read(folder) == ImageDecisions(LEARNED)
    file.write_text(json.dumps({"image": None}))
    assert ImageDecisions.read(folder) == ImageDecisions(None)
    for changed in ({}, {"image": 3}, {"image": {"scores": {}}}):
        file.write_text(json.dumps(changed))
        with pytest.raises(RunFolderError, match=r"calibration.json has changed .* Delete it, and run fit --ckpt_dir"):
            ImageDecisions.read(folder)
