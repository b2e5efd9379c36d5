from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from anomalib_tiled.errors import ConfigurationError, RunFolderError, StorageError
from anomalib_tiled.grid import Size
from anomalib_tiled.results.prediction_folder import PredictionFolder
from anomalib_tiled.results.prediction_row import COLUMNS, PredictedImage
from anomalib_tiled.results.region import Region
from anomalib_tiled.results.request import Predicted, PredictionSettings


def image(name: str, *regions: Region) -> PredictedImage:
    return PredictedImage(f"/data/{name}", Size(6, 9), 0.625, 12.5, int(bool(regions)), regions)


ONE = Region((8, 5, 1, 1), 1, (8.0, 5.0), (8, 5), 0.875, 0.875, (53, 1, 0))
TWO = Region((2, 1, 3, 2), 6, (3.0, 1.5), (4, 2), 0.75, 0.5, (13, 2, 4, 2, 4, 2, 27))
IMAGES = [image("ä.png", ONE, TWO), replace(image("b,c.png"), any_pixel=True), image("d.png", TWO)]


@pytest.fixture
def folder(tmp_path: Path) -> PredictionFolder:
    predictions = PredictionFolder(tmp_path)
    predictions.begin(PredictionSettings(coco=True), common="/data")
    predictions.append(IMAGES[:2])
    predictions.append(IMAGES[2:])
    return predictions


def table(folder: PredictionFolder) -> list[list[str]]:
    with folder.rows_file.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_predictions_are_read_as_they_were_written(folder: PredictionFolder) -> None:
    assert list(folder.predicted()) == IMAGES


def test_a_line_says_how_label_and_pixels_contradict_each_other(folder: PredictionFolder) -> None:
    lines = [json.loads(line) for line in folder.lines_file.read_text(encoding="utf-8").splitlines()]
    assert [line["contradiction"] for line in lines] == ["", "normal, but with anomalous pixels", ""]


def test_a_line_of_an_earlier_version_is_read(folder: PredictionFolder) -> None:
    content = json.loads(IMAGES[0].to_line())
    del content["contradiction"], content["any_pixel"]
    folder.lines_file.write_text(json.dumps(content) + "\n")
    assert list(folder.predicted()) == IMAGES[:1]


def test_every_prediction_is_on_the_disk_at_once(folder: PredictionFolder) -> None:
    before = folder.lines_file.read_bytes()
    folder.append(IMAGES[:1])
    assert folder.lines_file.read_bytes().startswith(before)
    assert len(folder.lines_file.read_text().splitlines()) == 4


def test_the_table_says_what_the_lines_say(folder: PredictionFolder) -> None:
    folder.repair()
    heading, *rows = table(folder)
    assert heading == list(COLUMNS)
    assert rows == [
        ["/data/ä.png", "0.625", "1", "2", "7", "8", "5", "1", "1", "0.875", ""],
        ["/data/b,c.png", "0.625", "0", "0", "0", "", "", "", "", "", "normal, but with anomalous pixels"],
        ["/data/d.png", "0.625", "1", "1", "6", "2", "1", "3", "2", "0.75", ""],
    ]
    folder.append(IMAGES[:1])
    assert table(folder)[-1] == rows[0]


@pytest.mark.parametrize("cut", [1, 100])
def test_a_last_line_that_is_cut_off_is_removed(folder: PredictionFolder, cut: int) -> None:
    folder.lines_file.write_bytes(folder.lines_file.read_bytes()[:-cut])
    assert folder.repair() == {"/data/ä.png": "anomalous", "/data/b,c.png": "normal"}
    assert list(folder.predicted()) == IMAGES[:2]
    assert len(table(folder)) == 3
    folder.append(IMAGES[2:])
    assert list(folder.predicted()) == IMAGES


def test_a_folder_without_predictions_is_repaired_to_an_empty_one(tmp_path: Path) -> None:
    folder = PredictionFolder(tmp_path / "new")
    assert folder.repair() == {}
    assert list(folder.predicted()) == []
    assert table(folder) == [list(COLUMNS)]


OTHER = (
    {"pred_score": "x"},
    {"raw_score": float("inf")},
    {"image_path": "a.png"},
    {"image_size": [0, 3]},
    {"image_size": [10**400, 3]},
    {"regions": [{"bbox": 1}]},
    {"tiles": ["a"]},
    {"tiles": {"r00_c00": 10**400}},
    {"named_regions": {"screw": 1}},
    {"appearance": {}},
)
CHANGED = [json.dumps({**json.loads(IMAGES[0].to_line()), **change}) for change in OTHER]


@pytest.mark.parametrize("line", ["{}", "[]", "text", '{"regions": 5, "image_size": [1]}', *CHANGED])
def test_a_changed_line_is_named(folder: PredictionFolder, line: str) -> None:
    lines = folder.lines_file.read_text().splitlines()
    folder.lines_file.write_text("\n".join([lines[0], line, lines[2]]) + "\n")
    with pytest.raises(RunFolderError, match=r"Line 2 of .*predictions\.jsonl was changed \(.*\)\. Choose another"):
        folder.repair()


def test_predictions_are_replaced_all_or_none(folder: PredictionFolder) -> None:
    def fails() -> list[PredictedImage]:
        message = "out of luck"
        raise RuntimeError(message)
        yield IMAGES[0]

    with pytest.raises(RuntimeError):
        folder.replace(fails())
    assert list(folder.predicted()) == IMAGES
    folder.replace(reversed(IMAGES))
    assert list(folder.predicted()) == IMAGES[::-1]
    assert [row[0] for row in table(folder)[1:]] == [each.image_path for each in IMAGES[::-1]]


def test_other_options_are_refused(folder: PredictionFolder) -> None:
    folder.check_same(coco=True, maps=None)
    message = r"holds predictions with --coco, but this command is without --coco\. Give the same options, or choose"
    with pytest.raises(ConfigurationError, match=message):
        folder.check_same(coco=False)
    with pytest.raises(ConfigurationError, match=r"without --maps, but this command is with --maps npy\. "):
        folder.check_same(coco=True, maps="npy")


DAMAGED = {
    "cut": ('{"common": "/data", ', r"cannot be read \(Expecting property name"),
    "no object": ("[1]", r"cannot be read \(it holds no JSON object\)"),
    "not all": (
        '{"common": "/data", "masks": true}',
        f"lacks {', '.join(sorted({*PredictionSettings().to_json()} - {'masks'}))}",
    ),
    **{
        f"another {name}": (json.dumps({"common": "/", **PredictionSettings().to_json(), name: value}), reason)
        for name, (value, reason) in {
            "uncertain": ({"lower": 0.4}, r"lacks uncertain\.upper"),
            "named_regions": (3, "named_regions is 3: it should be a valid list"),
            "min_area": ("x", "min_area is 'x': it should be a valid integer"),
            "common": (None, "common is None: it should be a valid string"),
        }.items()
    },
}


@pytest.mark.parametrize(("content", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_what_says_how_predictions_were_made_is_named_if_it_is_damaged(
    folder: PredictionFolder, content: str, reason: str
) -> None:
    folder.settings_file.write_text(content)
    message = rf"prediction\.json must hold the settings of the predictions beside it, but {reason}.*\. Restore it, or"
    with pytest.raises(RunFolderError, match=message):
        folder.facts()


def test_a_folder_that_must_not_be_looked_into(
    shared_folder: Path, forbidden: Callable[[Path], AbstractContextManager[None]]
) -> None:
    folder = PredictionFolder(shared_folder / "inner")
    folder.begin(PredictionSettings(), common="/data")
    message = rf"{folder.path} cannot be written: Permission denied\. Change its permissions or choose another folder"
    with forbidden(folder.path):
        for look in (folder.facts, lambda: folder.check_free(PredictionSettings(), resume=True)):
            with pytest.raises(StorageError, match=message):
                look()
    with (
        forbidden(folder.settings_file),
        pytest.raises(RunFolderError, match=r"prediction\.json .*cannot be read.*ermiss"),
    ):
        folder.facts()


def test_whether_there_are_maps_is_noted(folder: PredictionFolder) -> None:
    before = folder.facts()
    folder.note_maps(has_maps=False)
    assert folder.facts() == {**before, "has_maps": False}


def test_deciding_is_noted_until_all_is_decided(folder: PredictionFolder) -> None:
    folder.note_maps(has_maps=True)
    before, new = folder.facts(), PredictionSettings(threshold="0.5", coco=True)
    with pytest.raises(KeyboardInterrupt), folder.rethresholding(new, {"threshold": "0.5"}, None):
        raise KeyboardInterrupt
    assert folder.facts() == {**before, "deciding": {"threshold": "0.5"}}
    for given in ((), ("pixel_threshold",)):
        with pytest.raises(ConfigurationError, match=r"was interrupted, .* no --data, and --threshold 0\.5\.$"):
            folder.check_rethresholded(given)
    folder.check_rethresholded(["threshold", "pixel_threshold"])  # replaces all that was being replaced
    with folder.rethresholding(new, {"threshold": "0.5"}, None):
        pass
    assert folder.facts() == {**before, "threshold": "0.5"}
    folder.check_rethresholded()


def failures(folder: PredictionFolder) -> list[list[str]]:
    with folder.failures_file.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


def test_failures_are_listed_and_forgotten(folder: PredictionFolder) -> None:
    folder.append_failure(Path("a.png"), "is damaged, badly")
    folder.append_failure(Path("b.png"), 'is "gone"')
    assert failures(folder) == [["image_path", "error"], ["a.png", "is damaged, badly"], ["b.png", 'is "gone"']]
    assert folder.forget_failures({"a.png", "b.png", "c.png"}) == {"a.png", "b.png"}
    folder.forget_failures({"a.png"})
    assert not folder.failures_file.exists()


def test_failures_of_images_that_are_not_tried_again_stay(folder: PredictionFolder) -> None:
    other = os.fsdecode(b"St\xfcck, 2\n.png")
    for name in ("a.png", other, "c.png"):
        folder.append_failure(Path(name), "is damaged")
    folder.failures_file.write_bytes(folder.failures_file.read_bytes() + b"cut off")
    folder.forget_failures({"a.png", "c.png", "d.png"})
    assert failures(folder) == [["image_path", "error"], [other, "is damaged"]]
    folder.append_failure(Path("a.png"), "is gone")
    assert failures(folder)[1:] == [[other, "is damaged"], ["a.png", "is gone"]]


def test_a_list_of_failures_that_was_changed_is_named(folder: PredictionFolder) -> None:
    folder.failures_file.write_text(f"image_path,error\n{'a' * 200_000},is damaged\n")
    message = r"failures\.csv must be a list of images that failed, but was changed \(field larger .*\)\. Move it away"
    with pytest.raises(RunFolderError, match=message):
        folder.forget_failures({"b.png"})


def test_regions_in_the_form_of_coco(folder: PredictionFolder) -> None:
    folder.write_coco()
    coco = json.loads(folder.coco_file.read_text())
    assert [(each["id"], each["file_name"]) for each in coco["images"]] == [
        (1, "/data/ä.png"),
        (2, "/data/b,c.png"),
        (3, "/data/d.png"),
    ]
    assert [(each["id"], each["image_id"], each["bbox"]) for each in coco["annotations"]] == [
        (1, 1, [8, 5, 1, 1]),
        (2, 1, [2, 1, 3, 2]),
        (3, 3, [2, 1, 3, 2]),
    ]
    first = coco["annotations"][0]
    assert first["segmentation"] == {"size": [6, 9], "counts": [53, 1, 0]}
    assert (first["area"], first["iscrowd"], first["score"], first["category_id"]) == (1, 0, 0.875, 1)
    assert [each["id"] for each in coco["categories"]] == [1]


def test_no_predictions_are_coco_too(tmp_path: Path) -> None:
    folder = PredictionFolder(tmp_path)
    folder.write_coco()
    content = json.loads(folder.coco_file.read_text())
    assert (content["images"], content["annotations"]) == ([], [])


def test_a_prediction_is_told_in_a_line() -> None:
    assert str(Predicted(existing=2, images=6, failed=1, anomalous=3, seconds=2.0)) == (
        "6 images predicted in 2.0 s (3.0 images/s), 2 predicted before, 1 failed: 3 of 8 are anomalous."
    )
    assert (
        str(Predicted(existing=0, failed=1, seconds=0.1))
        == "0 images predicted in 0.1 s, 1 failed: 0 of 0 are anomalous."
    )
    summary = Predicted(existing=3)
    for each in IMAGES:
        summary.count(each)
    assert str(summary).endswith(
        "2 of 3 are anomalous. Of 3 images, 1 is normal, but with anomalous pixels: images and pixels have separate "
        "thresholds."
    )


def test_names_of_any_bytes_are_kept(tmp_path: Path) -> None:
    name, folder = os.fsdecode(b"/data/St\xfcck.png"), PredictionFolder(tmp_path)
    folder.begin(PredictionSettings(coco=True), common="/data")
    folder.append([replace(image("ä.png", ONE), image_path=name)])
    folder.append_failure(Path(name), f"{name} is damaged")
    assert [each.image_path for each in folder.predicted()] == [name]
    assert list(folder.repair()) == [name]
    folder.replace(list(folder.predicted()))
    for path in (folder.rows_file, folder.failures_file):
        assert os.fsencode(name) in path.read_bytes()
    folder.write_coco()
    assert json.loads(folder.coco_file.read_text())["images"][0]["file_name"] == name


ALL_KEPT = {"overlays": True, "masks": True, "maps": "npy", "coco": True}


@pytest.mark.parametrize("resume", [True, False])
def test_a_new_folder_and_one_with_other_things_are_free(tmp_path: Path, *, resume: bool) -> None:
    folder = PredictionFolder(tmp_path)
    PredictionFolder(tmp_path / "new").check_free(PredictionSettings(), resume=resume)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "000.png").write_text("somebody's")
    (tmp_path / "masks").mkdir()  # empty
    folder.rows_file.touch()
    before = sorted(tmp_path.rglob("*"))
    folder.check_free(PredictionSettings(**ALL_KEPT), resume=resume)
    assert sorted(tmp_path.rglob("*")) == before, "it only looks"


def test_predictions_are_resumed_only_on_request(folder: PredictionFolder) -> None:
    folder.check_free(PredictionSettings(), resume=True)
    with pytest.raises(ConfigurationError, match=r"holds predictions already\. Choose another folder with --output"):
        folder.check_free(PredictionSettings(), resume=False)


def test_a_prediction_that_failed_before_its_first_result_is_in_nobodys_way(tmp_path: Path) -> None:
    folder = PredictionFolder(tmp_path)
    folder.begin(PredictionSettings(), common="/data")
    folder.repair()
    folder.append_failure(Path("a.png"), "too large")
    folder.parts.mkdir()
    (folder.parts / "token").write_text("of a command that has ended")
    assert not folder.holds_results()
    for resume in (True, False):
        folder.check_free(PredictionSettings(**ALL_KEPT), resume=resume)


@pytest.mark.parametrize("name", ["masks/a/000.png", "images/0.png", "coco.json", "predict.parts/0.jsonl"])
def test_whatever_a_prediction_has_left_is_a_result(tmp_path: Path, name: str) -> None:
    folder = PredictionFolder(tmp_path)
    (path := folder.path / name).parent.mkdir(parents=True, exist_ok=True)
    path.write_text("begun")
    assert not folder.holds_results(), "it may be anybody's"
    folder.begin(PredictionSettings(), common="/data")
    assert folder.holds_results()
    with pytest.raises(ConfigurationError, match="holds predictions already"):
        folder.check_free(PredictionSettings(), resume=False)


def test_what_places_have_left_half_done_is_removed(tmp_path: Path) -> None:
    folder, half_done = PredictionFolder(tmp_path), ".000.png.other-1-4026531836-77-0123abcd.tmp"
    names = [f"masks/a/{half_done}", f"predict.parts/{half_done}", "masks/a/000.png", "masks/.mine.tmp"]
    for name in [*names, f"images/{half_done}"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folder.clean_up(PredictionSettings(masks=True))
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert left == [f"images/{half_done}", "masks/.mine.tmp", "masks/a/000.png"]


def test_predictions_without_their_settings(folder: PredictionFolder) -> None:
    folder.settings_file.unlink()
    message = r"\.jsonl holds predictions, but prediction\.json with their settings is missing .*\. Restore it, or"
    for resume in (True, False):
        with pytest.raises(RunFolderError, match=message):
            folder.check_free(PredictionSettings(), resume=resume)


OTHERS = {
    "images/a/000.png": {"overlays": True},
    "maps/000.npy": {"maps": "npy"},
    "coco.json": {"coco": True},
    "predictions.csv": {},
    "failures.csv": {},
    "predict.parts/000.png": {},
}


@pytest.mark.parametrize(("name", "requested"), OTHERS.items(), ids=OTHERS)
def test_nothing_of_others_is_written_over(tmp_path: Path, name: str, requested: dict[str, object]) -> None:
    folder, path = PredictionFolder(tmp_path), tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("somebody's")
    message = rf"would overwrite {name.partition('/')[0]} there\. Choose another folder with --output, or"
    for resume in (True, False):
        with pytest.raises(ConfigurationError, match=message):
            folder.check_free(PredictionSettings(**requested), resume=resume)
        if requested:
            others = {key: value for key, value in ALL_KEPT.items() if key not in requested}
            folder.check_free(PredictionSettings(**others), resume=resume)


def test_predictions_are_read_without_pytorch() -> None:
    code = "import sys, anomalib_tiled.results.prediction_folder; print({'torch', 'anomalib'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n", "commands that only read results start at once"
