"""The main job on real files: photographs with painted defects."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import yaml
from anomalib.data import ImageBatch
from anomalib.models import Padim
from PIL import Image

from anomalib_tiled import pipeline
from anomalib_tiled.cli.main import main
from anomalib_tiled.data import cache
from anomalib_tiled.data.images import read_masks
from anomalib_tiled.ensemble import stored_images
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.ensemble.tile_job import TileJob
from anomalib_tiled.results import measuring
from anomalib_tiled.results.tile_metrics import TileMeasurements
from anomalib_tiled.runs.claims import ClaimedTile
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.system.checksums import Checksum
from anomalib_tiled.workers import local

if TYPE_CHECKING:
    from collections.abc import Callable

TILES = 9
TWO_TILES = {"tiling": {"image_size": [75, 150], "tile_size": 75}, "model__init_args__layers": ["layer1"]}
"""Changes for a run that shall be over soon."""


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_visible_defects_are_found(finished_run: Path) -> None:
    metrics = json.loads((finished_run / "metrics.json").read_text())
    assert metrics["image_AUROC"] >= 0.95
    assert metrics["pixel_AUPRO"] >= 0.9
    assert list(metrics) == ["image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score", "pixel_AUPRO"]


def test_a_test_gives_back_the_memory_of_each_batch(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    update = TileMeasurements.update

    def counted(tiles: TileMeasurements, batch: ImageBatch, *hidden: object) -> None:
        steps.append("measured")
        update(tiles, batch, *hidden)

    monkeypatch.setattr(TileMeasurements, "update", counted)
    monkeypatch.setattr(measuring, "give_back_freed_memory", lambda: steps.append("given back"))
    shutil.copytree(finished_run, copy := tmp_path / "run")
    assert main(["test", "--ckpt_dir", str(copy)]) == 0
    assert steps == ["measured", "given back"] * max(1, len(steps) // 2)


def test_the_run_folder_holds_what_is_documented(finished_run: Path) -> None:
    names = {path.name for path in finished_run.iterdir()}
    of_fit = {"config.yaml", "split.csv", "origins.json", "seals.json", "trained_on.json", "tiles", "calibration.json"}
    of_fit |= {"logs", "fit.lock", "split.table", "trained_on.csv", "placement.npz"}
    of_fit |= {"drift_reference.npz", "mean_normal.png"}
    of_test = {"metrics.json", "scores.csv", "tiles.csv", "tested.jsonl", "tested.json", "thumbnails", "images", "raw"}
    assert names == of_fit | {"validation_scores.npz"} | of_test
    assert len(list((finished_run / "tiles").glob("r*_c*.ckpt"))) == TILES
    assert {path.name for path in (finished_run / "logs").iterdir()} == {
        "run.log",
        *(f"r{row:02d}_c{column:02d}.log" for row in range(3) for column in range(3)),
    }
    assert (finished_run.parent / "latest").resolve() == finished_run.resolve()


def test_every_tile_location_is_measured_with_its_own_label(finished_run: Path) -> None:
    run = Run.open(RunFolder.open(finished_run))
    masks = [read_masks(sample.masks, run.grid.image_size) for sample in run.split.subset("test") if sample.label]
    rows = table(finished_run / "tiles.csv")
    assert [row["tile"] for row in rows] == [tile.name for tile in run.grid.tiles]
    for row, tile in zip(rows, run.grid.tiles, strict=True):
        anomalous = sum(bool(mask[tile.rows, tile.columns].any()) for mask in masks)
        assert (row["images"], row["anomalous"]) == ("8", str(anomalous))
        assert (row["top"], row["left"]) == (str(tile.rows.start), str(tile.columns.start))
        assert (row["image_AUROC"] != "") == (row["pixel_AUROC"] != "") == (anomalous > 0)
        assert not row["image_AUROC"] or float(row["image_AUROC"]) > 0.5


def test_metrics_by_class_path_agree_with_the_scores(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "v0"
    shutil.copytree(finished_run, run)
    configuration = yaml.safe_load((run / "config.yaml").read_text())
    fbeta = {"class_path": "torchmetrics.classification.BinaryFBetaScore", "init_args": {"beta": 2.0}, "name": "F2"}
    configuration["metrics"] = {"image": [fbeta, "BinaryAUROC", "ConfusionMatrix"], "pixel": ["JaccardIndex"]}
    (run / "config.yaml").write_text(yaml.safe_dump(configuration, sort_keys=False))
    assert main(["fit", "--ckpt_dir", str(run)]) == 0
    assert main(["test", "--ckpt_dir", str(run)]) == 0
    metrics, rows = json.loads((run / "metrics.json").read_text()), table(run / "scores.csv")
    counts = Counter((row["gt_label"], row["pred_label"]) for row in rows)
    confusion = [[counts["0", "0"], counts["0", "1"]], [counts["1", "0"], counts["1", "1"]]]
    hits = 5 * counts["1", "1"]
    assert metrics["image_ConfusionMatrix"] == confusion
    assert metrics["image_F2"] == pytest.approx(hits / (hits + 4 * counts["1", "0"] + counts["0", "1"]))
    before = json.loads((finished_run / "metrics.json").read_text())
    assert metrics["image_BinaryAUROC"] == pytest.approx(before["image_AUROC"])
    f1 = before["pixel_F1Score"]
    assert metrics["pixel_JaccardIndex"] == pytest.approx(f1 / (2 - f1))


def test_stages_and_metrics_of_a_run_are_changed_without_training(
    finished_run: Path,
    tmp_path: Path,
    checkpoints: Callable[[Path], dict[str, Checksum]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(finished_run, run := tmp_path / "v0")
    before = yaml.safe_load((run / "config.yaml").read_text())
    given = ["--merging", "Hann", "--thresholding.pixel_sensitivity", "0.6", "--metrics.image", "[AUPR]"]
    assert main(["fit", "--ckpt_dir", str(run), *given, "--visualize", "false"]) == 0
    said = capsys.readouterr().err
    hann = "anomalib_tiled.stages.merging.Hann"
    assert f"Changed in config.yaml: merging.class_path is {hann}, not {before['merging']['class_path']}\n" in said
    assert "Changed in config.yaml: visualize is False, not True\n" in said
    after = yaml.safe_load((run / "config.yaml").read_text())
    changed = {"merging", "thresholding", "metrics", "visualize"}
    assert {name for name in before if before[name] != after[name]} == changed
    assert json.loads((run / "origins.json").read_text())["merging"]["class_path"] == hann
    assert checkpoints(run) == checkpoints(finished_run)
    assert not (run / "metrics.json").exists(), "of other stages"
    assert main(["test", "--ckpt_dir", str(run)]) == 0
    assert next(iter(json.loads((run / "metrics.json").read_text()))) == "image_AUPR"


def test_an_image_without_a_mask_takes_nothing_from_the_others(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "v0"
    shutil.copytree(finished_run, run)
    with (run / "split.csv").open() as file:
        rows = list(csv.DictReader(file))
    first = next(row for row in rows if row["subset"] == "test" and row["mask_path"])
    first["mask_path"] = ""
    with (run / "split.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    RunFolder(run).note_checksum(run / "split.csv")
    assert main(["test", "--ckpt_dir", str(run)]) == 0
    said = capsys.readouterr().out
    assert [
        line.split("│")[3].strip() for line in said.splitlines() if line.startswith(("│ image_A", "│ pixel_A"))
    ] == [
        "4 normal, 4 anomalous",
        "4 normal, 3 anomalous",
        "4 normal, 3 anomalous",
    ]
    assert "Note: Metrics of pixels come from 7 of 8 test images: the others have no mask." in said
    before, after = (json.loads((folder / "metrics.json").read_text()) for folder in (finished_run, run))
    assert list(after) == list(before)
    assert after["image_AUROC"] == before["image_AUROC"]
    assert {row["images"] for row in table(run / "tiles.csv")} == {"7"}


def test_every_test_image_has_a_score_and_a_picture_of_its_own_size(
    finished_run: Path, photographs: Path, without_margin: Callable[..., np.ndarray]
) -> None:
    with (finished_run / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["gt_label"] for row in rows] == ["1"] * 4 + ["0"] * 4
    assert all(0 <= float(row["pred_score"]) <= 1 for row in rows)
    assert all((float(row["pred_score"]) > 0.5) == (row["pred_label"] == "1") for row in rows)
    for row in rows:
        source = Path(row["image_path"])
        with Image.open(source) as image, Image.open(finished_run / "images" / source.relative_to(photographs)) as seen:
            shown = without_margin(seen, image.size[::-1])
            is_painted = bool((shown != np.asarray(image.convert("RGB"), int)).any())
            assert is_painted or row["pred_label"] == "0"


def test_arguments_of_the_model_reach_its_tiles_and_checkpoints_open_with_it(
    finished_run: Path, tmp_path: Path
) -> None:
    arguments = ["--ckpt_dir", str(finished_run), "--format", "checkpoints", "--output", str(tmp_path / "whole")]
    assert main(["export", *arguments]) == 0
    assert len(list((tmp_path / "whole").glob("*.ckpt"))) == TILES
    model = Padim.load_from_checkpoint(tmp_path / "whole" / "r01_c02.ckpt")
    assert model.hparams["n_features"] == 20
    own = torch.load(finished_run / "tiles" / "r01_c02.ckpt", weights_only=True)["state_dict"]
    weights = model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in own.items())
    assert main(["export", *arguments]) == 2  # there is one already


@pytest.mark.slow
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

    def count(path: Path, *size_and_matrix: object) -> object:
        decoded[str(path.relative_to(photographs))] += 1
        return read(path, *size_and_matrix)

    read = cache.read_image
    monkeypatch.setattr(cache, "read_image", count)
    assert main(["fit", "--config", str(configure(**TWO_TILES))]) == 0
    assert set(decoded.values()) == {1}
    assert len(decoded) == 16


@pytest.mark.slow
def test_interrupted_fit_goes_on_to_the_same_result(
    configure: Callable[..., Path],
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained: list[str] = []

    def stop_at_third(job: TileJob, claimed: ClaimedTile) -> None:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(claimed.tile.name)
        train(job)(claimed)

    train = pipeline.TrainAndPredict
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "TrainAndPredict", lambda job: partial(stop_at_third, job))
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


@pytest.mark.slow
def test_some_tiles_are_trained_again(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "again"
    shutil.copytree(finished_run, run)
    results = [run / name for name in ("metrics.json", "scores.csv", "tiles.csv", "images")]
    assert main(["fit", "--ckpt_dir", str(run)]) == 0
    assert all(path.exists() for path in results), "the models are those that were tested"
    damaged, kept = run / "tiles" / "r01_c02.ckpt", (run / "tiles" / "r00_c01.ckpt").stat().st_mtime_ns
    damaged.write_bytes(damaged.read_bytes()[:1000])
    assert main(["status", "--ckpt_dir", str(run)]) == 0
    shown = capsys.readouterr().out
    assert f"fit --ckpt_dir {run} --tiles r01_c02`" in shown
    assert "8 of 9 tiles done, 1 damaged, calibrated." in shown
    assert main(["fit", "--ckpt_dir", str(run), "--tiles", "r01_c02,r00_c00"]) == 0
    assert (run / "tiles" / "r00_c01.ckpt").stat().st_mtime_ns == kept
    assert not any(path.exists() for path in results), "they are those of models that are no more"
    assert (run / "calibration.json").read_bytes() == (finished_run / "calibration.json").read_bytes()
    assert main(["fit", "--config", str(run / "config.yaml"), "--tiles", "r00_c00"]) == 2
    assert "--tiles trains tiles of a run again, but no run is given. Add --ckpt_dir RUN." in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_give_what_one_gives(
    configure: Callable[..., Path],
    finished_run: Path,
    checkpoints: Callable[[Path], dict[str, Checksum]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "cores", lambda: 2 * torch.get_num_threads())  # as many threads a tile as here
    monkeypatch.setattr(stored_images, "PIXELS_OF_A_SHARD", 3 * 112 * 150)  # three images
    two = {"class_path": "LocalWorkers", "init_args": {"processes": 2}}
    assert main(["fit", "--config", str(configure(workers=two))]) == 0
    run = tmp_path / "results" / "Padim" / "photographs" / "v0"
    assert (run / "calibration.json").read_bytes() == (finished_run / "calibration.json").read_bytes()
    assert checkpoints(run) == checkpoints(finished_run)
    assert main(["test", "--ckpt_dir", str(run)]) == 0
    assert all((run / name).read_bytes() == (finished_run / name).read_bytes() for name in ("scores.csv", "tiles.csv"))
    found, expected = (json.loads((each / "metrics.json").read_text()) for each in (run, finished_run))
    assert found.pop("pixel_AUPRO") == pytest.approx(expected.pop("pixel_AUPRO"), rel=1e-12), "weights are fractions"
    assert found == expected
    pictures = [sorted(each.relative_to(of) for each in (of / "images").rglob("*.png")) for of in (run, finished_run)]
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) == 8


def test_the_same_configuration_may_be_given_again(
    configure: Callable[..., Path], finished_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished_run, run := tmp_path / "again")
    assert main(["fit", "--config", str(configure()), "--ckpt_dir", str(run)]) == 0
    assert (run / "calibration.json").read_bytes() == (finished_run / "calibration.json").read_bytes()


@pytest.mark.slow
def test_images_that_come_after_the_split_are_pointed_out_with_the_command_that_uses_them(
    configure: Callable[..., Path], photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "more photographs"
    shutil.copytree(photographs, root)
    configuration = configure(root, tiling__stride=None)
    assert main(["fit", "--config", str(configuration)]) == 0
    run = tmp_path / "results" / "Padim" / "photographs" / "latest"
    assert main(["fit", "--ckpt_dir", str(run)]) == 0
    assert "images are new" not in capsys.readouterr().out
    for name in ("000.png", "001.png"):
        shutil.copy(root / "good" / name, root / "good" / f"new_{name}")
    assert main(["fit", "--ckpt_dir", str(run)]) == 0
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "images are new" in line]
    assert note.startswith("Note: 2 images are new since the images of this run were split, for example ")
    assert f"{root}/good/new_00" in note
    assert "The split is fixed, so this run does not use them. To use them, fit a new run: anomalib tiled fit" in note
    command = shlex.split(note.partition("a new run: ")[2])
    assert main(command[2:]) == 0
    assert (run.resolve().name, (run / "split.csv").read_text().count("new_00")) == ("v1", 2)


def test_test_on_other_images(
    finished_run: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = tmp_path / "others"
    shutil.copytree(photographs, others)
    for path in sorted((others / "bad").iterdir())[2:]:
        path.unlink()
        (others / "mask" / path.name).unlink()
    (mask, *_) = (others / "mask").iterdir()
    with Image.open(mask) as image:
        Image.fromarray(np.asarray(image) // 255 * np.arange(image.width, dtype=np.uint8)).save(mask)
    data = yaml.safe_load((finished_run / "config.yaml").read_text())["data"]
    data["init_args"]["root"] = str(others)
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    before = (finished_run / "metrics.json").read_bytes()
    arguments = ["--data", str(tmp_path / "data.yaml"), "--output", str(tmp_path / "output")]
    assert main(["test", "--ckpt_dir", str(finished_run), *arguments]) == 0
    assert len((tmp_path / "output" / "scores.csv").read_text().splitlines()) == 1 + 6
    assert capsys.readouterr().out.count("Note: 1 of 2 masks have more than two grey values, for example ") == 1
    assert (finished_run / "metrics.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("without", ["mask_dir", "abnormal_dir"])
def test_without_masks_or_defects(configure: Callable[..., Path], tmp_path: Path, without: str) -> None:
    changes = {f"data__init_args__{without}": None, "data__init_args__mask_dir": None, **TWO_TILES}
    assert main(["train", "--config", str(configure(**changes))]) == 0
    run = tmp_path / "results" / "Padim" / "photographs" / "v0"
    metrics = json.loads((run / "metrics.json").read_text())
    expected = 1.0 if without == "mask_dir" else None
    assert metrics == {"image_AUROC": expected, "image_F1Score": expected}
    notes = json.loads((run / "calibration.json").read_text())["notes"]
    assert any("No validation image is anomalous" in note for note in notes) == (without == "abnormal_dir")
    assert len(list((run / "images").rglob("*.png"))) == (8 if without == "mask_dir" else 4)


@pytest.mark.slow
def test_without_validation_images(
    configure: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--config", str(configure(data__init_args__val_split_mode="none", **TWO_TILES))]) == 0
    assert "There are no validation images" in capsys.readouterr().out
    run = tmp_path / "results" / "Padim" / "photographs" / "v0"
    assert json.loads((run / "metrics.json").read_text())["image_AUROC"] == 1.0


@pytest.mark.slow
def test_synthetic_validation_images_are_kept_with_the_run(configure: Callable[..., Path], tmp_path: Path) -> None:
    changes = {"data__init_args__val_split_mode": "synthetic", **TWO_TILES}
    assert main(["fit", "--config", str(configure(**changes))]) == 0
    run = tmp_path / "results" / "Padim" / "photographs" / "v0"
    with (run / "split.csv").open() as file:
        drawn = [row for row in csv.DictReader(file) if row["subset"] == "val" and row["label"] == "1"]
    assert drawn
    assert all(Path(row[name]).is_relative_to(run) for row in drawn for name in ("image_path", "mask_path"))
    assert all(Path(row["image_path"]).is_file() for row in drawn)


def test_a_sensitivity_moves_decisions_masks_and_f1_scores_without_calibrating_again(
    finished_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    configuration = yaml.safe_load((run / "config.yaml").read_text())
    assert configuration["thresholding"]["pixel_sensitivity"] == 0.5
    configuration["thresholding"] |= {"image_sensitivity": 0.6, "pixel_sensitivity": 1.0}
    (run / "config.yaml").write_text(yaml.safe_dump(configuration, sort_keys=False))
    assert main(["test", "--ckpt_dir", str(run)]) == 0
    assert (run / "calibration.json").read_bytes() == (finished_run / "calibration.json").read_bytes()
    rows, before = (list(csv.DictReader((each / "scores.csv").open())) for each in (run, finished_run))
    assert [row["pred_score"] for row in rows] == [row["pred_score"] for row in before]
    assert all((float(row["pred_score"]) > 0.4) == (row["pred_label"] == "1") for row in rows)
    hits = sum(row["pred_label"] == row["gt_label"] == "1" for row in rows)
    called = sum(row["pred_label"] == "1" for row in rows)
    metrics, unchanged = (json.loads((each / "metrics.json").read_text()) for each in (run, finished_run))
    assert metrics["image_F1Score"] == pytest.approx(2 * hits / (called + 4))
    assert metrics["pixel_F1Score"] < unchanged["pixel_F1Score"], "almost every pixel is called anomalous"
    assert metrics["pixel_AUROC"] == unchanged["pixel_AUROC"]
    pictures = [
        [path.read_bytes() for path in sorted((each / "images").rglob("*.png"))] for each in (run, finished_run)
    ]
    assert all(own != other for own, other in zip(*pictures, strict=True)), "the predicted mask is drawn"


def test_tiles_that_were_to_be_trained_again_are_not_forgotten(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "fit", interrupted)
    (run := tmp_path / "my :100: run").mkdir()
    for name in ("config.yaml", "origins.json", "seals.json", "split.csv"):
        shutil.copy(finished_run / name, run)
    assert main(["fit", "--ckpt_dir", str(run), "--tiles", "r01_c02,r00_c00"]) == 130
    said = f"Resume with: anomalib-tiled fit --ckpt_dir '{run}' --tiles r01_c02,r00_c00\n"
    assert said in capsys.readouterr().err
