"""Pictures of a page: they fit, and show the highest scores."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from anomalib_tiled.grid import Size
from anomalib_tiled.report.shown_pictures import (
    ALL_PICTURES,
    Layers,
    PictureBudget,
    in_range,
    shrunk_by_maximum,
)

FILE = Size(600, 1000)


def layers() -> Layers:
    """Pictures of noise, which cannot be compressed, with a single anomalous pixel."""
    random = np.random.default_rng(0)
    heat, mask = random.integers(0, 200, FILE, dtype=np.uint8), np.zeros(FILE, np.uint8)
    heat[123, 456] = mask[123, 456] = 255
    return Layers(Image.fromarray(random.integers(0, 256, (*FILE, 3), dtype=np.uint8)), heat, mask, None)


def picture(address: str | None) -> np.ndarray:
    assert address is not None
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
        return np.asarray(image)


@pytest.mark.parametrize(("images", "longest"), [(3, 1000), (500, 400)])
def test_however_many_images_there_are_the_page_stays_small(images: int, longest: int) -> None:
    budget = PictureBudget(images)
    for _ in range(2):
        encoded = budget.encode(layers(), FILE)
        assert sum(len(each) for each in encoded.values() if each) <= ALL_PICTURES / images
    assert encoded["truth_mask"] is None
    shapes = {picture(encoded[name]).shape[:2] for name in ("picture", "heat_map", "mask")}
    assert len(shapes) == 1, "all of one size"
    (height, width), *_ = shapes
    assert 100 < width <= longest
    assert height == pytest.approx(0.6 * width, abs=1)
    assert picture(encoded["heat_map"]).max() == 255, "the single pixel stays visible"
    assert picture(encoded["mask"]).sum() == 1


def test_the_highest_value_counts() -> None:
    values = np.arange(35, dtype=np.uint8).reshape(5, 7)
    assert shrunk_by_maximum(values, Size(2, 3)).tolist() == [[8, 10, 13], [29, 31, 34]]
    assert shrunk_by_maximum(values, Size(5, 7)).tolist() == values.tolist()
    assert shrunk_by_maximum(values[:1, :2], Size(2, 4)).tolist() == [[0, 0, 1, 1]] * 2


def test_heat_maps_get_a_range_in_common() -> None:
    grey = np.array([0, 1, 128, 255], np.uint8)
    assert in_range(grey, (0.0, 1.0), (0.0, 1.0)) is grey
    assert in_range(grey, (2.0, 6.0), (0.0, 8.0)).tolist() == [0, 64, 128, 191], "0 does not count, and stays"
