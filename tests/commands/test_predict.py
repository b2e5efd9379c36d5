"""Predicting new images: whole commands on painted photographs."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anomalib.data import ImageItem, InferenceBatch
from PIL import Image

from anomalib_tiled.cli.main import main
from anomalib_tiled.ensemble import engines, loaded_models, prediction_engine
from anomalib_tiled.ensemble import run as run_module
from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.raw_prediction import RawPrediction
from anomalib_tiled.results.prediction_row import PredictedImage
from anomalib_tiled.results.prediction_writer import PredictionWriter
from anomalib_tiled.runs.run_folder import RunFolder

Predict = Callable[..., int]
Lines = list[dict[str, Any]]


def lines(output: Path) -> Lines:
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def boxes(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Give left, top, width and height of what is not black."""
    high, wide = np.nonzero(mask)
    return int(wide.min()), int(high.min()), int(np.ptp(wide)) + 1, int(np.ptp(high)) + 1


def close(first: Lines, second: Lines) -> bool:
    """Whether predictions are equal up to what another batch makes of the last digits."""
    scores = [[line[name] for line in each for name in ("pred_score", "raw_score")] for each in (first, second)]
    rest = [
        [(line["image_path"], line["pred_label"], [region["bbox"] for region in line["regions"]]) for line in each]
        for each in (first, second)
    ]
    return rest[0] == rest[1] and bool(np.allclose(*scores, rtol=1e-4, atol=1e-5))


def test_new_images_without_labels_can_be_predicted(
    predict: Predict, new: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--data", new) == 0
    found = lines(output)
    assert [line["image_path"] for line in found] == [
        str(new / name) for name in ("left/000.png", "left/001.png", "right/000.png")
    ]
    assert [line["pred_label"] for line in found] == [1, 0, 1]
    assert [bool(line["regions"]) for line in found] == [True, False, True]
    expected = ["image_path", "image_size", "pred_score", "raw_score", "pred_label", "regions"]
    assert list(found[0]) == [*expected, "any_pixel", "tiles", "appearance", "contradiction"]
    assert list(found[0]["tiles"]) == [f"r0{row}_c0{column}" for row in range(3) for column in range(3)]
    assert max(found[0]["tiles"].values()) > 2 * max(found[1]["tiles"].values()), "raw scores"
    assert list(found[0]["appearance"]) == ["brightness", "contrast", "sharpness"], "images are not aligned"
    region = found[0]["regions"][0]
    assert list(region) == ["bbox", "area", "centroid", "peak", "peak_score", "mean_score"]
    table = rows(output / "predictions.csv")
    assert [row["image_path"] for row in table] == [line["image_path"] for line in found]
    assert [float(row["pred_score"]) for row in table] == [line["pred_score"] for line in found]
    assert [int(table[0][name]) for name in ("x", "y", "width", "height")] == region["bbox"]
    assert [row["regions"] for row in table] == [str(len(line["regions"])) for line in found]
    printed = capsys.readouterr().out
    assert "3 images predicted in" in printed
    assert "images/s): 2 of 3 are anomalous." in printed
    assert f"Predictions: {output}" in printed
    assert {path.name for path in output.iterdir()} == {
        "prediction.json",
        "predictions.jsonl",
        "predictions.csv",
        "predict.lock",
        "logs",
    }


def test_predictions_are_those_of_test(predict: Predict, photographs: Path, finished_run: Path, output: Path) -> None:
    assert predict("--data", photographs / "bad", photographs / "good_test") == 0
    tested = {row["image_path"]: row for row in rows(finished_run / "scores.csv")}
    for line in lines(output):
        row = tested[line["image_path"]]
        assert line["pred_score"] == pytest.approx(float(row["pred_score"]), abs=1e-5)
        assert line["pred_label"] == int(row["pred_label"])


@pytest.mark.parametrize("size", [(200, 330), (100, 210)])
def test_regions_are_told_in_pixels_of_the_source_image(
    predict: Predict,
    photographs: Path,
    tmp_path: Path,
    output: Path,
    size: tuple[int, int],
    without_margin: Callable[..., np.ndarray],
) -> None:
    height, width = size
    (tmp_path / "in").mkdir()
    with Image.open(photographs / "bad" / "002.png") as image:
        image.resize((width, height), Image.Resampling.BICUBIC).save(tmp_path / "in" / "a.png")
    with Image.open(photographs / "mask" / "002.png") as mask:
        left, top, wide, high = boxes(np.asarray(mask.resize((width, height), Image.Resampling.NEAREST)))
    assert predict("--data", tmp_path / "in", "--masks", "--overlays", "--coco") == 0
    (line,) = lines(output)
    assert line["image_size"] == [height, width]
    region = line["regions"][0]
    x, y = region["peak"]
    assert left <= x < left + wide
    assert top <= y < top + high
    for value, start, extent in zip(region["centroid"], (left, top), (wide, high), strict=True):
        assert start < value < start + extent
    with Image.open(output / "masks" / "a.png") as picture:
        kept = np.asarray(picture)
    assert kept.shape == size
    assert set(np.unique(kept)) == {0, 255}
    assert int((kept > 0).sum()) == sum(each["area"] for each in line["regions"])
    (right, bottom) = (max(each["bbox"][i] + each["bbox"][i + 2] for each in line["regions"]) for i in (0, 1))
    (least_x, least_y) = (min(each["bbox"][i] for each in line["regions"]) for i in (0, 1))
    assert boxes(kept) == (least_x, least_y, right - least_x, bottom - least_y)
    with Image.open(output / "images" / "a.png") as picture:
        assert without_margin(picture, size).shape == (height, width, 3)
    coco = json.loads((output / "coco.json").read_text())
    assert coco["images"] == [{"id": 1, "file_name": line["image_path"], "height": height, "width": width}]
    assert [each["bbox"] for each in coco["annotations"]] == [each["bbox"] for each in line["regions"]]
    assert [sum(each["segmentation"]["counts"]) for each in coco["annotations"]] == [height * width] * len(
        line["regions"]
    )


def test_images_of_one_name_keep_their_folders(predict: Predict, new: Path, output: Path) -> None:
    assert predict("--data", new / "left" / "000.png", new / "right", "--overlays", "--masks", "--maps", "tiff") == 0
    for kind, ending in {"images": "png", "masks": "png", "maps": "tiff"}.items():
        found = sorted(str(path.relative_to(output / kind)) for path in (output / kind).rglob("*.*"))
        assert found == [f"left/000.{ending}", f"right/000.{ending}"]
    with Image.open(output / "maps" / "left" / "000.tiff") as picture:
        assert (picture.mode, picture.size) == ("F", (150, 112))


def test_a_damaged_image_is_skipped_and_told(
    predict: Predict, new: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = new / "left" / "cut.png"
    cut.write_bytes((new / "left" / "000.png").read_bytes()[:-3000])
    (new / "right" / "text.jpg").write_text("no image")
    (new / "right" / "empty.png").touch()
    (new / "right" / "notes.txt").write_text("is not looked at")
    assert predict("--data", new, "--fail_on_anomaly") == 3, "what could not be read counts for more"
    assert len(lines(output)) == 3
    failures = {row["image_path"]: row["error"] for row in rows(output / "failures.csv")}
    assert set(failures) == {str(cut), str(new / "right" / "text.jpg"), str(new / "right" / "empty.png")}
    assert failures[str(cut)].startswith(f"{cut} is damaged")
    printed = capsys.readouterr()
    assert f"skipped: {cut} is damaged" in printed.err
    assert f"skipped: {new / 'right' / 'text.jpg'} is no image that can be read" in printed.err
    assert f"3 images failed: {output / 'failures.csv'}" in printed.err
    assert ", 3 failed" in printed.out


def test_a_list_is_read_from_standard_input(
    predict: Predict, new: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = f"{new / 'right' / '000.png'}\n\n{new / 'gone.png'}\n{new / 'left'}\n{new / 'right' / '000.png'}\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(listed))
    assert predict("--data", "-") == 3
    assert [Path(line["image_path"]).relative_to(new).as_posix() for line in lines(output)] == [
        "right/000.png",
        "left/000.png",
        "left/001.png",
    ]
    assert "gone.png is missing" in rows(output / "failures.csv")[0]["error"]


def test_going_on_after_an_interruption_gives_what_an_uninterrupted_prediction_gives(
    predict: Predict,
    photographs: Path,
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(run_module, "PIXELS_AT_ONCE", 2 * 112 * 150)
    data = ["--data", photographs / "bad", photographs / "good_test", "--coco"]
    assert predict(*data) == 0
    whole, table, coco = lines(output), rows(output / "predictions.csv"), (output / "coco.json").read_text()
    shutil.rmtree(output)

    write, items = PredictionWriter.write, []

    def interrupted(self: PredictionWriter, item: ImageItem, *arguments: object) -> PredictedImage:
        items.append(item)
        if len(items) == 6:
            raise KeyboardInterrupt
        return write(self, item, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(PredictionWriter, "write", interrupted)
        assert predict(*data) == 130
    assert "--skip_existing" in capsys.readouterr().err.partition("Resume with: ")[2]
    assert lines(output) == whole[:4], "what was predicted is there"
    content = (output / "predictions.jsonl").read_bytes()
    (output / "predictions.jsonl").write_bytes(content[:-20])  # as if the power had failed
    monkeypatch.setattr(run_module, "PIXELS_AT_ONCE", 2**22)
    assert predict(*data, "--skip_existing") == 0
    assert close(lines(output), whole)
    assert [row["image_path"] for row in rows(output / "predictions.csv")] == [row["image_path"] for row in table]
    assert json.loads((output / "coco.json").read_text())["images"] == json.loads(coco)["images"]
    assert "5 images predicted" in (said := capsys.readouterr().out)
    assert "3 predicted before: 4 of 8 are anomalous" in said


def test_no_prediction_is_kept_in_memory(predict: Predict, photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "PIXELS_AT_ONCE", 112 * 150)
    decide, maps, alive = EnsembleModel.decide, [], []

    def watched(self: EnsembleModel, raw: RawPrediction) -> InferenceBatch:
        decided = decide(self, raw)
        maps.append(weakref.ref(decided.anomaly_map))
        alive.append(sum(each() is not None for each in maps))
        return decided

    monkeypatch.setattr(EnsembleModel, "decide", watched)
    assert predict("--data", photographs / "bad", photographs / "good_test") == 0
    assert len(alive) == 8
    assert max(alive) <= 2


def test_another_threshold_decides_again_without_asking_the_model(
    predict: Predict, photographs: Path, output: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = [
        "--data",
        photographs / "bad",
        photographs / "good_test",
        "--maps",
        "npy",
        "--masks",
        "--overlays",
        "--coco",
    ]
    thresholds = ["--threshold", "1.5", "--pixel_threshold", "q0.9"]
    assert predict(*data) == 0
    calibrated = lines(output)
    pictures = {path: path.read_bytes() for kind in ("masks", "images") for path in (output / kind).rglob("*.png")}

    def refuse(*_: object, **__: object) -> None:
        message = "no model is needed"
        raise AssertionError(message)

    with monkeypatch.context() as patched:
        patched.setattr(EnsembleModel, "predict_raw", refuse)
        patched.setattr(loaded_models, "load_tile_model", refuse)
        assert predict(*thresholds) == 0
    again, coco = lines(output), json.loads((output / "coco.json").read_text())
    assert [each["bbox"] for each in coco["annotations"]] == [
        each["bbox"] for line in again for each in line["regions"]
    ]
    assert [line["pred_label"] for line in again] == [int(line["pred_score"] > 1.5) for line in calibrated]
    assert sum(line["pred_label"] for line in again) < sum(line["pred_label"] for line in calibrated)
    masks = {path: path.read_bytes() for path in pictures}
    assert any(masks[path] != pictures[path] for path in pictures if "masks" in path.parts)
    assert any(masks[path] != pictures[path] for path in pictures if "images" in path.parts)
    assert json.loads((output / "prediction.json").read_text())["threshold"] == "1.5"
    shutil.rmtree(output)
    assert predict(*data, *thresholds) == 0
    assert close(lines(output), again), "as if it had been predicted so"


@pytest.mark.parametrize("gone", ["map", "image"])
def test_what_cannot_be_decided_again_stays_as_it_was(
    predict: Predict, new: Path, output: Path, capsys: pytest.CaptureFixture[str], gone: str
) -> None:
    assert predict("--data", new, "--maps", "npy", "--masks", "--overlays") == 0
    last = Path(lines(output)[-1]["image_path"])
    path = last if gone == "image" else next((output / "maps").rglob(f"{last.stem}*.npy"))
    path.unlink()
    before = {each: each.read_bytes() for each in output.rglob("*.*") if each.suffix != ".log"}
    assert predict("--pixel_threshold", "0.1") == 2
    assert f"{path} is missing, but new thresholds for {last} need it" in capsys.readouterr().err
    assert {each: each.read_bytes() for each in output.rglob("*.*") if each.suffix != ".log"} == before


def test_a_quantile_is_one_of_normal_validation_images(predict: Predict, photographs: Path, output: Path) -> None:
    assert predict("--data", photographs / "bad", photographs / "good_test") == 0
    raw = [line["raw_score"] for line in lines(output)]
    normal = sorted(raw[4:])
    for rule, threshold in {"q0.5": normal[1], "fpr0.25": normal[2], "q1": normal[3], "fpr1": normal[0]}.items():
        assert predict("--threshold", rule) == 0
        assert [line["pred_label"] for line in lines(output)] == [int(score > threshold + 1e-4) for score in raw]


def test_a_quantile_that_is_too_fine_is_told_and_small_regions_are_left_out(
    predict: Predict, new: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--data", new, "--threshold", "fpr0.01", "--min_area", "5000") == 0
    assert [line["regions"] for line in lines(output)] == [[], [], []]
    assert "Note: fpr0.01 is finer than 4 normal validation scores resolve" in capsys.readouterr().err


def test_an_anomaly_can_be_a_failure(predict: Predict, new: Path, output: Path) -> None:
    assert predict("--data", new / "left" / "001.png", "--fail_on_anomaly") == 0
    shutil.rmtree(output)
    assert predict("--data", new, "--fail_on_anomaly") == 4
    assert predict("--data", new, "--fail_on_anomaly", "--skip_existing") == 4, "those that were there count too"


def test_results_in_the_folder_of_the_images_are_no_images(
    finished_run: Path, new: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["predict", "--ckpt_dir", str(finished_run), "--data", str(new), "--output", str(new / "out")]
    assert main([*common, "--masks"]) == 0
    assert main([*common, "--masks", "--skip_existing"]) == 0
    assert "3 predicted before" in capsys.readouterr().out


def test_a_run_without_output_predicts_into_its_own_folder(finished_run: Path, new: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, copy := tmp_path / "run")
    assert main(["predict", "--ckpt_dir", str(copy), "--data", str(new)]) == 0
    assert len(lines(copy / "predictions")) == 3


REFUSED = {
    "an empty folder": (["--data", "{new}/empty"], "There must be images in {new}/empty or its subfolders"),
    "a pattern": (["--data", "{new}/*.gif"], "No image matches {new}/*.gif. Quote it to keep"),
    "no data": ([], "--data must name the images to predict"),
    "no data, other options": (["--threshold", "0.5", "--masks"], "Without --data, only thresholds can be changed."),
    "no data, a device": (["--threshold", "0.5", "--device", "cpu"], "Without --data, only thresholds can be changed."),
    "nothing predicted yet": (["--threshold", "0.5"], "There must be predictions in {output}, but there is no"),
    "a threshold": (["--data", "{new}", "--threshold", "high"], "--threshold must be a score such as 0.7"),
    "a format": (["--data", "{new}", "--maps", "gif"], "maps must be one of 'npy', 'tiff', but is gif."),
    "a device": (["--data", "{new}", "--device", "warp"], "The device must be auto, cpu, or an accelerator"),
    "an option": (["--data", "{new}", "--mask"], "There is no setting 'mask'. Did you mean 'masks'?"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_says_what_can(
    predict: Predict, new: Path, output: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (new / "empty").mkdir()
    assert predict(*(each.format(new=new) for each in arguments)) == 2
    assert message.format(new=new, output=output) in (said := capsys.readouterr().err)
    assert "Traceback" not in said
    assert not (output / "predictions.jsonl").exists()


def test_results_of_two_predictions_are_not_mixed(
    predict: Predict, new: Path, output: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--data", new, "--masks") == 0
    before = (output / "predictions.jsonl").read_bytes()
    for arguments, message in (
        ([new], "holds predictions already. Choose another folder with --output, resume with --skip_existing"),
        (
            [new, "--masks", "--skip_existing", "--threshold", "0.9"],
            "holds predictions without --threshold, but this command is with --threshold 0.9. Give",
        ),
        (
            [new, photographs / "bad", "--masks", "--skip_existing"],
            f"holds masks, overlays or maps of images in {new}, so new images must be there too",
        ),
    ):
        capsys.readouterr()
        assert predict("--data", *arguments) == 2
        assert message in capsys.readouterr().err
    assert predict("--pixel_threshold", "0.5") == 2
    assert "--pixel_threshold needs the raw maps of" in capsys.readouterr().err
    assert (output / "predictions.jsonl").read_bytes() == before


def test_other_calibrations_do_not_mix(
    predict: Predict, new: Path, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--data", new) == 0
    shutil.copytree(finished_run, other := tmp_path / "other")
    learned = json.loads((other / "calibration.json").read_text())
    (other / "calibration.json").write_text(json.dumps({**learned, "notes": ["other"]}))
    RunFolder(other).note_checksum(other / "calibration.json")
    assert predict("--data", new, "--skip_existing", run=other) == 2
    refused = "holds predictions of another run, or of this run before it was calibrated anew. Choose another folder"
    assert refused in capsys.readouterr().err


def test_a_disk_that_is_full_loses_nothing(
    predict: Predict, new: Path, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", full)
        assert predict("--data", new, "--masks") == 2
    said = capsys.readouterr().err
    assert "No space left on the disk while writing" in said
    assert "--skip_existing" in said.partition("Resume with: ")[2]
    assert predict("--data", new, "--masks", "--skip_existing") == 0
    assert len(lines(output)) == 3


def test_plugins_are_told_of_each_image(
    predict: Predict, new: Path, tmp_path: Path, install: Callable[..., None]
) -> None:
    told = tmp_path / "told.txt"
    install(
        "listener",
        "from anomalib_tiled import hookimpl\n"
        "@hookimpl\n"
        "def image_predicted(prediction):\n"
        f"    with open({str(told)!r}, 'a') as file:\n"
        "        print(prediction.image_path, int(prediction.pred_label), file=file)\n",
    )
    assert predict("--data", new) == 0
    assert [line.split()[1] for line in told.read_text().splitlines()] == ["1", "0", "1"]


def test_help_tells_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["predict", "--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    for status in (
        "0    success",
        "2    an argument",
        "3    some images",
        "4    success, and with --fail_on_anomaly",
        "130  inter",
    ):
        assert f"\n  {status}" in said
    text = " ".join(said.split())
    for words in ("fpr0.01", "float32, bfloat16, on a GPU float16;", "or by --engine in 16 bits."):
        assert words in text


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "auto"])
def test_an_engine_predicts_what_pytorch_predicts(
    finished_run: Path,
    new: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
) -> None:
    monkeypatch.setattr(prediction_engine, "FEWEST_TILES", 0)

    def predicted(name: str) -> Lines:
        output = tmp_path / name
        arguments = ("--ckpt_dir", finished_run, "--data", new, "--engine", name, "--output", output)
        assert main(["predict", *map(str, arguments)]) == 0
        return lines(output)

    found = predicted(engine)
    assert "Engine: " in capsys.readouterr().err
    assert close(found, predicted("torch"))
    assert "Engine: " not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--engine", "auto", "--workers", "LocalWorkers"),
            "--engine auto measures in this process, and with --workers",
        ),
        (("--engine", "tensorrt"), "engine must be one of 'torch', 'openvino', 'onnx', 'auto', but is tensorrt"),
        (("--engine", "openvino"), "The engine openvino needs openvino; not installed: openvino."),
        (("--engine", "onnx", "--precision", "bfloat16"), "The engine onnx lacks bfloat16, but"),
        (("--precision", "float16"), "precision must be one that the device has, but is float16"),
    ],
)
def test_engines_that_cannot_be_used_are_refused(
    predict: Predict,
    new: Path,
    output: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    assert predict("--data", new, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_an_engine_needs_images(predict: Predict, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("--engine", "openvino", "--threshold", "0.7") == 2
    assert "Without --data, only thresholds can be changed." in capsys.readouterr().err
