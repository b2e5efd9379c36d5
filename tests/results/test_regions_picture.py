"""The picture of the regions: what is grey, crossed and outlined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.results.regions_picture import CROSS_COLOUR, GRID_COLOUR, REGION_COLOURS, draw_regions
from anomalib_tiled.stages.regions import RegionMap


def drawn(path: Path, grid: TileGrid, regions: RegionMap) -> np.ndarray:
    draw_regions(path, np.full((*grid.image_size, 3), 200, np.uint8), grid, regions)
    return np.asarray(Image.open(path))


def share(pixels: np.ndarray, colour: tuple[int, int, int]) -> float:
    return float((pixels == colour).all(axis=-1).mean())


def test_what_the_picture_shows(tmp_path: Path) -> None:
    ignored, clip = np.zeros((2, 80, 120), dtype=np.bool_)
    ignored[:, :40] = True
    clip[10:70, 50:110] = True
    regions = RegionMap(ignored, {"clip": clip})
    grid = TileGrid(Size(80, 120), Size(40, 40), Size(40, 40)).ignoring({"r00_c00", "r01_c00"}).without({"r00_c02"})
    picture = drawn(tmp_path / "regions.png", grid, regions)
    assert picture.shape == (427, 640, 3), "small images are enlarged"
    left, middle, right = np.split(picture, [213, 426], axis=1)
    assert tuple(left[100, 60]) == (109, 109, 109), "mostly grey"
    assert tuple(middle[100, 100]) == (200, 200, 200)
    for part, is_crossed in ((left, True), (middle, False), (right[:213], True), (right[214:], False)):
        assert (share(part, CROSS_COLOUR) > 0) == is_crossed
    assert share(picture, GRID_COLOUR) > 0.005
    outline = (picture == REGION_COLOURS[0]).all(axis=-1)
    assert outline[150, 266:270].any(), "its left edge, at 50 of 120 pixels"
    assert not outline[150, 300:500].any(), "nothing inside"
    assert outline[53:70, 267:280].mean() > 0.3, "the name stands on its colour"


def test_large_images_are_shrunk(tmp_path: Path) -> None:
    grid = TileGrid(Size(2000, 3200), Size(400, 400), Size(400, 400))
    assert drawn(tmp_path / "regions.png", grid, RegionMap(np.zeros((2000, 3200), np.bool_))).shape == (1000, 1600, 3)
