"""Tiles that share a model: whole commands on photographs."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from anomalib_tiled import TiledEnsemble
from anomalib_tiled.cli.main import main
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.runs.run_folder import RunFolder

pytestmark = pytest.mark.slow

Configure = Callable[..., Path]


def test_a_run_has_a_model_for_each_group(
    finished_sharing: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder = finished_sharing
    groups = json.loads((run_folder / "groups.json").read_text())["groups"]
    names = [group[0] for group in groups]
    assert sum(map(len, groups)) == 9
    assert sorted(path.name for path in run_folder.glob("tiles/r*.ckpt")) == [f"{name}.ckpt" for name in names]
    calibrated = Run.open(RunFolder.open(run_folder))
    assert len(calibrated.grid.tiles) == 9
    with (run_folder / "tiles.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 9
    assert len({path.name.partition(".")[0] for path in run_folder.glob("raw/*/r*.values")}) == 9

    capsys.readouterr()
    assert main(["status", "--ckpt_dir", str(run_folder)]) == 0
    said = capsys.readouterr().out
    assert f"{names[0]}  {', '.join(groups[0][:4])}" in said
    assert "2 of 2 tiles done, calibrated." in said

    output = tmp_path / "predictions"
    assert (
        main(["predict", "--ckpt_dir", str(run_folder), "--data", f"{photographs}/bad", "--output", str(output)]) == 0
    )
    ensemble = TiledEnsemble.load(run_folder)
    with (output / "predictions.csv").open(newline="") as file, (run_folder / "scores.csv").open(newline="") as tested:
        predicted = {Path(row["image_path"]).name: float(row["pred_score"]) for row in csv.DictReader(file)}
        scores = {row["image_path"]: float(row["pred_score"]) for row in csv.DictReader(tested)}
    for path in (photographs / "bad").glob("*.png"):
        assert predicted[path.name] == pytest.approx(scores[str(path)], abs=1e-5), "alone and tile by tile"
        assert ensemble.predict(path).score == pytest.approx(scores[str(path)], abs=1e-5)


def test_any_tile_names_the_model_to_train_again(
    finished_sharing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder = shutil.copytree(finished_sharing, tmp_path / "v0")
    checkpoints = {path.name: path.stat().st_mtime_ns for path in run_folder.glob("tiles/r*.ckpt")}
    groups = json.loads((run_folder / "groups.json").read_text())["groups"]
    assert main(["fit", "--ckpt_dir", str(run_folder), "--tiles", f"{groups[1][-1]},{groups[1][1]}"]) == 0
    again = {
        path.name for path in run_folder.glob("tiles/r*.ckpt") if path.stat().st_mtime_ns != checkpoints[path.name]
    }
    assert again == {f"{groups[1][0]}.ckpt"}
    (run_folder / "groups.json").unlink()
    capsys.readouterr()
    assert main(["status", "--ckpt_dir", str(run_folder)]) == 2
    assert "groups.json is missing. It says which tiles share a model: restore it" in capsys.readouterr().err


def test_a_group_of_one_tile_is_what_a_tile_is_by_itself(configure: Configure, finished_run: Path) -> None:
    alone = {"class_path": "Grid", "init_args": {"rows": 3, "columns": 3}}
    path = configure(assignment=alone)
    assert main(["train", "--config", str(path)]) == 0
    run = path.parent / "results" / "Padim" / "photographs" / "v0"
    for name in ("scores.csv", "tiles.csv"):
        assert (run / name).read_text() == (finished_run / name).read_text()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            {"class_path": "Clusters", "init_args": {"number": 10}},
            "at most as many groups as there are tiles, but has 10 for 9",
        ),
        (
            {"class_path": "Clusters", "init_args": {"number": 0}},
            "Clusters needs a number of groups of at least 1, got 0.",
        ),
        (
            {"class_path": "Groups", "init_args": {"groups": [["r00_*", "r01_*"], ["r01_c02", "r02_*"]]}},
            "Groups must name each of the 9 tiles exactly once, but name 1 more than once: r01_c02.",
        ),
        (
            {"class_path": "Groups", "init_args": {"groups": [["r00_*", "r01_*"]]}},
            "Groups must name each of the 9 tiles exactly once, but name 3 not at all: r02_c00, r02_c01, r02_c02.",
        ),
        (
            {"class_path": "Groups", "init_args": {"groups": [["r0*"], ["r03_c00"]]}},
            "assignment Groups must name tiles of the grid, but names 'r03_c00'.",
        ),
    ],
)
def test_groups_that_do_not_fit_are_refused_before_training(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str], assignment: object, message: str
) -> None:
    assert main(["fit", "--config", str(configure(assignment=assignment))]) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "results").rglob("v0"))


@pytest.mark.parametrize("form", ["torch", "onnx", "openvino", "checkpoints"])
def test_an_export_has_each_model_once(finished_sharing: Path, tmp_path: Path, form: str) -> None:
    run_folder = finished_sharing
    output = tmp_path / form
    assert main(["export", "--ckpt_dir", str(run_folder), "--format", form, "--output", str(output)]) == 0
    own = sum(path.stat().st_size for path in run_folder.glob("tiles/*.ckpt"))
    exported = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    graphs = 0 if form == "checkpoints" else 9 * 400_000
    assert exported < 2.2 * own + graphs
