from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from PIL import Image

from anomalib_tiled.errors import DataError
from anomalib_tiled.results import pictures as pictures_module
from anomalib_tiled.results.composition import Layers, Style, compose
from anomalib_tiled.results.margin import Caption
from anomalib_tiled.results.painting import PREDICTED
from anomalib_tiled.results.pictures import Pictures, common_folder, given_folders
from anomalib_tiled.results.prediction_row import ANOMALOUS, NORMAL
from anomalib_tiled.results.thresholds import FinalThresholds
from anomalib_tiled.stages.uncertain import Band

SOURCE = (30, 50)
GREY = 100
Drawn = Callable[..., list[np.ndarray]]


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Grey images of 30 x 50 pixels, one of them in a folder of its own."""
    paths = [tmp_path / "data" / name for name in ("good/000.jpg", "good/000.png", "bad/deep/001.bmp")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SOURCE[::-1], (GREY,) * 3).save(path)
    return paths


def batch(paths: list[Path], maps: torch.Tensor, **masks: torch.Tensor) -> ImageBatch:
    """Predictions on images of 15 x 20 pixels; maps of any shape that can be spread over them."""
    count = len(paths)
    return ImageBatch(
        image=torch.zeros(count, 3, 15, 20),
        image_path=[str(path) for path in paths],
        pred_score=torch.full((count,), 0.75),
        pred_label=torch.ones(count, dtype=torch.bool),
        anomaly_map=maps.expand(count, 1, 15, 20),
        **masks,
    )


@pytest.fixture
def drawn(without_margin: Callable[..., np.ndarray]) -> Drawn:
    """Draw a batch, and give what was drawn, without the margin."""

    def draw(folder: Path, paths: list[Path], given: ImageBatch, *, stretch: bool = False) -> list[np.ndarray]:
        pictures = Pictures.into(folder, paths, Style(stretch=stretch))
        pictures.draw(given)
        seen = []
        for path in paths:
            with Image.open(path) as image, Image.open(pictures.path_of(path)) as picture:
                assert picture.mode == "RGB"
                seen.append(without_margin(picture, image.size[::-1]))
        return seen

    return draw


def mask(rows: slice, columns: slice) -> torch.Tensor:
    whole = torch.zeros(1, 15, 20, dtype=torch.bool)
    whole[:, rows, columns] = True
    return whole


def test_the_image_has_its_own_size_in_a_picture_whatever_size_was_predicted(
    images: list[Path], tmp_path: Path, drawn: Drawn
) -> None:
    Image.new("RGB", (21, 13)).save(images[1])
    shown = drawn(tmp_path / "images", images, batch(images, torch.tensor(0.5)))
    assert [picture.shape for picture in shown] == [(*SOURCE, 3), (13, 21, 3), (*SOURCE, 3)]


def test_the_pixels_under_the_map_are_those_of_the_file(images: list[Path], tmp_path: Path, drawn: Drawn) -> None:
    pixels = np.full((*SOURCE, 3), GREY, np.uint8)
    pixels[11, 37] = 255  # one pixel, gone where the image is made smaller
    Image.fromarray(pixels).save(images[1])
    (shown,) = drawn(tmp_path / "images", images[1:2], batch(images[1:2], torch.tensor(0.5)))
    different = np.any(shown != shown[0, 0], axis=2)
    assert np.argwhere(different).tolist() == [[11, 37]]


def test_below_the_common_folder_the_images_keep_their_folders(images: list[Path], tmp_path: Path) -> None:
    pictures = Pictures.into(tmp_path / "images", images)
    assert pictures.common == tmp_path / "data"
    assert pictures.path_of(images[2]) == tmp_path / "images" / "bad" / "deep" / "001.bmp.png"


NAMES = (
    "0",
    "0.png",
    "0.PNG",
    "0.jpg",
    "0.png.png",
    "0.png.png.png",
    "0.jpg.png",
    "0.001",
    "0.001.png",
    "0.001.png.png",
)


def test_no_two_images_share_a_picture() -> None:
    pictures = Pictures(Path("/out"), Path("/data"))
    names = [pictures.path_of(Path("/data") / name).name for name in NAMES]
    assert len(set(names)) == len(NAMES)
    assert {name.endswith(".png") for name in names} == {True}
    assert names[1] == "0.png", "usual names stay as they are"


def test_pictures_show_prediction_and_truth_where_they_are(images: list[Path], tmp_path: Path, drawn: Drawn) -> None:
    predicted, true = mask(slice(2, 5), slice(2, 8)), mask(slice(10, 13), slice(12, 18))
    given = batch(images[1:2], torch.tensor(0.0), pred_mask=predicted, gt_mask=true)
    (shown,) = drawn(tmp_path / "images", images[1:2], given)
    rows, columns = np.nonzero((shown == PREDICTED).all(axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 10, 4, 20), "just outside of the region"
    rows, columns = np.nonzero((shown == 255).all(axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (19, 26, 29, 45)
    assert (shown[4:10, 5:20] == GREY).all(), "no line hides the region itself"


def test_raw_maps_are_stretched_over_the_colours(images: list[Path], tmp_path: Path, drawn: Drawn) -> None:
    ramp, path = torch.linspace(0, 1, 20), images[1:2]
    raw = [drawn(tmp_path / "raw", path, batch(path, scale * ramp + 7), stretch=True)[0] for scale in (1, 40)]
    assert np.abs(raw[0] - raw[1]).max() <= 2
    (normalized,) = drawn(tmp_path / "normalized", path, batch(path, ramp))
    assert np.abs(raw[0] - normalized).max() <= 2


def test_normalized_maps_keep_their_colours_from_picture_to_picture(
    images: list[Path], tmp_path: Path, drawn: Drawn
) -> None:
    ramp, path = torch.linspace(0, 1, 20), images[1:2]
    (low,) = drawn(tmp_path / "low", path, batch(path, 0.2 * ramp))
    (high,) = drawn(tmp_path / "high", path, batch(path, ramp))
    assert (low == GREY).all(), "scores far below the threshold leave the image as it is"
    assert np.abs(low - high)[:, 25:].max() > 50


def test_the_margin_says_what_was_decided(images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions: list[Caption] = []
    monkeypatch.setattr(pictures_module, "compose", lambda *each: captions.append(each[2]) or compose(*each))
    masks = torch.stack(
        [mask(slice(0, 5), slice(0, 9)) | mask(slice(8, 9), slice(3, 5)), *[mask(slice(0), slice(0))] * 2]
    )
    given = batch(images, torch.tensor(0.0), pred_mask=masks)
    given.pred_label = torch.tensor([False, False, True])
    Pictures.into(tmp_path / "images", images).deciding(FinalThresholds(0.8, 0.5), None).draw(given)
    assert captions == [
        Caption("normal", 0.75, 0.8, 2, NORMAL, "good/000.jpg"),
        Caption("normal", 0.75, 0.8, 0, "", "good/000.png"),
        Caption("anomalous", 0.75, 0.8, 0, ANOMALOUS, "bad/deep/001.bmp"),
    ]


def test_the_margin_says_that_an_image_is_uncertain(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions: list[Caption] = []
    monkeypatch.setattr(pictures_module, "compose", lambda *each: captions.append(each[2]) or compose(*each))
    given = batch(images, torch.tensor(0.0))
    given.pred_score = torch.tensor([0.7, 0.75, 0.9])
    given.pred_label = torch.tensor([False, False, True])
    pictures = Pictures.into(tmp_path / "images", images).deciding(FinalThresholds(0.8, 0.5), Band(0.71, 0.85))
    pictures.draw(given)
    assert [each.verdict for each in captions] == ["normal", "uncertain", "anomalous"]


def test_an_image_that_has_gone_is_named(images: list[Path], tmp_path: Path) -> None:
    given = batch(images, torch.tensor(0.5))
    images[1].unlink()
    with pytest.raises(DataError, match=r"good/000\.png is missing\. Restore it"):
        Pictures.into(tmp_path / "images", images).draw(given)
    assert [path.name for path in (tmp_path / "images").rglob("*.*")] == ["000.jpg.png"], "nothing half written"


def test_an_image_that_has_another_size_by_now_is_named(images: list[Path], tmp_path: Path) -> None:
    pictures, layers = Pictures.into(tmp_path / "images", images), Layers(np.zeros((3, 5), np.float32))
    expected = r"good/000\.jpg must have the size that it had when it was predicted, 3 x 5, but has 30 x 50\. "
    with pytest.raises(DataError, match=expected):
        pictures.draw_one(images[0], layers, Caption("normal"))
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize("name", ["../../archive/1.png", "a/../../b/1.png"])
def test_whatever_leads_to_an_image_its_picture_is_below_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "work" / "in").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "in")
    paths = [Path.cwd() / "000.png", Path.cwd() / name, Path(name)]
    pictures = Pictures.into(tmp_path / "found" / "masks", paths)
    first, *others = [pictures.path_of(path).relative_to(pictures.folder) for path in paths]
    assert first == Path("work/in/000.png") if "archive" in name else Path("in/000.png")
    assert others == [(Path.cwd() / name).resolve().relative_to(pictures.common)] * 2
    assert all(".." not in path.parts for path in others)


def test_an_image_elsewhere_has_no_picture(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path, Path("/data/a"))
    with pytest.raises(
        DataError, match=r"Images must be in /data/a, but /data/b\.png is not\. Predict it into another output"
    ):
        pictures.path_of(Path("/data/a/../b.png"))


def test_the_common_folder_of_a_whole_folder_does_not_depend_on_where_images_are_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to("in")
    monkeypatch.chdir(tmp_path)
    assert given_folders(["gone", "in/*.png", "-"]) == []
    for name, way in {"in": "in", "link": "link", "in/a/..": "in"}.items():
        given = given_folders([name])
        assert given == [tmp_path / way]
        for folder in given:
            assert common_folder([folder / "a/1.png"], [folder]) == folder
            assert common_folder([folder / "a/b/1.png", folder / "a/2.png"], [folder]) == folder
    given = given_folders(["in"])
    assert common_folder([tmp_path / "in/a/1.png", tmp_path / "other/1.png"], given) == tmp_path
    for several in (["in/a", "in"], ["in", "in/a"]):
        assert common_folder([tmp_path / "in/a/1.png"], given_folders(several)) == tmp_path / "in"
    assert common_folder([tmp_path / "other/deep/1.png"], given) == tmp_path / "other/deep"


@pytest.mark.parametrize("stretch", [False, True])
def test_the_plain_image_shows_where_pixels_do_not_count(
    images: list[Path], tmp_path: Path, drawn: Drawn, *, stretch: bool
) -> None:
    maps = torch.rand(1, 15, 20, generator=torch.Generator().manual_seed(0))
    maps[0, 0, :2] = torch.tensor([0.0, 1.0])
    expected = drawn(tmp_path / "all", images, batch(images, maps), stretch=stretch)
    hidden = mask(slice(4, 9), slice(10, 20))
    shown = drawn(tmp_path / "some", images, batch(images, maps.masked_fill(hidden, torch.nan)), stretch=stretch)
    for picture, whole in zip(shown, expected, strict=True):
        assert (picture[8:18, 25:50] == GREY).all()
        outside = np.ones(SOURCE, bool)
        outside[8:18, 25:50] = False
        assert np.array_equal(picture[outside], whole[outside])
