"""Folders of predictions: nothing is mixed, written over, or left half done."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anomalib_tiled.cli.main import main
from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.raw_prediction import RawPrediction
from anomalib_tiled.results.prediction_row import PredictedImage
from anomalib_tiled.results.rethreshold import Rethresholding
from anomalib_tiled.system.locks import PREDICTION, locked

Predict = Callable[..., int]


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[Path, bytes]:
    """Everything in a folder but for the log."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".log"}


def test_files_that_no_prediction_made_are_not_replaced(
    finished_run: Path, new: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = new.parent / "project"
    for name in ("masks", "images"):
        shutil.copytree(new, project / name)
    before = contents(project)
    command = [
        "predict",
        "--ckpt_dir",
        str(finished_run),
        "--data",
        str(new),
        "--output",
        str(project),
        "--skip_existing",
    ]
    assert main([*command, "--masks", "--overlays"]) == 2
    assert f"A prediction into {project} would overwrite images, masks there. " in (capsys.readouterr().err)
    assert contents(project) == before
    assert {path.name for path in project.iterdir()} == {"masks", "images"}, "no log either"


def test_images_that_come_into_other_folders_later_are_gone_on_with(predict: Predict, new: Path, output: Path) -> None:
    (right := new / "right").rename(new.parent / "right")
    assert predict("--data", new, "--masks", "--skip_existing") == 0
    (new.parent / "right").rename(right)
    assert predict("--data", new, "--masks", "--skip_existing") == 0
    masks = output / "masks"
    found = sorted(path.relative_to(masks).as_posix() for path in masks.rglob("*.png"))
    assert found == ["left/000.png", "left/001.png", "right/000.png"]


def test_images_from_anywhere_are_gone_on_with_where_no_pictures_are_kept(
    predict: Predict, new: Path, output: Path
) -> None:
    assert predict("--data", new / "left" / "000.png") == 0
    assert predict("--data", new / "right" / "000.png", "--skip_existing") == 0
    assert len(lines(output)) == 2


def test_lines_that_name_no_image_do_not_move_the_masks(
    predict: Predict, new: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for going_on in ([], ["--skip_existing"]):
        monkeypatch.setattr("sys.stdin", io.StringIO(f"/gone/000.png\n{new / 'left' / '000.png'}\n"))
        assert predict("--data", "-", "--masks", *going_on) == 3
    assert [path.name for path in (output / "masks").iterdir()] == ["000.png"]


def test_two_predictions_at_once_are_refused(
    predict: Predict, new: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--data", new) == 0
    before = contents(output)
    for arguments in (["--data", new, "--skip_existing"], ["--threshold", "0.5"]):
        with locked(output, PREDICTION):
            assert predict(*arguments) == 2
        assert f"{output} is being predicted into by process" in capsys.readouterr().err
    assert contents(output) == before


def test_a_prediction_that_began_meanwhile_is_not_gone_on_with(
    predict: Predict, new: Path, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--data", new) == 0
    shutil.move(output, aside := output.with_name("aside"))
    opened = EnsembleModel.eval

    def other_finishes(self: EnsembleModel) -> EnsembleModel:
        shutil.copytree(aside, output, dirs_exist_ok=True)
        return opened(self)

    monkeypatch.setattr(EnsembleModel, "eval", other_finishes)
    assert predict("--data", new) == 2
    assert "holds predictions already." in capsys.readouterr().err
    assert len(lines(output)) == 3


def test_deciding_that_is_interrupted_is_finished_before_anything_else(
    predict: Predict, new: Path, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep, again = ["--data", new, "--maps", "npy", "--masks", "--overlays"], ["--pixel_threshold", "0.3"]
    assert predict(*keep) == 0
    shutil.copytree(output, before := output.with_name("before"))
    assert predict(*again) == 0
    wanted = contents(output)
    shutil.rmtree(output)
    shutil.copytree(before, output)
    decided, number = Rethresholding.decide, 0

    def interrupted(self: Rethresholding, image: PredictedImage) -> PredictedImage:
        nonlocal number
        number += 1
        if number == 2:
            raise OSError(28, "No space left on device")
        return decided(self, image)

    with monkeypatch.context() as patched:
        patched.setattr(Rethresholding, "decide", interrupted)
        assert predict(*again) == 2
    hint = capsys.readouterr().err.partition("Resume with: ")[2]
    assert hint.splitlines()[0].endswith(" ".join(again)), "and not --skip_existing"
    for arguments in ([*keep, "--skip_existing"], ["--threshold", "0.5"]):
        assert predict(*arguments) == 2
        said = capsys.readouterr().err
        assert f"Applying new thresholds to the images in {output} was interrupted" in said
        assert "no --data, and --pixel_threshold 0.3." in said
    assert predict(*again) == 0
    assert contents(output) == wanted
    assert predict(*keep, *again, "--skip_existing") == 0


def test_pixels_of_a_model_without_maps_are_not_decided_about(
    predict: Predict, new: Path, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    predict_raw = EnsembleModel.predict_raw

    def without_maps(self: EnsembleModel, *arguments: object, **options: object) -> RawPrediction:
        return replace(predict_raw(self, *arguments, **options), has_maps=False)

    monkeypatch.setattr(EnsembleModel, "predict_raw", without_maps)
    assert predict("--data", new, "--maps", "npy") == 0
    assert "Note: The model gives no anomaly maps" in capsys.readouterr().err
    assert predict("--pixel_threshold", "0.5") == 2
    assert "needs anomaly maps, but the model gives none" in capsys.readouterr().err
    assert predict("--threshold", "0.5") == 0
    assert not (output / "maps").exists()
