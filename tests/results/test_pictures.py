from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from PIL import Image

from anomalib_tiled.errors import DataError
from anomalib_tiled.results.pictures import Pictures, captioned, common_folder, given_folders
from anomalib_tiled.results.prediction_row import ANOMALOUS, NORMAL

SOURCE = (30, 50)
GREY = 100


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
    maps = maps.expand(count, 1, 15, 20)
    return ImageBatch(
        image=torch.zeros(count, 3, 15, 20), image_path=[str(path) for path in paths], anomaly_map=maps, **masks
    )


def drawn(folder: Path, paths: list[Path], drawn_batch: ImageBatch, *, stretch: bool = False) -> list[np.ndarray]:
    """Draw a batch, and give what was drawn."""
    pictures = Pictures.into(folder, paths, stretch=stretch)
    pictures.draw(drawn_batch)
    seen = []
    for path in paths:
        with Image.open(pictures.path_of(path)) as picture:
            assert picture.mode == "RGB"
            seen.append(np.asarray(picture).astype(int))
    return seen


def mask(rows: slice, columns: slice) -> torch.Tensor:
    whole = torch.zeros(1, 15, 20, dtype=torch.bool)
    whole[:, rows, columns] = True
    return whole


def test_a_picture_has_the_size_of_its_image_whatever_size_was_predicted(images: list[Path], tmp_path: Path) -> None:
    Image.new("RGB", (21, 13)).save(images[1])
    shown = drawn(tmp_path / "images", images, batch(images, torch.tensor(0.5)))
    assert [picture.shape for picture in shown] == [(*SOURCE, 3), (13, 21, 3), (*SOURCE, 3)]


def test_the_pixels_under_the_map_are_those_of_the_file(images: list[Path], tmp_path: Path) -> None:
    pixels = np.full((*SOURCE, 3), GREY, np.uint8)
    pixels[11, 37] = 255  # one pixel, gone where the image is made smaller
    Image.fromarray(pixels).save(images[1])
    (shown,) = drawn(tmp_path / "images", images[1:2], batch(images[1:2], torch.tensor(0.5)))
    different = np.any(shown != shown[0, 0], axis=2)
    assert np.argwhere(different).tolist() == [[11, 37]]


def test_below_the_common_folder_the_images_keep_their_folders(images: list[Path], tmp_path: Path) -> None:
    pictures = Pictures.into(tmp_path / "images", images, stretch=False)
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
    pictures = Pictures(Path("/out"), Path("/data"), stretch=False)
    names = [pictures.path_of(Path("/data") / name).name for name in NAMES]
    assert len(set(names)) == len(NAMES)
    assert {name.endswith(".png") for name in names} == {True}
    assert names[1] == "0.png", "usual names stay as they are"


def test_pictures_show_map_prediction_and_truth_where_they_are(images: list[Path], tmp_path: Path) -> None:
    predicted, true = mask(slice(0, 5), slice(0, 10)), mask(slice(10, 15), slice(10, 20))
    given = batch(images[1:2], torch.tensor(0.0), pred_mask=predicted, gt_mask=true)
    (shown,) = drawn(tmp_path / "images", images[1:2], given)
    (plain,) = drawn(tmp_path / "plain", images[1:2], batch(images[1:2], torch.tensor(0.0)))
    changed = np.any(shown != plain, axis=2)
    rows, columns = np.nonzero(changed[:15])
    assert (rows.min(), rows.max() // 2, columns.min(), columns.max() // 2) == (0, 4, 0, 12)
    assert changed[20:, 25:].any()
    assert not changed[:15, 30:].any()
    assert not changed[15:, :20].any()
    red, white = shown[changed & (np.arange(30) < 15)[:, None]], shown[20:, 25:][changed[20:, 25:]]
    assert (red[:, 0] > red[:, 1]).all()
    assert white.min() > GREY // 2


@pytest.mark.parametrize("masks", [{}, {"pred_mask": mask(slice(0, 5), slice(0, 10))}])
def test_without_masks_the_map_is_drawn_alone(
    images: list[Path], tmp_path: Path, masks: dict[str, torch.Tensor]
) -> None:
    ramp = torch.linspace(0, 1, 20)
    (shown,) = drawn(tmp_path / "images", images[1:2], batch(images[1:2], ramp, **masks))
    cold, hot = shown[20, 0], shown[20, -1]
    assert cold[2] > cold[0], "blue where nothing is anomalous"
    assert hot[0] > hot[2], "red where it is"


def test_raw_maps_are_stretched_over_the_colours(images: list[Path], tmp_path: Path) -> None:
    ramp, path = torch.linspace(0, 1, 20), images[1:2]
    raw = [drawn(tmp_path / "raw", path, batch(path, scale * ramp + 7), stretch=True)[0] for scale in (1, 40)]
    assert np.abs(raw[0] - raw[1]).max() <= 2
    (normalized,) = drawn(tmp_path / "normalized", path, batch(path, ramp))
    assert np.abs(raw[0] - normalized).max() <= 2


def test_normalized_maps_keep_their_colours_from_picture_to_picture(images: list[Path], tmp_path: Path) -> None:
    ramp, path = torch.linspace(0, 1, 20), images[1:2]
    (low,) = drawn(tmp_path / "low", path, batch(path, 0.2 * ramp))
    (high,) = drawn(tmp_path / "high", path, batch(path, ramp))
    assert np.abs(low - high)[:, 25:].max() > 50
    assert (low[20, -1, 2] > low[20, -1, 0]).all(), "nothing in it is red"


def test_an_image_that_has_gone_is_named(images: list[Path], tmp_path: Path) -> None:
    given = batch(images, torch.tensor(0.5))
    images[1].unlink()
    with pytest.raises(DataError, match=r"good/000\.png is missing\. Restore it"):
        Pictures.into(tmp_path / "images", images, stretch=False).draw(given)
    assert [path.name for path in (tmp_path / "images").rglob("*.*")] == ["000.jpg.png"], "nothing half written"


@pytest.mark.parametrize("name", ["../../archive/1.png", "a/../../b/1.png"])
def test_whatever_leads_to_an_image_its_picture_is_below_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "work" / "in").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "in")
    paths = [Path.cwd() / "000.png", Path.cwd() / name, Path(name)]
    pictures = Pictures.into(tmp_path / "found" / "masks", paths, stretch=False)
    first, *others = [pictures.path_of(path).relative_to(pictures.folder) for path in paths]
    assert first == Path("work/in/000.png") if "archive" in name else Path("in/000.png")
    assert others == [(Path.cwd() / name).resolve().relative_to(pictures.common)] * 2
    assert all(".." not in path.parts for path in others)


def test_an_image_elsewhere_has_no_picture(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path, Path("/data/a"), stretch=False)
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


@pytest.mark.parametrize("size", [(1, 1), (40, 400), (640, 480)])
def test_a_picture_of_any_size_is_framed_and_captioned(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size)
    assert captioned(picture, "") is picture
    drawn = np.asarray(captioned(picture, NORMAL))
    assert drawn.shape == (size[1], size[0], 3)
    assert (drawn[0, 0] == (255, 224, 0)).all()
    assert (drawn[-1, -1] == (255, 224, 0)).all()
    assert not np.asarray(picture).any(), "the one that was given stays as it is"


def test_the_caption_fits_into_the_picture() -> None:
    drawn = np.asarray(captioned(Image.new("RGB", (640, 480)), ANOMALOUS))
    written = np.flatnonzero((drawn[2:20] == 0).all(axis=(2,)).any(axis=0))
    assert 5 < written.min() < 40
    assert 200 < written.max() < 635


@pytest.mark.parametrize("stretch", [False, True])
def test_the_plain_image_shows_where_pixels_do_not_count(images: list[Path], tmp_path: Path, *, stretch: bool) -> None:
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
