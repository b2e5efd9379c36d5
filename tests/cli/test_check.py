"""The command ``check`` on a run folder and lines that are made by hand: no images, no models."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomalib_tiled.cli.main import main
from anomalib_tiled.config.settings import Settings
from anomalib_tiled.data.appearance import Appearance
from anomalib_tiled.grid import Size
from anomalib_tiled.results.prediction_folder import PredictionFolder
from anomalib_tiled.results.prediction_row import PredictedImage
from anomalib_tiled.results.region_decisions import RegionDecision
from anomalib_tiled.results.request import PredictionSettings
from anomalib_tiled.runs.drift_reference import DriftReference
from anomalib_tiled.runs.run_folder import RunFolder

TILES = ("r00_c00", "r00_c01")


def images(number: int, seed: int = 1, **changes: float) -> list[PredictedImage]:
    """Draw predictions of images of which nothing has changed but what is given, as a factor."""
    random = np.random.default_rng(seed)

    def usual(name: str, value: float) -> float:
        return float(value * changes.get(name, 1) * random.normal(1, 0.03))

    return [
        PredictedImage(
            *(f"/in/{place:03d}.png", Size(8, 12), usual("score", 0.3), 3.0, 0, ()),
            named_regions={"screw": RegionDecision(usual("screw", 0.2), label=False)},
            tiles={name: usual(name, 12) for name in TILES},
            appearance=Appearance(usual("brightness", 0.4), usual("contrast", 0.2), usual("sharpness", 0.7)),
        )
        for place in range(1, number + 1)
    ]


def reference_of(normal: list[PredictedImage]) -> DriftReference:
    return DriftReference(
        *("val", "fingerprint", np.array([each.pred_score for each in normal])),
        {name: np.array([getattr(each.appearance, name) for each in normal]) for name in ("brightness", "sharpness")},
        {name: np.array([each.tiles[name] for each in normal]) for name in TILES},
        {"screw": np.array([each.named_regions["screw"].score for each in normal])},
    )


@pytest.fixture
def run(make_run: Callable[[Path, Settings], RunFolder], configuration: dict[str, object], tmp_path: Path) -> RunFolder:
    """A run that knows 60 normal images."""
    folder = make_run(tmp_path / "run", Settings.from_mapping(configuration))
    folder.calibration_file.write_text("{}")
    reference_of(images(60, seed=0)).write(folder)
    return folder


@pytest.fixture
def predictions(run: RunFolder, tmp_path: Path) -> PredictionFolder:
    folder = PredictionFolder(tmp_path / "found")
    calibration = run.calibration_fingerprint(run.settings())
    folder.begin(PredictionSettings(), common="/in", calibration=calibration)
    return folder


def check(run: RunFolder, predictions: PredictionFolder, *options: str) -> int:
    return main(["check", "--ckpt_dir", str(run.path), "--predictions", str(predictions.path), *options])


def error(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_undisturbed_images_have_not_drifted(
    run: RunFolder, predictions: PredictionFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions.append(images(120))
    assert check(run, predictions, "--fail_on_drift") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Nothing has moved: 120 new images look and score like 60 normal images")
    assert "brightness" in printed
    assert printed.endswith(f"Drift: {predictions.path / 'drift.json'}\n")
    written = json.loads((predictions.path / "drift.json").read_text())
    assert list(written) == [
        *("images", "reference_images", "has_drifted", "sentences", "findings", "windows"),
    ]
    assert (written["images"], written["reference_images"], written["has_drifted"]) == (120, 60, False)
    assert [(each["quantity"], each["place"]) for each in written["findings"]] == [
        *(("score", ""), ("brightness", ""), ("sharpness", "")),
        *(("tile", name) for name in TILES),
        ("region", "screw"),
    ]


def test_what_has_moved_is_said_in_words_with_places(
    run: RunFolder, predictions: PredictionFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    late = [replace(each, image_path=f"/late{each.image_path}") for each in images(50, 2, brightness=0.9, r00_c01=1.5)]
    predictions.append([*images(70), *late])
    assert check(run, predictions) == 0, "a drift is no failure unless that is asked for"
    assert check(run, predictions, "--fail_on_drift") == 5
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first.startswith("Images are darker than those that the run was calibrated with: median brightness 0.36")
    assert first.endswith(" It began at image 71 (/late/in/001.png).")
    assert second.startswith("Scores at r00_c01 rose: median 1")
    written = json.loads((predictions.path / "drift.json").read_text())
    assert [(each["quantity"], each["place"]) for each in written["findings"] if each["has_moved"]] == [
        ("tile", "r00_c01"),
        ("brightness", ""),
    ]
    assert [each["moved"] for each in written["windows"]] == [[], ["brightness", "tile r00_c01"]]


def test_windows_and_output_can_be_chosen(run: RunFolder, predictions: PredictionFolder, tmp_path: Path) -> None:
    predictions.append(images(30))
    assert check(run, predictions, "--window", "10", "--output", str(tmp_path / "other.json")) == 0
    written = json.loads((tmp_path / "other.json").read_text())
    assert [each["images"] for each in written["windows"]] == [10, 10, 10]
    assert not (predictions.path / "drift.json").exists()
    assert check(run, predictions, "--output", str(tmp_path / "other.json")) == 0, "our own result is replaced"


def test_predictions_that_are_still_written_are_checked(run: RunFolder, predictions: PredictionFolder) -> None:
    predictions.append(images(20))
    with predictions.lines_file.open("a") as file:
        file.write(images(1)[0].to_line()[:50])
    assert check(run, predictions) == 0
    assert json.loads((predictions.path / "drift.json").read_text())["images"] == 20


def test_images_without_the_part_are_left_out(
    run: RunFolder, predictions: PredictionFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = PredictedImage("/in/lost.png", Size(8, 12), None, None, 1, (), unaligned="Nothing fits.")
    predictions.append([*images(20), lost])
    assert check(run, predictions) == 0
    assert "1 more images are left out, because the part is not found in them." in capsys.readouterr().out


def test_too_few_images_cannot_be_compared(
    run: RunFolder, predictions: PredictionFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(run, predictions) == 2, "the first line is not written yet"
    predictions.append(images(4))
    assert check(run, predictions) == 2
    expected = f"error: A check needs at least 5 predicted images, but {predictions.path} has "
    assert error(capsys) == f"{expected}0. Predict more. {expected}4. Predict more."
    reference_of(images(4)).write(run)
    predictions.append(images(9))
    assert check(run, predictions) == 2
    assert f"at least 5 normal validation images, but {run.path} was calibrated with 4." in error(capsys)
    assert not (predictions.path / "drift.json").exists()


def test_a_folder_without_predictions_is_refused(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(run, PredictionFolder(tmp_path)) == 2
    assert error(capsys) == (
        f"error: --predictions must be a folder that `anomalib tiled predict` has written, but {tmp_path} has no "
        "prediction.json. Name such a folder, or predict images into it."
    )


def test_predictions_of_another_run_are_refused(
    run: RunFolder, predictions: PredictionFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions.append(images(20))
    run.calibration_file.write_text('{"image": null}')
    assert check(run, predictions) == 2
    assert f"those in {predictions.path} are of another run than {run.path}, or of this run before" in error(capsys)


def test_predictions_of_an_earlier_version_are_refused(
    run: RunFolder, predictions: PredictionFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions.append([replace(each, tiles={}, appearance=None) for each in images(20)])
    assert check(run, predictions) == 2
    assert "but an earlier version has written some of them. Predict the images again, into another" in error(capsys)


def test_a_run_of_an_earlier_version_is_refused(
    run: RunFolder, predictions: PredictionFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions.append(images(20))
    run.drift_reference_file.unlink()
    assert check(run, predictions) == 2
    assert f"Calibrate again: `anomalib tiled fit --ckpt_dir {run.path}`." in error(capsys)


CHANGES = {
    "no JSON": "{",
    "no object": "[1, 2]",
    "no score": '{"image_path": "a", "appearance": {}, "tiles": {}}',
    "text": '{"image_path": "a", "appearance": {}, "tiles": {"r00_c00": "much"}, "pred_score": 1}',
    "a list": '{"image_path": "a", "appearance": [], "tiles": {}, "pred_score": 1}',
}


@pytest.mark.parametrize("line", CHANGES.values(), ids=CHANGES)
def test_a_changed_line_is_named(
    run: RunFolder, predictions: PredictionFolder, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions.append(images(3))
    with predictions.lines_file.open("a") as file:
        file.write(f"{line}\n")
    assert check(run, predictions) == 2
    assert f"error: Line 4 of {predictions.lines_file} was changed (" in error(capsys)


@pytest.mark.parametrize("name", ["pred_score", "tiles", "appearance"])
@pytest.mark.parametrize("value", [10**400, float("inf"), "x"], ids=["huge", "infinite", "text"])
def test_a_number_must_be_finite(
    run: RunFolder, predictions: PredictionFolder, capsys: pytest.CaptureFixture[str], name: str, value: object
) -> None:
    predictions.append(images(6))
    first, *others = predictions.lines_file.read_text().splitlines()
    content = json.loads(first)
    content[name] = value if name == "pred_score" else {**content[name], "brightness": value}
    predictions.lines_file.write_text("\n".join([json.dumps(content), *others, ""]))
    assert check(run, predictions) == 2
    assert f"error: Line 1 of {predictions.lines_file} was changed ({name}" in error(capsys)
    assert not (predictions.path / "drift.json").exists()


def test_another_file_is_not_replaced(
    run: RunFolder, predictions: PredictionFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions.append(images(20))
    (tmp_path / "mine.json").write_text('{"findings": []}')
    (tmp_path / "folder").mkdir()
    for name in ("mine.json", "folder", "found/predictions.jsonl", "run/config.yaml"):
        assert check(run, predictions, "--output", str(tmp_path / name)) == 2
        assert f"an earlier result of a check, but {tmp_path / name} is neither. Choose" in error(capsys)
    run.split_file.touch()
    assert check(run, predictions, "--output", str(run.tiles / "drift.json")) == 2
    assert f"belongs to the run folder {run.path}" in error(capsys)
    assert (tmp_path / "mine.json").read_text() == '{"findings": []}'


@pytest.mark.parametrize("window", ["4", "0", "-1"])
def test_a_window_needs_enough_images(
    run: RunFolder, predictions: PredictionFolder, window: str, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions.append(images(20))
    assert check(run, predictions, f"--window={window}") == 2
    assert error(capsys) == f"error: --window must be at least 5 images, but is {window}. Raise it, or leave it out."


def test_the_command_imports_neither_anomalib_nor_pytorch() -> None:
    code = "import sys, anomalib_tiled.cli.check; print({'torch', 'anomalib', 'lightning'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
