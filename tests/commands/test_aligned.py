"""Aligned runs: whole commands on photographs of a wall that lies elsewhere in each of them."""

from __future__ import annotations

import csv
import gc
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
import yaml
from PIL import Image

from anomalib_tiled import TiledEnsemble
from anomalib_tiled.cli.main import main
from anomalib_tiled.data.scope import BESIDE
from anomalib_tiled.results.prediction_row import PredictedImage
from anomalib_tiled.results.tested_folder import TestedFolder
from anomalib_tiled.runs.run_folder import RunFolder

HEIGHT, WIDTH = SIZE = (64, 96)
MARKER = (20, 30)
"""Row and column of the white pixel where the part is not moved."""

DEFECT = np.s_[30:42, 60:72]
"""Where the part is damaged, if it is not moved."""

Shift = tuple[int, int]

pytestmark = pytest.mark.slow


def draw(shift: Shift, seed: int, *, damaged: bool = False, lost: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Draw a wall that lies down and to the right of its place by some pixels, and the mask of its damage."""
    random, (down, right) = np.random.default_rng(seed), shift
    large = np.clip(skimage.data.brick()[100:228, 60:252] * 0.8 + random.normal(0, 2, (128, 192)), 0, 250)
    mask = np.zeros(large.shape, np.uint8)
    origin = np.s_[32 - down : 32 - down + HEIGHT, 48 - right : 48 - right + WIDTH]
    if damaged:
        large[32:96, 48:144][DEFECT] = 250 * (np.indices((12, 12)).sum(axis=0) % 6 < 3)
        mask[32:96, 48:144][DEFECT] = 255
    if not lost:
        large[32 + MARKER[0], 48 + MARKER[1]] = 255
    return large[origin].astype(np.uint8), mask[origin]


def write(root: Path, name: str, shift: Shift, **kind: bool) -> None:
    image, mask = draw(shift, len(list(root.rglob("*.png"))), **kind)
    for folder, pixels in {name: image, **({f"mask/{Path(name).name}": mask} if kind.get("damaged") else {})}.items():
        path = root / f"{folder}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def walls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose part lies elsewhere, normal ones and damaged ones; of two, one of the test, it is not found."""
    root, random = tmp_path_factory.mktemp("walls"), np.random.default_rng(0)

    def anywhere() -> Shift:
        return tuple(random.integers(-7, 8, 2).tolist())

    write(root, "good/000", (0, 0))
    for number in range(1, 7):
        write(root, f"good/{number:03d}", anywhere())
    for number in range(4):
        write(root, f"good_test/{number:03d}", anywhere())
        write(root, f"bad/{number:03d}", anywhere(), damaged=True)
    write(root, "good_test/lost", anywhere(), lost=True)
    write(root, "bad/lost", anywhere(), damaged=True, lost=True)
    return root


@pytest.fixture(scope="module")
def aligner(markers: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The plugin with the aligner."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "markers.py").write_text(markers)
    information = folder / "markers-1.2.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: markers\nVersion: 1.2\n")
    (information / "entry_points.txt").write_text("[anomalib_tiled]\nmy_markers = markers\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield
    sys.modules.pop("markers", None)
    gc.collect()


def settings(root: Path, results: Path, **changes: object) -> dict[str, Any]:
    folders = {"normal_dir": "good", "normal_test_dir": "good_test", "abnormal_dir": "bad", "mask_dir": "mask"}
    data = {"name": "walls", "root": str(root), **folders, "val_split_mode": "same_as_test", "num_workers": 0}
    padim = {"pre_trained": False, "layers": ["layer1"], "n_features": 20}
    return {
        "seed_everything": 1,
        "default_root_dir": str(results),
        "tiling": {"tile_size": [32, 48]},
        "model": {"class_path": "Padim", "init_args": padim},
        "data": {"class_path": "Folder", "init_args": {**data, "train_batch_size": 4}},
        "metrics": {"image": ["AUROC"], "pixel": ["AUROC", "AUPRO"]},
        "workers": {"class_path": "LocalWorkers", "init_args": {"processes": 1}},
        **changes,
    }


def train(folder: Path, root: Path, **changes: object) -> Path:
    path = folder / "configuration.yaml"
    path.write_text(yaml.safe_dump(settings(root, folder / "results", **changes)), encoding="utf-8")
    assert main(["train", "--config", str(path)]) == 0
    return folder / "results" / "Padim" / "walls" / "v0"


@pytest.fixture(scope="module")
def run(walls: Path, tmp_path_factory: pytest.TempPathFactory, aligner: None) -> Path:
    """Run folder after `train` with the aligner; tests that change it work on a copy."""
    del aligner
    return train(tmp_path_factory.mktemp("aligned"), walls, alignment={"class_path": "markers.ByMarker"})


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def lines(output: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    return {"/".join(Path(line["image_path"]).with_suffix("").parts[-2:]): line for line in found}


@pytest.fixture(scope="module")
def predicted(run: Path, walls: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of predictions of all test images, with all files."""
    output = tmp_path_factory.mktemp("predicted") / "output"
    arguments = ["--overlays", "--masks", "--maps", "npy", "--coco"]
    data = [str(walls / "good_test"), str(walls / "bad")]
    assert main(["predict", "--ckpt_dir", str(run), "--data", *data, "--output", str(output), *arguments]) == 0
    return output


def test_parts_that_lie_elsewhere_are_measured_as_if_they_lay_still(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["image_AUROC"] == 1
    assert metrics["pixel_AUROC"] > 0.95
    assert metrics["pixel_AUPRO"] > 0.8


def test_test_images_in_which_the_part_is_not_found_are_anomalous_without_a_score(run: Path, walls: Path) -> None:
    scores = rows(run / "scores.csv")
    assert list(scores[0])[-1] == "unaligned"
    lost = {row["image_path"]: row for row in scores if row["unaligned"]}
    assert [*lost] == [str(walls / "bad" / "lost.png"), str(walls / "good_test" / "lost.png")]
    reason = "0 pixels are white, but 1 must be"
    for path, label in zip(lost, "10", strict=True):
        expected = {"gt_label": label, "pred_score": "", "pred_label": "1", "contradiction": "", "unaligned": reason}
        assert lost[path] == {"image_path": path, **expected}
    assert len(scores) == 10
    notes = json.loads((run / "calibration.json").read_text())["notes"]
    assert "The part is not found in 2 of 10 validation images: they were left out. See alignment.csv." in notes


def test_the_test_says_how_many_images_do_not_count(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", "--ckpt_dir", str(run), "--output", str(tmp_path / "output")]) == 0
    said = capsys.readouterr()
    note = (
        "The part is not found in 2 of 10 test images: they are anomalous, have no score, and do not count in the "
        "metrics. See the column unaligned of scores.csv."
    )
    assert note in " ".join((said.out + said.err).split())
    assert (tmp_path / "output" / "scores.csv").read_bytes() == (run / "scores.csv").read_bytes()


def test_other_test_images_are_aligned_too(run: Path, walls: Path, tmp_path: Path) -> None:
    data = settings(walls, tmp_path)["data"]["init_args"] | {"name": "others", "train_batch_size": 4}
    options = [f"--data.{name}={value}" for name, value in data.items()]
    command = ["test", "--ckpt_dir", str(run), "--data", "Folder", *options, "--output", str(tmp_path / "output")]
    assert main(command) == 0
    assert rows(tmp_path / "output" / "scores.csv") == rows(run / "scores.csv")


def test_predictions_are_those_of_the_test(run: Path, predicted: Path) -> None:
    found = {line["image_path"]: line for line in lines(predicted).values()}
    scores = rows(run / "scores.csv")
    assert {row["image_path"] for row in scores} == found.keys()
    for row in scores:
        line = found[row["image_path"]]
        assert line["unaligned"] == row["unaligned"]
        assert str(line["pred_label"]) == row["pred_label"]
        if row["pred_score"]:
            assert line["pred_score"] == pytest.approx(float(row["pred_score"]), abs=1e-5)


def test_the_report_of_the_test_is_in_the_frame_of_the_files(
    run: Path, predicted: Path, walls: Path, tmp_path: Path
) -> None:
    tested = {image.image_path: image for image in TestedFolder(run).images()}
    for line in (predicted / "predictions.jsonl").read_bytes().splitlines():
        image = PredictedImage.from_line(line)
        if (same := tested.get(image.image_path)) is not None:
            boxes = [[region.bbox for region in each.regions] for each in (same, image)]
            assert boxes[0] == boxes[1]
            assert (same.unaligned, same.pred_label) == (image.unaligned, image.pred_label)
    assert main(["report", "--ckpt_dir", str(run), "--output", str(tmp_path / "page.html")]) == 0
    places = {image.image_path: place for place, image in enumerate(tested.values())}
    damaged = str(walls / "bad" / "001.png")
    with Image.open(TestedFolder(run).thumbnails_of(places[damaged]).truth) as truth:
        assert np.array_equal(np.asarray(truth), np.asarray(Image.open(walls / "mask" / "001.png")))
    lost = TestedFolder(run).thumbnails_of(places[str(walls / "bad" / "lost.png")])
    assert (lost.picture.is_file(), lost.heat_map.is_file()) == (True, False)
    assert "white, but 1 must be" in (tmp_path / "page.html").read_text(), "the reason why it has no score"


def test_masks_and_regions_lie_where_the_file_shows_the_defect(predicted: Path, walls: Path) -> None:
    found = lines(predicted)
    for number in range(4):
        with Image.open(walls / "mask" / f"{number:03d}.png") as picture:
            truth = np.array(picture) > 0
        line, high_wide = found[f"bad/{number:03d}"], np.nonzero(truth)
        y, x = (each.mean() for each in high_wide)
        assert np.hypot(line["regions"][0]["centroid"][0] - x, line["regions"][0]["centroid"][1] - y) < 5, number
        with Image.open(predicted / "masks" / "bad" / f"{number:03d}.png") as picture:
            mask = np.array(picture) > 0
        assert mask[truth].mean() > 0.5
        assert mask.sum() == sum(region["area"] for region in line["regions"])


def test_raw_maps_are_in_pixels_of_the_file_and_say_nothing_where_it_has_none(run: Path, predicted: Path) -> None:
    shifts = {row["image_path"]: (float(row["x"] or 0), float(row["y"] or 0)) for row in rows(run / "alignment.csv")}
    for name, line in lines(predicted).items():
        if not line["unaligned"]:
            scores = np.load(predicted / "maps" / f"{name}.npy")
            right, down = (round(each) for each in shifts[line["image_path"]])
            expected = np.zeros(SIZE, np.bool_)
            expected[: max(down, 0)] = expected[HEIGHT + min(down, 0) :] = True
            expected[:, : max(right, 0)] = expected[:, WIDTH + min(right, 0) :] = True
            expected[: BESIDE * (down < 0)] = expected[HEIGHT - BESIDE * (down > 0) :] = True
            expected[:, : BESIDE * (right < 0)] = expected[:, WIDTH - BESIDE * (right > 0) :] = True
            assert np.array_equal(np.isnan(scores), expected), "no aligned pixel covers it, or the outside is near"


def test_overlays_show_the_plain_image_where_nothing_is_known(
    predicted: Path, walls: Path, without_margin: Callable[..., np.ndarray]
) -> None:
    plain = painted = 0
    for path in sorted((predicted / "maps").rglob("*.npy")):
        name = path.relative_to(predicted / "maps").with_suffix("")
        hidden = np.isnan(np.load(path))
        with Image.open(walls / f"{name}.png") as image, Image.open(predicted / "images" / f"{name}.png") as picture:
            same = np.array(image.convert("RGB")) == without_margin(picture, hidden.shape)
        unpainted = hidden & (cv2.dilate((~hidden).view(np.uint8), np.ones((9, 9))) == 0)  # lines run around regions
        assert same[unpainted].all()
        plain, painted = plain + unpainted.sum(), painted + (~same).sum()
    assert plain > 100
    assert painted > 100


def test_new_images_in_which_the_part_is_not_found_are_anomalous(predicted: Path, walls: Path) -> None:
    line = lines(predicted)["good_test/lost"]
    expected = {"pred_score": None, "raw_score": None, "pred_label": 1, "regions": [], "any_pixel": None}
    reason = "0 pixels are white, but 1 must be"
    assert line == {
        "image_path": str(walls / "good_test" / "lost.png"),
        "image_size": [*SIZE],
        **expected,
        "unaligned": reason,
        "contradiction": "",
    }
    (row,) = (row for row in rows(predicted / "predictions.csv") if row["image_path"].endswith("good_test/lost.png"))
    assert (row["pred_score"], row["pred_label"], row["regions"], row["unaligned"]) == ("", "1", "0", reason)
    assert lines(predicted)["bad/000"]["unaligned"] == ""
    coco = json.loads((predicted / "coco.json").read_text())
    assert len(coco["images"]) == 10
    assert not list(predicted.glob("m*/**/lost*")), "there are no masks and maps of them"


def test_an_image_in_which_the_part_is_not_found_can_be_a_failure(
    run: Path, walls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [str(walls / "good_test" / f"{name}.png") for name in ("lost", "000")]
    command = ["predict", "--ckpt_dir", str(run), "--data", *data, "--output", str(tmp_path / "output")]
    assert main([*command, "--fail_on_anomaly"]) == 4
    assert "1 of 2 are anomalous, 1 of them because the part is not found." in capsys.readouterr().out
    assert not (tmp_path / "output" / "failures.csv").exists()
    before = (tmp_path / "output" / "predictions.jsonl").read_bytes()
    assert main([*command, "--skip_existing"]) == 0
    assert (tmp_path / "output" / "predictions.jsonl").read_bytes() == before


def test_new_thresholds_give_what_predicting_anew_gives(
    run: Path, predicted: Path, walls: Path, tmp_path: Path
) -> None:
    thresholds = ["--threshold", "0.7", "--pixel_threshold", "0.6"]
    kept, anew = tmp_path / "kept", tmp_path / "anew"
    shutil.copytree(predicted, kept)
    assert main(["predict", "--ckpt_dir", str(run), "--output", str(kept), *thresholds]) == 0
    data = [str(walls / "good_test"), str(walls / "bad")]
    files = ["--overlays", "--masks", "--maps", "npy", "--coco"]
    assert main(["predict", "--ckpt_dir", str(run), "--data", *data, "--output", str(anew), *files, *thresholds]) == 0
    assert lines(kept) == lines(anew)
    assert lines(kept) != lines(predicted)
    for path in anew.rglob("*.png"):
        assert path.read_bytes() == (kept / path.relative_to(anew)).read_bytes(), path


def test_places_predict_what_one_process_predicts(run: Path, predicted: Path, walls: Path, tmp_path: Path) -> None:
    data = [str(walls / "good_test"), str(walls / "bad")]
    files = ["--overlays", "--masks", "--maps", "npy", "--coco", "--workers", "LocalWorkers", "--workers.processes=2"]
    command = ["predict", "--ckpt_dir", str(run), "--data", *data, "--output", str(tmp_path / "output"), *files]
    assert main(command) == 0
    names = ("predictions.jsonl", "predictions.csv", "coco.json")
    for path in [*map(predicted.joinpath, names), *predicted.rglob("*.png"), *predicted.rglob("*.npy")]:
        assert path.read_bytes() == (tmp_path / "output" / path.relative_to(predicted)).read_bytes(), path


def test_python_predicts_what_the_command_predicts(
    run: Path, predicted: Path, walls: Path, without_margin: Callable[..., np.ndarray]
) -> None:
    ensemble, found = TiledEnsemble.load(run, "cpu"), lines(predicted)
    names = ["bad/001", "good_test/lost", "good_test/001"]
    with Image.open(walls / "good_test" / "001.png") as image:
        array = np.array(image)
    given = [walls / "bad" / "001.png", walls / "good_test" / "lost.png", array]
    for name, prediction in zip(names, ensemble.predict_batch(given), strict=True):
        line = found[name]
        assert prediction.unaligned == line["unaligned"]
        assert prediction.label == bool(line["pred_label"])
        assert len(prediction.regions) == len(line["regions"])
        if prediction.unaligned:
            assert np.isnan([prediction.score, prediction.raw_score]).all()
            assert np.isnan(prediction.map).all()
            assert prediction.mask is None
            shown = without_margin(prediction.picture(), (HEIGHT, WIDTH))
            assert np.array_equal(shown, prediction.image)
        else:
            assert prediction.score == pytest.approx(line["pred_score"], abs=1e-5)
            assert [region.bbox for region in prediction.regions] == [tuple(each["bbox"]) for each in line["regions"]]
            scores = np.load(predicted / "maps" / f"{name}.npy")
            assert np.array_equal(np.isnan(scores), np.isnan(prediction.map))
    assert ensemble.predict(given[0]).image_path == given[0]


def test_a_fit_that_is_resumed_keeps_the_transforms(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    calibration = (copy / "calibration.json").read_bytes()
    RunFolder(copy).calibration_file.unlink()
    assert main(["fit", "--ckpt_dir", str(copy)]) == 0
    assert (copy / "calibration.json").read_bytes() == calibration


def test_another_alignment_needs_another_run(
    run: Path, walls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "configuration.yaml"
    path.write_text(yaml.safe_dump(settings(walls, tmp_path / "results", alignment=None)), encoding="utf-8")
    assert main(["fit", "--ckpt_dir", str(run), "--config", str(path)]) == 2
    assert "alignment" in capsys.readouterr().err


def test_files_of_runs_without_alignment_have_no_such_columns(walls: Path, tmp_path: Path) -> None:
    plain = train(tmp_path, walls)
    assert "unaligned" not in (plain / "scores.csv").read_text()
    assert not list(plain.glob("alignment*"))
    data = [str(walls / "good_test" / "lost.png")]
    assert main(["predict", "--ckpt_dir", str(plain), "--data", *data, "--output", str(tmp_path / "output")]) == 0
    for name in ("predictions.csv", "predictions.jsonl", "prediction.json"):
        assert "aligned" not in (tmp_path / "output" / name).read_text()


def test_regions_lie_on_the_aligned_part(walls: Path, tmp_path: Path, aligner: None) -> None:
    del aligner
    ignored = np.zeros(SIZE, np.uint8)
    ignored[:, :48] = 255
    Image.fromarray(ignored).save(tmp_path / "ignore.png")
    (tmp_path / "named.yaml").write_text("image_size: [64, 96]\nregions: {brick: [{rectangle: [58, 28, 16, 16]}]}\n")
    regions = {"ignore": str(tmp_path / "ignore.png"), "file": str(tmp_path / "named.yaml")}
    alignment = {"class_path": "markers.ByMarker"}
    run = train(tmp_path, walls, alignment=alignment, regions={"init_args": regions, "class_path": "Regions"})
    scores = {row["image_path"]: row for row in rows(run / "scores.csv")}
    lost, bad = scores[str(walls / "bad" / "lost.png")], scores[str(walls / "bad" / "000.png")]
    assert (lost["unaligned"], lost["pred_score_brick"]) == ("0 pixels are white, but 1 must be", "")
    assert (bad["unaligned"], bad["pred_label_brick"]) == ("", "1")
    output = tmp_path / "output"
    command = ["predict", "--ckpt_dir", str(run), "--data", str(walls / "bad"), "--output", str(output)]
    assert main([*command, "--overlays", "--masks", "--maps", "npy"]) == 0
    line = lines(output)["bad/000"]
    shift = next(row for row in rows(run / "alignment.csv") if row["image_path"] == line["image_path"])
    hidden = np.isnan(np.load(output / "maps" / "000.npy"))
    border = 48 + round(float(shift["x"]))
    assert hidden[:, :border].all(), "the region is ignored where the part has it"
    assert not hidden[32, border + 1 : WIDTH - BESIDE].any()
    assert line["named_regions"]["brick"]["label"] == 1
    thresholds = ["--pixel_threshold", "0.6"]
    assert main(["predict", "--ckpt_dir", str(run), "--output", str(output), *thresholds]) == 0
