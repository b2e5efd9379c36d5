"""The main job on real files: photographs with painted defects."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import yaml
from anomalib.models import Padim
from PIL import Image

from anomalib_tiled import pipeline
from anomalib_tiled.cli import main
from anomalib_tiled.data import cache
from anomalib_tiled.grid import Tile
from anomalib_tiled.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable

TILES = 9


def test_visible_defects_are_found(finished_run: Path) -> None:
    metrics = json.loads((finished_run / "metrics.json").read_text())
    assert metrics["image_AUROC"] >= 0.95
    assert metrics["pixel_AUPRO"] >= 0.9
    assert list(metrics) == ["image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score", "pixel_AUPRO"]


@pytest.mark.parametrize("photograph", ["gravel", "grass"])
def test_visible_defects_are_found_in_other_photographs(
    photograph: str, paint: Callable[[str], Path], configure: Callable[..., Path], tmp_path: Path
) -> None:
    configuration = configure(
        paint(photograph), merging="Gaussian", tiling__tile_size=[60, 80], tiling__stride=[50, 64]
    )
    assert main(["train", "--config", str(configuration)]) == 0
    metrics = json.loads((tmp_path / "results" / "Padim" / "photographs" / "v0" / "metrics.json").read_text())
    assert metrics["image_AUROC"] >= 0.95


def test_the_run_folder_holds_what_is_documented(finished_run: Path) -> None:
    names = {path.name for path in finished_run.iterdir()}
    expected = {"config.yaml", "split.csv", "tiles", "calibration.json", "validation_scores.npz", "logs"}
    expected |= {"origins.json", "metrics.json", "scores.csv", "images"}
    assert names == expected
    assert len(list((finished_run / "tiles").glob("r*_c*.ckpt"))) == TILES
    assert {path.name for path in (finished_run / "logs").iterdir()} == {
        "run.log",
        *(f"r{row:02d}_c{column:02d}.log" for row in range(3) for column in range(3)),
    }
    assert (finished_run.parent / "latest").resolve() == finished_run.resolve()


def test_every_test_image_has_a_score_and_a_picture_of_its_own_size(finished_run: Path, photographs: Path) -> None:
    with (finished_run / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["gt_label"] for row in rows] == ["1"] * 4 + ["0"] * 4
    assert all(0 <= float(row["pred_score"]) <= 1 for row in rows)
    assert all((float(row["pred_score"]) > 0.5) == (row["pred_label"] == "1") for row in rows)
    for row in rows:
        source = Path(row["image_path"])
        with Image.open(source) as image, Image.open(finished_run / "images" / source.relative_to(photographs)) as seen:
            assert seen.size == image.size
            assert np.abs(np.asarray(seen, int) - np.asarray(image.convert("RGB"), int)).max() > 0


def test_a_tile_checkpoint_opens_with_the_models_own_method(finished_run: Path) -> None:
    model = Padim.load_from_checkpoint(finished_run / "tiles" / "r01_c02.ckpt")
    assert model.hparams["n_features"] == 20


def test_the_same_command_twice_gives_the_same_numbers(finished_run: Path, tmp_path: Path) -> None:
    configuration = finished_run / "config.yaml"
    assert main(["train", "--config", str(configuration), "--default_root_dir", str(tmp_path)]) == 0
    again = tmp_path / "Padim" / "photographs" / "v0"
    for name in ("metrics.json", "scores.csv", "calibration.json", "split.csv"):
        assert (again / name).read_bytes() == (finished_run / name).read_bytes(), name


def test_an_image_is_decoded_once_per_fit(
    configure: Callable[..., Path], photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: Counter[str] = Counter()

    def count(path: Path, size: object) -> object:
        decoded[str(path.relative_to(photographs))] += 1
        return read(path, size)

    read = cache.read_image
    monkeypatch.setattr(cache, "read_image", count)
    assert main(["fit", "--config", str(configure(trainer={"max_epochs": 1}))]) == 0
    assert set(decoded.values()) == {1}
    assert len(decoded) == 16


def test_interrupted_fit_goes_on_to_the_same_result(
    configure: Callable[..., Path],
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained: list[str] = []

    def stop_at_third(run: Run, tile: Tile) -> None:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(tile.name)
        train(run, tile)

    train = pipeline.train_tile
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "train_tile", stop_at_third)
        assert main(["fit", "--config", str(configure())]) == 130
    run = tmp_path / "results" / "Padim" / "photographs" / "v0"
    assert f"fit --ckpt_dir {run}" in capsys.readouterr().err
    assert main(["status", "--ckpt_dir", str(run)]) == 0
    assert "2 of 9 tiles done, not calibrated yet." in capsys.readouterr().out
    assert main(["test", "--ckpt_dir", str(run)]) == 2
    assert "lacks 7 tiles: r00_c02, r01_c00" in capsys.readouterr().err
    before = (run / "tiles" / "r00_c00.ckpt").stat().st_mtime_ns
    assert main(["fit", "--ckpt_dir", str(run)]) == 0
    assert (run / "tiles" / "r00_c00.ckpt").stat().st_mtime_ns == before
    assert (run / "calibration.json").read_bytes() == (finished_run / "calibration.json").read_bytes()
    own, other = (torch.load(each / "tiles" / "r02_c02.ckpt", weights_only=True) for each in (run, finished_run))
    assert all(torch.equal(own["state_dict"][name], other["state_dict"][name]) for name in own["state_dict"])


def test_a_tile_that_fails_does_not_stop_the_others(
    configure: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_once(run: Run, tile: Tile) -> None:
        if tile.name == "r01_c01":
            message = "out of luck"
            raise RuntimeError(message)
        train(run, tile)

    train = pipeline.train_tile
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "train_tile", fail_once)
        assert main(["fit", "--config", str(configure())]) == 2
    run = tmp_path / "results" / "Padim" / "photographs" / "v0"
    assert (
        "1 tiles could not be trained; all others are done.\nr01_c01: RuntimeError: out of luck"
        in capsys.readouterr().err
    )
    assert main(["status", "--ckpt_dir", str(run)]) == 0
    assert "failed" in (shown := capsys.readouterr().out)
    assert "8 of 9 tiles done" in shown
    assert main(["train", "--ckpt_dir", str(run)]) == 0
    assert (run / "metrics.json").is_file()


def test_the_same_configuration_may_be_given_again(
    configure: Callable[..., Path], finished_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "again"
    shutil.copytree(finished_run, run)
    before = (run / "calibration.json").read_bytes()
    assert main(["fit", "--config", str(configure()), "--ckpt_dir", str(run)]) == 0
    assert (run / "calibration.json").read_bytes() == before


def test_test_on_other_images(finished_run: Path, photographs: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    shutil.copytree(photographs, others)
    for path in sorted((others / "bad").iterdir())[2:]:
        path.unlink()
        (others / "mask" / path.name).unlink()
    data = yaml.safe_load((finished_run / "config.yaml").read_text())["data"]
    data["init_args"]["root"] = str(others)
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    before = (finished_run / "metrics.json").read_bytes()
    arguments = ["--data", str(tmp_path / "data.yaml"), "--output", str(tmp_path / "output")]
    assert main(["test", "--ckpt_dir", str(finished_run), *arguments]) == 0
    assert len((tmp_path / "output" / "scores.csv").read_text().splitlines()) == 1 + 6
    assert (finished_run / "metrics.json").read_bytes() == before


@pytest.mark.parametrize("without", ["mask_dir", "abnormal_dir"])
def test_without_masks_or_defects(configure: Callable[..., Path], tmp_path: Path, without: str) -> None:
    changes = {f"data__init_args__{without}": None, "data__init_args__mask_dir": None, "tiling__stride": None}
    assert main(["train", "--config", str(configure(**changes))]) == 0
    run = tmp_path / "results" / "Padim" / "photographs" / "v0"
    metrics = json.loads((run / "metrics.json").read_text())
    expected = 1.0 if without == "mask_dir" else None
    assert metrics == {"image_AUROC": expected, "image_F1Score": expected}
    notes = json.loads((run / "calibration.json").read_text())["notes"]
    assert any("No validation image is anomalous" in note for note in notes) == (without == "abnormal_dir")
    assert len(list((run / "images").rglob("*.png"))) == (8 if without == "mask_dir" else 4)


def test_images_of_16_bits_are_pointed_out(
    configure: Callable[..., Path], photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "deep"
    shutil.copytree(photographs, root)
    with Image.open(root / "good" / "000.png") as image:
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(root / "good" / "000.png")
    assert main(["fit", "--config", str(configure(root, tiling__stride=None))]) == 0
    assert "Note: 1 images have more than 8 bits per channel" in capsys.readouterr().out


def test_without_validation_images(
    configure: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--config", str(configure(data__init_args__val_split_mode="none", tiling__stride=None))]) == 0
    assert "There are no validation images" in capsys.readouterr().out
    run = tmp_path / "results" / "Padim" / "photographs" / "v0"
    assert json.loads((run / "metrics.json").read_text())["image_AUROC"] == 1.0


def test_synthetic_validation_images_are_kept_with_the_run(configure: Callable[..., Path], tmp_path: Path) -> None:
    changes = {"data__init_args__val_split_mode": "synthetic", "tiling__stride": None, "visualize": False}
    assert main(["fit", "--config", str(configure(**changes))]) == 0
    run = tmp_path / "results" / "Padim" / "photographs" / "v0"
    with (run / "split.csv").open() as file:
        drawn = [row for row in csv.DictReader(file) if row["subset"] == "val" and row["label"] == "1"]
    assert drawn
    assert all(Path(row[name]).is_relative_to(run) for row in drawn for name in ("image_path", "mask_path"))
    assert all(Path(row["image_path"]).is_file() for row in drawn)
