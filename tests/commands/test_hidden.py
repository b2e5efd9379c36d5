"""A run whose left half is ignored: calibrated, tested, exported, and predicting new images, by the real commands."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_tiled import pipeline
from anomalib_tiled.api import TiledEnsemble
from anomalib_tiled.data.scope import Scope
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.export.export import ExportRequest, export
from anomalib_tiled.export.formats import FORMATS
from anomalib_tiled.plugins.observers import Observers
from anomalib_tiled.results.request import PredictionRequest, PredictionSettings
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.training.calibrate import calibrate, keep_calibration

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("kept_models")]

HALF = 75
"""Columns that are ignored."""


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Run:
    """A copy of the finished run, which ignores the left half of its images, calibrated anew."""
    shutil.copytree(finished_run, tmp_path / "run", symlinks=True)
    run = Run.open(RunFolder.open(tmp_path / "run")).with_cache()
    ignored = np.zeros(run.grid.image_size, dtype=np.bool_)
    ignored[:, :HALF] = True
    run = replace(run, source=replace(run.source, scope=Scope(ignored)))
    keep_calibration(run, calibrate(run))
    return run


def test_an_ignored_half_is_nowhere_in_the_results(
    run: Run, photographs: Path, tmp_path: Path, without_margin: Callable[..., np.ndarray]
) -> None:
    output, observers = tmp_path / "predictions", Observers([])
    settings = PredictionSettings(maps="npy", masks=True, overlays=True)
    request = PredictionRequest((str(photographs / "bad"),), (), output, settings, skip_existing=False, device="cpu")
    pipeline.predict(run, observers, request, print)
    maps = [np.load(path) for path in sorted(output.rglob("maps/**/*.npy"))]
    assert maps
    assert all(np.isnan(each[:, :HALF]).all() and not np.isnan(each[:, HALF:]).any() for each in maps)
    pipeline.rethreshold(run, output, PredictionSettings(pixel_threshold="-1"), print)  # everything exceeds it
    masks = [np.asarray(Image.open(path)) for path in sorted(output.rglob("masks/**/*.png"))]
    assert len(masks) == len(maps)
    assert all(not each[:, :HALF].any() and each[:, HALF:].all() for each in masks)
    for path in sorted(output.rglob("images/**/*.png")):
        plain = np.asarray(Image.open(photographs / "bad" / path.name).convert("RGB"))
        drawn = without_margin(Image.open(path), plain.shape[:2])
        assert np.array_equal(drawn[:, : HALF - 4], plain[:, : HALF - 4]), "but for the line around the other half"
    ensemble = TiledEnsemble.from_run(run, "cpu")
    with (output / "predictions.csv").open(newline="") as file:
        scores = {row["image_path"]: float(row["pred_score"]) for row in csv.DictReader(file)}
    for path, score in scores.items():
        found = ensemble.predict(path)
        assert found.score == pytest.approx(score, abs=1e-6)
        assert np.isnan(found.map[:, :HALF]).all()
        assert not found.mask[:, :HALF].any()

    measured = pipeline.test(run, observers, data=None, output=tmp_path / "tested", report=False)
    truths = [np.asarray(Image.open(path))[:, HALF:].any() for path in photographs.glob("mask/*")]
    assert measured.images["image"].anomalous == sum(truths)
    assert any("Image metrics leave out" in note for note in measured.notes) == (not all(truths))
    assert json.loads((tmp_path / "tested" / "metrics.json").read_text())["pixel_AUROC"] is not None


@pytest.mark.parametrize("per_tile", [False, True])
def test_exported_files_ignore_it_too(run: Run, tmp_path: Path, *, per_tile: bool) -> None:
    request = ExportRequest(FORMATS["onnx"], tmp_path / "exported", per_tile=per_tile)
    assert export(run, request).checked.largest_difference < 1e-4
