from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from PIL import Image

from anomalib_tiled.ensemble.calibration import Calibration, Learned, Level, Stages
from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.loaded_models import TileModels
from anomalib_tiled.errors import DataError, RunFolderError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.results import pictures as pictures_module
from anomalib_tiled.results.composition import Style, compose
from anomalib_tiled.results.image_prediction import ImagePrediction
from anomalib_tiled.results.margin import Caption
from anomalib_tiled.results.pictures import Pictures
from anomalib_tiled.results.prediction_folder import PredictionFolder
from anomalib_tiled.results.prediction_row import ANOMALOUS, NORMAL, PredictedImage
from anomalib_tiled.results.prediction_writer import PredictionWriter
from anomalib_tiled.results.regions import InFile, in_source_size
from anomalib_tiled.results.request import Predicted, PredictionSettings
from anomalib_tiled.results.rethreshold import Rethresholding
from anomalib_tiled.results.thresholds import FinalThresholds, Threshold, Thresholds
from anomalib_tiled.stages.merging import Mean
from anomalib_tiled.stages.normalization import MinMax
from anomalib_tiled.stages.scoring import Max
from anomalib_tiled.stages.thresholding import F1AdaptiveThreshold

SIZES = [Size(4, 6), Size(8, 12)]
RAW = torch.rand(2, 1, 4, 6, generator=torch.Generator().manual_seed(0))


def writer(tmp_path: Path, maps: str | None = "npy") -> PredictionWriter:
    files = Pictures(tmp_path, Path("/data"))
    return PredictionWriter(PredictionFolder(tmp_path), PredictionSettings(masks=True, maps=maps), files)


def batch(*, has_maps: bool = True) -> ImageBatch:
    return ImageBatch(
        image=torch.zeros(2, 3, 4, 6),
        image_path=["/data/a/1.png", "/data/b/1.png"],
        pred_score=torch.tensor([0.9, 0.1]),
        pred_label=torch.tensor([True, False]),
        anomaly_map=RAW,
        pred_mask=RAW > 0.8 if has_maps else None,
    )


def written(kept: PredictionWriter, given: ImageBatch) -> list[PredictedImage]:
    """Write a batch; give what was predicted."""
    rows = zip(given, SIZES, [9.0, 1.0], RAW[:, 0], strict=True)
    return [kept.write(item, InFile(size), score, raw_map) for item, size, score, raw_map in rows]


@pytest.mark.parametrize("maps", ["npy", "tiff"])
def test_a_raw_map_is_kept_to_the_last_bit(tmp_path: Path, maps: str) -> None:
    kept = writer(tmp_path, maps)
    assert [image.pred_label for image in written(kept, batch())] == [1, 0]
    for path, raw in zip(("/data/a/1.png", "/data/b/1.png"), RAW, strict=True):
        assert torch.equal(kept.read_map(Path(path)), raw[0])
    assert sorted(path.name for path in (tmp_path / "maps").rglob("*.*")) == [f"1.{maps}"] * 2


def test_regions_are_in_pixels_of_each_image(tmp_path: Path) -> None:
    predictions = written(writer(tmp_path, None), batch())
    areas = [sum(region.area for region in image.regions) for image in predictions]
    counts = (RAW > 0.8).sum(dim=(1, 2, 3)).tolist()
    assert areas == [counts[0], 4 * counts[1]]
    assert not (tmp_path / "maps").exists()


def test_a_label_that_contradicts_its_mask_is_reported(tmp_path: Path) -> None:
    given = batch()
    given.pred_mask = torch.stack([torch.zeros(1, 4, 6, dtype=torch.bool), RAW[1] > 0.8])
    kept = writer(tmp_path)
    kept = replace(kept, settings=replace(kept.settings, min_area=1000))
    predictions = written(kept, given)
    assert [image.contradiction for image in predictions] == [ANOMALOUS, NORMAL]
    assert [image.regions for image in predictions] == [(), ()], "though regions so small are not listed"


def test_a_picture_shows_what_is_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = batch()
    given.image_path = [str(tmp_path / f"{size.height}.png") for size in SIZES]
    for name, size in zip(given.image_path, SIZES, strict=True):
        Image.new("RGB", (size.width, size.height)).save(name)
    captions: list[Caption] = []
    monkeypatch.setattr(pictures_module, "compose", lambda *each: captions.append(each[2]) or compose(*each))
    files = Pictures(tmp_path / "out", tmp_path).deciding(FinalThresholds(0.25, 0.8), None)
    kept = PredictionWriter(PredictionFolder(tmp_path / "out"), PredictionSettings(overlays=True, min_area=3), files)
    predicted = written(kept, given)
    regions = [len(each.regions) for each in predicted]
    assert captions == [
        Caption("anomalous", pytest.approx(0.9), 0.25, regions[0], name="4.png"),
        Caption("normal", pytest.approx(0.1), 0.25, regions[1], remark=NORMAL, name="8.png"),
    ]


def test_a_model_without_maps_has_scores_and_labels_only(tmp_path: Path) -> None:
    predictions = written(writer(tmp_path), batch(has_maps=False))
    assert [(image.pred_label, image.regions, image.any_pixel) for image in predictions] == [
        (1, (), None),
        (0, (), None),
    ]
    assert not list(tmp_path.iterdir())


OTHER_ARRAYS = {
    "a line": np.zeros(5, np.float32),
    "nothing": np.zeros((0, 0), np.float32),
    "text": np.array([["a"]]),
    "infinite": np.full((2, 2), np.inf),
    "NaN": np.full((2, 2), np.nan),
}


@pytest.mark.parametrize("damage", ["gone", "cut", "other", *OTHER_ARRAYS])
def test_a_map_that_cannot_be_read_is_named(tmp_path: Path, damage: str) -> None:
    kept = writer(tmp_path)
    written(kept, batch())
    path = tmp_path / "maps" / "a" / "1.npy"
    if damage == "gone":
        path.unlink()
    elif damage in OTHER_ARRAYS:
        np.save(path, OTHER_ARRAYS[damage])
    else:
        path.write_bytes(path.read_bytes()[:-8] if damage == "cut" else b"text")
    with pytest.raises(RunFolderError, match=r"1\.npy cannot be read \(.*\)\. Predict its image into"):
        kept.read_map(Path("/data/a/1.png"))


@pytest.mark.parametrize("kept", [{"masks": True}, {"maps": "npy"}])
def test_a_name_that_is_too_long_is_an_error_of_its_image(tmp_path: Path, kept: dict[str, Any]) -> None:
    name = f"/data/{'缺' * 83}.jpg"  # 253 bytes; with .png or .npy more than 255
    files = Pictures(tmp_path, Path("/data"))
    given = batch()
    given.image_path = [name, "/data/b/1.png"]
    message = f"^{name} has a name or a path that is too long for the files of its prediction"
    with pytest.raises(DataError, match=message):
        written(PredictionWriter(PredictionFolder(tmp_path), PredictionSettings(**kept), files), given)


@pytest.mark.parametrize("size", [Size(4, 6), Size(2, 3), Size(9, 12)])
@pytest.mark.parametrize("stretch", [True, False])
def test_overlays_show_the_regions_that_are_listed(
    tmp_path: Path, size: Size, without_margin: Callable[..., np.ndarray], *, stretch: bool
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path := tmp_path / "1.png")
    given = batch()
    given.image_path, given.anomaly_map = [str(path), str(path)], 20 * RAW - 3 if stretch else RAW
    kept = PredictionWriter(
        PredictionFolder(tmp_path / "out"),
        PredictionSettings(overlays=True),
        Pictures(tmp_path / "out", tmp_path, Style(stretch=stretch)),
    )
    item = next(iter(given))
    kept.write_decision(item, InFile(size), 1.0)
    scores, mask = in_source_size(item.anomaly_map, size), in_source_size(item.pred_mask, size) > 0
    predictions = ImagePrediction(0.9, label=True, map=scores, mask=mask, regions=(), image=pixels, image_path=path)
    shown = without_margin(predictions.picture(), size)
    with Image.open(tmp_path / "out" / "images" / "1.png") as drawn:
        assert np.array_equal(without_margin(drawn, size), shown)


def test_of_an_image_that_has_gone_before_it_was_drawn_nothing_is_written(tmp_path: Path) -> None:
    given, output = batch(), tmp_path / "out"
    given.image_path = [str(tmp_path / "gone.png")] * 2
    settings = PredictionSettings(overlays=True, masks=True, maps="npy")
    kept = PredictionWriter(PredictionFolder(output), settings, Pictures(output, tmp_path))
    with pytest.raises(DataError, match=r"gone\.png is missing\. Restore it, or leave it out\.$"):
        written(kept, given)
    assert not list(output.rglob("*.*"))


@pytest.mark.parametrize("stretch", [True, False])
def test_pixels_that_do_not_count_have_no_heat_map(without_margin: Callable[..., np.ndarray], *, stretch: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    scores = (20 * RAW[0, 0] - 3 if stretch else RAW[0, 0]).numpy().copy()
    scores[:, :3] = np.nan
    mask = np.zeros((4, 6), bool)
    made = ImagePrediction(0.9, label=True, map=scores, mask=mask, regions=(), image=pixels, image_path=None)
    drawn = without_margin(made.picture(), (4, 6))
    assert np.array_equal(drawn[:, :3], pixels[:, :3])
    assert not np.array_equal(drawn[:, 3:], pixels[:, 3:])


@pytest.mark.parametrize("maps", ["npy", "tiff"])
def test_thresholds_are_applied_again_to_the_pixels_that_count(tmp_path: Path, maps: str) -> None:
    kept, hidden = writer(tmp_path, maps), torch.zeros(2, 1, 4, 6, dtype=torch.bool)
    hidden[0, ..., :3] = True
    given = batch()
    given.anomaly_map, given.pred_mask = RAW.masked_fill(hidden, torch.nan), (RAW > 0.5) & ~hidden
    rows = zip(given, [InFile(Size(4, 6))] * 2, [9.0, 1.0], RAW.masked_fill(hidden, torch.nan)[:, 0], strict=True)
    kept.folder.begin(kept.settings, common="/data")
    expected = [kept.write(item, size, score, raw) for item, size, score, raw in rows]
    stages = Stages(Mean(), Max(), None, MinMax(), F1AdaptiveThreshold(), "none", "image")
    level = Learned(0.9, None)
    calibration = Calibration(image=Level(level, level))
    grid = TileGrid(Size(4, 6), Size(4, 6), Size(4, 6))
    ensemble = EnsembleModel(grid, TileModels(None), stages=stages, calibration=calibration, evaluator=False)
    for value, masks in ((0.5, RAW > 0.5), (-1.0, RAW >= 0)):
        thresholds = Thresholds(pixels=Threshold(value, raw=True))
        again = Rethresholding(ensemble, kept, thresholds, Predicted(existing=2))
        found = [again.decide(image) for image in expected]
        areas = [sum(region.area for region in image.regions) for image in found]
        assert areas == (masks & ~hidden).sum(dim=(1, 2, 3)).tolist()
        assert value < 0 or found == expected
