from __future__ import annotations

import numpy as np

from anomalib_tiled.data.mean_image import MeanImage
from anomalib_tiled.grid import Size


def test_the_mean_by_hand() -> None:
    mean = MeanImage(Size(2, 3))
    for value in (10, 40):
        mean.add(np.full((2, 3, 3), value, np.uint8))
    assert mean.pixels().tolist() == [[[25] * 3] * 3] * 2


def test_hidden_pixels_are_left_out() -> None:
    mean, hidden = MeanImage(Size(2, 2)), np.array([[True, False], [True, False]])
    mean.add(np.full((2, 2, 3), 200, np.uint8), hidden)
    mean.add(np.full((2, 2, 3), 100, np.uint8), np.array([[True, False], [False, False]]))
    assert mean.pixels()[..., 0].tolist() == [[0, 150], [100, 150]]


def test_large_images_are_shrunk_to_1024_pixels() -> None:
    mean = MeanImage(Size(1000, 4096))
    pixels = np.full((1000, 4096, 3), 80, np.uint8)
    hidden = np.zeros((1000, 4096), np.bool_)
    hidden[:, 2] = True
    pixels[:, 2] = 255
    mean.add(pixels, hidden)
    assert mean.pixels().shape == (250, 1024, 3)
    assert (mean.pixels() == 80).all(), "a hidden pixel does not shine through"
