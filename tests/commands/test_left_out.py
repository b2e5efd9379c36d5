"""A white margin, on which Dfkde cannot be fitted: its covariance matrices are singular."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_tiled import TiledEnsemble
from anomalib_tiled.cli.main import main
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.runs.run_folder import RunFolder

pytestmark = pytest.mark.slow

MARGIN = 50
"""Columns of the images that are white: as many as a tile has."""

DFKDE = {"pre_trained": False, "backbone": "resnet18", "layers": ["layer1"], "n_pca_components": 4}
LEFT_OUT = ["r00_c00", "r01_c00"]
NOTE = "Note: 2 of 6 tiles are left out: r00_c00, r01_c00 (Dfkde cannot be fitted on these tiles"


@pytest.fixture
def with_margin(photographs: Path, tmp_path: Path) -> Path:
    """Copy the photographs with a white margin; one of the defects lies in it, and only there."""
    root = tmp_path / "with_margin"
    shutil.copytree(photographs, root)
    for path in sorted(path for path in root.rglob("*.png") if path.parent.name != "mask"):
        pixels = np.array(Image.open(path))
        pixels[:, :MARGIN] = 255
        Image.fromarray(pixels).save(path)
    mask = np.zeros_like(np.array(Image.open(root / "mask" / "000.png")))
    mask[3:9, 3:9] = 255
    Image.fromarray(mask).save(root / "mask" / "000.png")
    return root


@pytest.fixture
def configuration(configure: Callable[..., Path], with_margin: Path) -> Path:
    model = {"class_path": "Dfkde", "init_args": DFKDE}
    return configure(with_margin, model=model, tiling__tile_size=[56, MARGIN], tiling__stride=None)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return tmp_path / "results" / "Dfkde" / "photographs" / "v0"


def test_the_run_goes_on_without_the_margin_and_says_so(
    configuration: Path, run_folder: Path, with_margin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--config", str(configuration)]) == 0
    said = capsys.readouterr().out
    assert said.count(NOTE) == 2, "fit and test say it"
    assert "5600 pixels of an image (33.3 %) are not inspected: no defect is found there." in said
    assert "1 of them nowhere else. Image metrics count them" in said
    assert main(["status", "--ckpt_dir", str(run_folder)]) == 0
    assert "4 of 6 tiles done, 2 left out, calibrated." in capsys.readouterr().out
    with (run_folder / "tiles.csv").open(newline="") as file:
        rows = {row["tile"]: row["left_out"] for row in csv.DictReader(file)}
    assert [name for name, left_out in rows.items() if left_out == "yes"] == LEFT_OUT
    assert json.loads((run_folder / "metrics.json").read_text())["image_AUROC"] is not None
    checkpoints = {path: path.stat() for path in run_folder.glob("tiles/*.ckpt")}
    assert main(["fit", "--ckpt_dir", str(run_folder)]) == 0
    assert NOTE in capsys.readouterr().out
    assert {path: path.stat() for path in run_folder.glob("tiles/*.ckpt")} == checkpoints
    output, new = tmp_path / "predictions", f"{with_margin}/bad"
    assert main(["predict", "--ckpt_dir", str(run_folder), "--data", new, "--output", str(output)]) == 0
    assert NOTE in capsys.readouterr().err
    with pytest.warns(UserWarning, match="2 of 6 tiles are left out"):
        ensemble = TiledEnsemble.load(run_folder)
    with (output / "predictions.csv").open(newline="") as file:
        scores = {row["image_path"]: float(row["pred_score"]) for row in csv.DictReader(file)}
    for path, score in scores.items():
        assert ensemble.predict(path).score == pytest.approx(score, abs=1e-6)


def test_it_may_be_an_error(configuration: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", str(configuration), "--unfitted_tiles", "error"]) == 2
    said = capsys.readouterr().err
    assert "2 tiles could not be trained; all others are done." in said
    assert "To leave out the locations where the model cannot be fitted, set unfitted_tiles: leave_out." in said
    assert not Run.open(RunFolder.open(run_folder)).grid.left_out
