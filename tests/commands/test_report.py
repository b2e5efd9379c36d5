"""Reports: whole commands on painted photographs, and what the page holds."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anomalib_tiled.cli.main import main
from anomalib_tiled.drift.findings import Drift, Finding
from anomalib_tiled.runs.report_file import MARK
from anomalib_tiled.runs.result_files import remove_results
from anomalib_tiled.system.files import read_json, write_json

Predict = Callable[..., int]
Data = dict[str, Any]


def data_of(page: Path) -> Data:
    """Give what a page holds as JSON."""
    found = re.search(r"<script[^>]*application/json[^>]*>(.*?)</script>", page.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def picture(address: str) -> np.ndarray:
    assert address.startswith("data:image/")
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
        return np.asarray(image)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, without stored predictions."""
    return Path(shutil.copytree(finished_run, tmp_path / "v0", ignore=shutil.ignore_patterns("raw", "tiles/*.ckpt")))


def report(run: Path, *arguments: str | Path) -> int:
    return main(["report", "--ckpt_dir", str(run), *map(str, arguments)])


def refusal(capsys: pytest.CaptureFixture[str], run: Path, *arguments: str | Path) -> str:
    """Give the message of a report that is refused."""
    capsys.readouterr()
    assert report(run, *arguments) == 2
    return capsys.readouterr().err


def test_numbers_are_those_of_the_test(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(run) == 0
    assert f"Report: {run / 'report.html'}" in capsys.readouterr().out
    shown = data_of(run / "report.html")
    assert shown["metrics"] == read_json(run / "metrics.json")
    scores = rows(run / "scores.csv")
    assert [image["path"] for image in shown["images"]] == [row["image_path"] for row in scores]
    assert [image["score"] for image in shown["images"]] == [float(row["pred_score"]) for row in scores]
    assert [image["truth"] for image in shown["images"]] == [row["gt_label"] == "1" for row in scores]
    threshold = shown["scale"]["threshold"]
    assert [image["score"] > threshold for image in shown["images"]] == [row["pred_label"] == "1" for row in scores]
    assert shown["is_labelled"]
    assert {image["folder"] for image in shown["images"]} == {"bad", "good_test"}
    tiles = {row["tile"]: row for row in rows(run / "tiles.csv")}
    for tile in shown["part"]["tiles"]:
        assert tile["auroc"] == (float(tiles[tile["name"]]["image_AUROC"] or "nan") if tile["auroc"] else None)
    assert len(shown["part"]["tiles"]) == 9
    assert shown["part"]["picture"] is not None
    assert any("tuned on the images" in note for note in shown["notes"])


def test_pictures_show_where_the_defect_is(run: Path, photographs: Path) -> None:
    assert report(run) == 0
    image = next(each for each in data_of(run / "report.html")["images"] if each["name"] == "bad/002.png")
    with Image.open(photographs / "mask" / "002.png") as file:
        truth = np.asarray(file) > 0
    assert np.array_equal(picture(image["truth_mask"]) > 0, truth), "small images keep their size"
    heat, mask = picture(image["heat_map"]), picture(image["mask"])
    assert picture(image["picture"]).shape == (*truth.shape, 3)
    assert heat[truth].mean() > 2 * heat[~truth].mean()
    assert (mask[truth] > 0).mean() > 0.5
    assert np.all(heat[mask > 0] >= 124), "the threshold is 0.5 of 255, and heat maps are rounded"
    region, best = image["regions"][0], np.unravel_index(heat.argmax(), heat.shape)
    assert region["left"] <= best[1] < region["left"] + region["width"]
    assert region["top"] <= best[0] < region["top"] + region["height"]
    assert len(image["tiles"]) == 9
    assert image["link"].startswith("file:///")


def test_a_report_needs_neither_pytorch_nor_the_models(run: Path) -> None:
    code = "import sys; from anomalib_tiled.cli.main import main; main(sys.argv[1:]); print({'torch'} & {*sys.modules})"
    command = [sys.executable, "-c", code, "report", "--ckpt_dir", str(run)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.endswith("set()\n"), done.stdout


def test_predictions_have_a_report_without_labels(
    predict: Predict, finished_run: Path, new: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--data", new, "--masks", "--maps", "npy") == 0
    moved = Finding("tile", "r01_c02", 1.0, 2.0, 0.5, 1e-6, has_moved=True, words="It rose.")
    drift = Drift(3, 4, has_drifted=True, sentences=["It rose."], findings=[moved], windows=[]).to_json()
    write_json(output / "drift.json", drift)
    assert report(finished_run, "--predictions", output) == 0
    assert f"Report: {output / 'report.html'}" in capsys.readouterr().out
    shown = data_of(output / "report.html")
    lines = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    assert [image["score"] for image in shown["images"]] == [line["pred_score"] for line in lines]
    assert [image["name"] for image in shown["images"]] == ["left/000.png", "left/001.png", "right/000.png"]
    assert {image["truth"] for image in shown["images"]} == {None}
    assert (shown["is_labelled"], shown["metrics"], shown["drift"]) == (False, {}, drift)
    first = shown["part"]["tiles"][0]
    assert (first["name"], first["drifted"]) == ("r01_c02", "It rose.")
    tested = {each["name"]: each for each in images_of_test(finished_run)}
    own, same = picture(shown["images"][0]["heat_map"]), picture(tested["bad/000.png"]["heat_map"])
    assert np.abs(own.astype(int) - same).max() <= 8, "maps get the scale of reported scores"
    assert np.array_equal(picture(shown["images"][0]["mask"]), picture(tested["bad/000.png"]["mask"]))


def images_of_test(run: Path) -> list[Data]:
    """Give the images of a report on the test, written elsewhere."""
    page = run.parent / "tested.html"
    assert report(run, "--output", page) == 0
    return data_of(page)["images"]


def test_images_that_have_gone_are_left_without_a_picture(
    predict: Predict, finished_run: Path, new: Path, output: Path
) -> None:
    assert predict("--data", new, "--threshold", "0.9") == 0
    (new / "left" / "001.png").unlink()
    assert report(finished_run, "--predictions", output) == 0
    shown = data_of(output / "report.html")
    assert [image["picture"] is None for image in shown["images"]] == [False, True, False]
    assert [image["link"] is None for image in shown["images"]] == [False, True, False]
    assert [image["heat_map"] for image in shown["images"]] == [None] * 3, "no maps were written"
    assert [note for note in shown["notes"] if note.startswith("1 of 3 images")], shown["notes"]
    labels = [json.loads(line)["pred_label"] for line in (output / "predictions.jsonl").read_text().splitlines()]
    assert [int(image["score"] > shown["scale"]["threshold"]) for image in shown["images"]] == labels, "of predict"


def test_predictions_of_another_run_are_refused(
    predict: Predict, run: Path, new: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--data", new) == 0
    facts = read_json(output / "prediction.json")
    write_json(output / "prediction.json", facts | {"calibration": "another"})
    assert "Predictions must be of the run in --ckpt_dir" in refusal(capsys, run, "--predictions", output)
    assert not (output / "report.html").exists()
    assert "has no prediction.json" in refusal(capsys, run, "--predictions", new)
    write_json(output / "prediction.json", facts)
    write_json(output / "drift.json", {"images": 3})
    assert "must hold what check has found, but lacks findings, has_drifted" in refusal(
        capsys, run, "--predictions", output
    )


def test_without_results_there_is_nothing_to_report(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "tested.jsonl").unlink()
    assert "an earlier version" in (message := refusal(capsys, run))
    assert f"Test the run: `anomalib tiled test --ckpt_dir {run}`." in message
    for name in ("tested.json", "metrics.json"):
        (run / name).unlink()
    assert "there are none in" in refusal(capsys, run)
    assert not (run / "report.html").exists()


def test_results_of_another_calibration_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configuration = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(configuration.replace("image_sensitivity: 0.5", "image_sensitivity: 0.6"))
    assert "must be of the present calibration" in refusal(capsys, run)


def test_other_files_are_not_replaced(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.html").write_text("mine")
    assert "is no report of this program" in refusal(capsys, run, "--output", tmp_path / "mine.html")
    assert (tmp_path / "mine.html").read_text() == "mine"
    assert "is a folder" in refusal(capsys, run, "--output", tmp_path)
    assert "there is no folder" in refusal(capsys, run, "--output", tmp_path / "a" / "b.html")
    assert report(run, "--output", tmp_path / "own.html") == 0
    first = (tmp_path / "own.html").read_bytes()
    assert MARK in first
    assert report(run, "--output", tmp_path / "own.html") == 0, "it replaces its own"
    (run / "report.html").write_text("mine")
    assert main(["test", "--ckpt_dir", str(run), "--report"]) == 2, "before anything is measured"
    assert "is no report of this program" in capsys.readouterr().err


def relabelled(run: Path, label: int | None) -> Data:
    """Give what the page holds if all test images had this label."""
    lines = [json.loads(line) for line in (run / "tested.jsonl").read_text().splitlines()]
    (run / "tested.jsonl").write_text("".join(json.dumps({**line, "gt_label": label}) + "\n" for line in lines))
    assert report(run) == 0
    return data_of(run / "report.html")


def test_images_of_one_class_have_a_report(run: Path) -> None:
    shown = relabelled(run, 0)
    assert not shown["is_labelled"]
    assert any("No image is labelled anomalous" in note for note in shown["notes"])


def test_images_without_labels_have_a_report(run: Path) -> None:
    shown = relabelled(run, None)
    assert not shown["is_labelled"]
    assert any("The labels of 8 of 8 images are unknown" in note for note in shown["notes"])


def test_images_without_maps_have_a_report(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "tested.jsonl").read_text().splitlines()]
    without = [{**line, "any_pixel": None, "regions": [], "heat_range": None} for line in lines]
    (run / "tested.jsonl").write_text("".join(json.dumps(line) + "\n" for line in without))
    for path in (run / "thumbnails").glob("*.*.png"):
        path.unlink()
    assert report(run) == 0
    shown = data_of(run / "report.html")
    assert {(image["heat_map"], image["mask"]) for image in shown["images"]} == {(None, None)}
    assert shown["scale"]["pixel_threshold"] is None
    assert any("gives no anomaly maps" in note for note in shown["notes"])


def test_a_line_that_was_changed_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (run / "tested.jsonl").read_text().splitlines()
    (run / "tested.jsonl").write_text("\n".join([*lines[:2], lines[2][:50], ""]))
    assert f"Line 3 of {run / 'tested.jsonl'} must hold a test image" in refusal(capsys, run)


CHANGES = (
    ("tested.jsonl", {"pred_score": "x"}, "pred_score is 'x': it should be a valid number"),
    ("tested.jsonl", {"pred_score": float("inf")}, "pred_score is inf: it should be a finite number"),
    ("tested.jsonl", {"gt_label": []}, "gt_label is []: it should be a valid integer"),
    ("tested.jsonl", {"heat_range": []}, "lacks heat_range.0, heat_range.1"),
    ("tested.json", {"seconds": None}, "seconds is None: it should be a valid number"),
    ("tested.json", {"host": 1}, "host is 1: it should be a valid string"),
    ("tested.json", {"versions": []}, "versions is []: it should be a valid dictionary"),
    ("tested.json", {"notes": 3}, "notes is 3: it should be a valid list"),
)


def test_a_value_of_another_kind_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, change, words in CHANGES:
        text = (run / name).read_text()
        first, *others = text.splitlines() if name.endswith("l") else [text]
        (run / name).write_text("\n".join([json.dumps({**json.loads(first), **change}), *others, ""]))
        message = refusal(capsys, run)
        assert words in message
        assert str(run / name) in message
        assert message.endswith("Test the run again.\n")
        (run / name).write_text(text)
    facts = read_json(run / "tested.json")
    write_json(run / "tested.json", {"calibration": facts["calibration"], "host": "a"})
    assert "must say how images were tested, but lacks device, finished, notes, peak_memory, seconds" in refusal(
        capsys, run
    )
    assert not (run / "report.html").exists()


def test_a_tile_without_a_finite_number_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "tiles.csv"
    first, *others = rows(path)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, first.keys())
        writer.writeheader()
        writer.writerows([{**first, "normal_mean": "nan"}, *others])
    assert "tiles.csv must hold numbers, but was changed (normal_mean is nan)" in refusal(capsys, run)


def test_a_metric_that_is_no_number_is_shown_as_undefined(run: Path) -> None:
    write_json(run / "metrics.json", {"a": 10**400, "b": float("inf"), "c": float("nan"), "d": [1, 2], "e": 0.5})
    assert report(run) == 0
    assert data_of(run / "report.html")["metrics"] == {"a": None, "b": None, "c": None, "e": 0.5}


def test_what_a_check_has_found_must_have_its_form_and_be_of_all_images(
    predict: Predict, finished_run: Path, new: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--data", new) == 0
    drift = Drift(2, 4, has_drifted=False, sentences=[], findings=[], windows=[]).to_json()
    for change, words in (
        ({"findings": None}, "findings is None: it should be an instance of Sequence"),
        ({"findings": [{"quantity": "tile"}]}, "lacks findings.0.has_moved, findings.0.median"),
        ({"images": float("inf")}, "images is inf: it should be a finite number"),
        ({"sentences": 3}, "sentences is 3: it should be an instance of Sequence"),
    ):
        write_json(output / "drift.json", {**drift, **change})
        message = f"drift.json must hold what check has found, but {words}"
        assert message in (refused := refusal(capsys, finished_run, "--predictions", output))
        assert refused.endswith("Check the predictions again, or delete it.\n")
    write_json(output / "drift.json", drift)
    os.utime(output / "drift.json", (0, 0))
    assert report(finished_run, "--predictions", output) == 0
    assert (
        "What is said of drift is of 1970-01-01 00:00 UTC, when 2 images were predicted, and now 3 are. "
        "Check the predictions again."
    ) in data_of(output / "report.html")["notes"]


def test_whatever_a_file_is_called_it_is_data(run: Path) -> None:
    evil = "/data/<img src=x onerror=alert(1)>/</script><script>alert(2)</script>.png"
    text = (run / "tested.jsonl").read_text()
    first = json.loads(text.splitlines()[0])["image_path"]
    (run / "tested.jsonl").write_text(text.replace(json.dumps(first), json.dumps(evil), 1))
    assert report(run) == 0
    assert "<img src=x" not in (run / "report.html").read_text()
    shown = data_of(run / "report.html")
    assert shown["images"][0]["path"] == evil
    assert shown["images"][0]["link"] is None


def test_test_writes_its_report_beside_its_results(
    finished_run: Path, output: Path, kept_models: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", "--ckpt_dir", str(finished_run), "--output", str(output), "--report"]) == 0
    assert f"Report:     {output / 'report.html'}" in capsys.readouterr().out
    assert data_of(output / "report.html")["metrics"] == read_json(output / "metrics.json")
    assert "report" not in (finished_run / "config.yaml").read_text()


def test_new_models_remove_what_a_report_needs(run: Path) -> None:
    assert report(run) == 0
    names = ("tested.json", "tested.jsonl", "thumbnails", "report.html")
    assert all((run / name).exists() for name in names)
    (run / "thumbnails" / "mine.txt").write_text("mine")
    remove_results(run)
    assert [path.name for path in (run / "thumbnails").iterdir()] == ["mine.txt"]
    assert not any((run / name).exists() for name in names if name != "thumbnails")
    (run / "report.html").write_text("mine")
    remove_results(run)
    assert (run / "report.html").read_text() == "mine"
