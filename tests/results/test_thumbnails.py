"""Small pictures: what stays visible, and in which frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageItem
from PIL import Image

from anomalib_tiled.grid import Size
from anomalib_tiled.results.regions import InFile
from anomalib_tiled.results.tested_folder import ThumbnailFiles
from anomalib_tiled.results.thumbnails import Thumbnails

MAP = Size(30, 60)
LARGE = Size(1500, 3000)


def item(path: Path, scores: torch.Tensor, *, has_maps: bool = True) -> ImageItem:
    maps = {"anomaly_map": scores, "pred_mask": scores > 0.5} if has_maps else {"anomaly_map": scores}
    image = torch.linspace(0, 1, MAP.width).expand(3, *MAP)
    return ImageItem(image=image, image_path=str(path), gt_mask=(scores > 0.9).squeeze(0), **maps)


def grey(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.fixture
def files(tmp_path: Path) -> ThumbnailFiles:
    return ThumbnailFiles(tmp_path / "thumbnails", 7)


def test_a_single_pixel_of_a_large_map_stays_visible(tmp_path: Path, files: ThumbnailFiles) -> None:
    scores = torch.zeros(1, *LARGE)
    scores[0, 777, 2222] = 1.0
    one = item(tmp_path / "a.png", scores)
    assert Thumbnails(stretch=False).write(one, InFile(LARGE), files) == (0.0, 1.0)
    assert files.heat_map.name == "00007.heat.png"
    for path in (files.heat_map, files.mask, files.truth):
        shown = grey(path)
        assert shown.shape == (512, 1024), "the longest side"
        assert shown.max() == 255
        high, wide = np.nonzero(shown)
        assert high.min() <= 777 * 512 / 1500 <= high.max() + 1
        assert wide.min() <= 2222 * 1024 / 3000 <= wide.max() + 1
    picture = grey(files.picture)
    assert picture.shape == (512, 1024, 3)
    assert picture[0, 0, 0] < 5
    assert picture[0, -1, 0] > 250


def test_raw_maps_have_a_range_of_their_own_and_pixels_that_do_not_count_are_black(
    tmp_path: Path, files: ThumbnailFiles
) -> None:
    scores = torch.linspace(-3, 17, MAP.height * MAP.width).reshape(1, *MAP)
    scores[0, 5:9] = torch.nan
    assert Thumbnails(stretch=True).write(item(tmp_path / "a.png", scores), InFile(MAP), files) == (-3.0, 17.0)
    shown = grey(files.heat_map)
    assert not shown[5:9].any()
    assert shown[-1, -1] == 255


def test_aligned_images_are_shown_in_the_frame_of_their_files(tmp_path: Path, files: ThumbnailFiles) -> None:
    Image.fromarray(np.full((30, 60, 3), 90, np.uint8)).save(tmp_path / "a.png")
    scores = torch.zeros(1, *MAP)
    scores[0, 10, 20] = 1.0
    moved = InFile(MAP, (1.0, 0.0, 4.0, 0.0, 1.0, -3.0, 0.0, 0.0, 1.0))
    Thumbnails(stretch=False).write(item(tmp_path / "a.png", scores), moved, files)
    for path in (files.heat_map, files.mask, files.truth):
        assert np.argwhere(grey(path) == 255).tolist() == [[7, 24]]
    assert abs(int(grey(files.picture).mean()) - 90) <= 2, "read from the file, not moved"


def test_a_model_without_maps_has_no_heat_map(tmp_path: Path, files: ThumbnailFiles) -> None:
    one = item(tmp_path / "a.png", torch.zeros(1, *MAP), has_maps=False)
    assert Thumbnails(stretch=False).write(one, InFile(MAP), files) is None
    assert sorted(path.name for path in files.folder.iterdir()) == ["00007.jpg", "00007.truth.png"]
