"""A third of the image is ignored, and two regions have names: what each command makes of it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from anomalib_tiled import TiledEnsemble
from anomalib_tiled.cli.main import main

pytestmark = pytest.mark.slow

NOTE = "Note: The regions ignore 33.3 % of the pixels of an image; 2 of 6 tile locations have no model."
IGNORED, INSPECTED = ["r00_c00", "r01_c00"], ["r00_c01", "r00_c02", "r01_c01", "r01_c02"]
NAMED = ["lower right", "upper"]
COLUMNS = [f"{column}_{name}" for name in NAMED for column in ("pred_score", "pred_label")]

Configure = Callable[..., Path]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def without_columns_of_test_images(row: dict[str, str]) -> list[str]:
    return [row[name] for name in ("top", "left", "image_AUROC", "pixel_AUROC", "normal_mean", "anomalous_mean")]


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """The regions, as fractions of the image."""
    shapes = {
        "ignore": [{"rectangle": [0, 0, 1 / 3, 1]}],
        "upper": [{"rectangle": [0.2, 0, 0.8, 0.5]}],
        "lower right": [{"polygon": [[1, 0.5], [1, 1], [0.5, 1]]}],
    }
    path = tmp_path / "regions.yaml"
    path.write_text(yaml.safe_dump({"regions": shapes}))
    return path


def test_regions(configure: Configure, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiling = {"tiling__tile_size": [56, 50], "tiling__stride": None}
    places = {"workers__init_args__processes": 2}
    assert main(["train", "--config", str(configure(regions={"file": str(drawn)}, **tiling, **places))]) == 0
    run, said = tmp_path / "results" / "Padim" / "photographs" / "v0", capsys.readouterr().out
    assert re.search(r", 2 of \d+ tiles ignored\n", said)
    assert said.count(NOTE) == 2, "fit and test say it"
    drawn.unlink()  # the run keeps what it needs
    assert main(["status", "--ckpt_dir", str(run)]) == 0
    assert "4 of 6 tiles done, 2 ignored, calibrated." in capsys.readouterr().out
    assert sorted(path.stem for path in run.glob("tiles/r*.ckpt")) == INSPECTED
    assert (run / "regions.png").is_file()
    tiles = {row["tile"]: row for row in rows_of(run / "tiles.csv")}
    assert [*tiles] == [*INSPECTED, *NAMED]
    assert {row["left_out"] for row in tiles.values()} == {"no"}
    calibration = json.loads((run / "calibration.json").read_text())
    assert sorted(calibration["regions"]) == NAMED
    scores = rows_of(run / "scores.csv")
    assert [*scores[0]][-4:] == COLUMNS
    for name in NAMED:
        called = sum(row[f"pred_label_{name}"] == "1" for row in scores)
        row = {key: int(value) for key, value in tiles[name].items() if key in {"anomalous", "missed", "false_alarms"}}
        assert called == row["anomalous"] - row["missed"] + row["false_alarms"]

    output, new = tmp_path / "predictions", scores[0]["image_path"]
    command = ["predict", "--ckpt_dir", str(run), "--output", str(output)]
    assert main([*command, "--data", str(Path(new).parent)]) == 0
    (line,) = [json.loads(each) for each in (output / "predictions.jsonl").read_text().splitlines() if new in each]
    (row,) = [each for each in rows_of(output / "predictions.csv") if each["image_path"] == new]
    prediction = TiledEnsemble.load(run).predict(new)
    for name in NAMED:
        found, decided = line["named_regions"][name], prediction.named_regions[name]
        assert row[f"pred_score_{name}"] == str(found["score"])
        assert row[f"pred_label_{name}"] == str(found["label"])
        assert (found["score"], found["label"]) == (pytest.approx(decided.score, abs=1e-6), decided.label)
        assert float(scores[0][f"pred_score_{name}"]) == pytest.approx(found["score"], abs=1e-6)
    assert main([*command, "--threshold", "2"]) == 0
    (again,) = [each for each in rows_of(output / "predictions.csv") if each["image_path"] == new]
    assert again["pred_label"] == "0"
    assert [again[name] for name in COLUMNS] == [row[name] for name in COLUMNS], "they have thresholds of their own"

    assert main(["train", "--config", str(configure(**tiling)), "--default_root_dir", str(tmp_path / "whole")]) == 0
    whole = {row["tile"]: row for row in rows_of(tmp_path / "whole" / "Padim" / "photographs" / "v0" / "tiles.csv")}
    assert [*whole] == sorted([*IGNORED, *INSPECTED])
    for name in INSPECTED:
        ours, theirs = (without_columns_of_test_images(each[name]) for each in (tiles, whole))
        assert ours == theirs, "the same numbers in the other part"
    assert not (tmp_path / "whole" / "Padim" / "photographs" / "v0" / "regions.npz").exists()


def test_bad_regions_are_known_before_training(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "regions.yaml"
    shapes = {"clip": [{"rectangle": [100, 20, 60, 10]}]}
    path.write_text(yaml.safe_dump({"image_size": [112, 150], "regions": shapes}))
    assert main(["fit", "--config", str(configure()), "--regions.file", str(path)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "reaches from x = 100 to 160 and from y = 20 to 30. Correct it." in said
    assert not list((tmp_path / "results").rglob("config.yaml"))
