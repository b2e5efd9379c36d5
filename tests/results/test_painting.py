from __future__ import annotations

import numpy as np
import pytest

from anomalib_tiled.results.colours import heat_colours
from anomalib_tiled.results.painting import BETWEEN, HALO, PREDICTED, TRUE, Scale, line_width, paint_edges, paint_heat

SIZE = (40, 60)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def painted(scores: np.ndarray, scale: Scale | None = None) -> np.ndarray:
    pixels = noise()
    paint_heat(pixels, scores.astype(np.float32), scale or Scale())
    return pixels


def outlined(predicted: np.ndarray | None, true: np.ndarray | None, size: tuple[int, int] = SIZE) -> np.ndarray:
    pixels = np.full((*size, 3), 100, np.uint8)
    paint_edges(pixels, predicted, true)
    return pixels


def square(size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[10:20, 10:25] = True
    return mask


def test_each_pixel_is_mixed_with_the_colour_of_its_score() -> None:
    scores = np.linspace(0, 1, SIZE[0] * SIZE[1]).reshape(SIZE)
    table = np.array(heat_colours(), float)[np.rint(255 * scores).astype(int)]
    expected = noise() * (1 - table[..., 3:] / 255) + table[..., :3] * table[..., 3:] / 255
    assert np.abs(painted(scores) - expected).max() <= 2


def test_low_scores_and_pixels_that_do_not_count_leave_the_image_as_it_is() -> None:
    scores = np.full(SIZE, 0.2)
    scores[5:9] = np.nan
    assert np.array_equal(painted(scores), noise())


@pytest.mark.parametrize(("scale", "offset"), [(40.0, -7.0), (1e-30, 3e-29), (1e6, 0.0)])
def test_a_raw_map_is_stretched(scale: float, offset: float) -> None:
    scores = np.linspace(0, 1, SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE)
    raw = scores * np.float32(scale) + np.float32(offset)
    raw[0, 3] = np.nan
    difference = np.abs(painted(raw, Scale.of(raw)).astype(int) - painted(scores))
    assert difference[1:].max() <= 3


def test_a_map_of_one_score_is_painted_as_the_lowest() -> None:
    scores = np.full(SIZE, 3.5, np.float32)
    assert np.array_equal(painted(scores, Scale.of(scores)), noise())


def test_lines_run_around_regions_and_hide_none_of_their_pixels() -> None:
    pixels = outlined(square(), None)
    assert (pixels[10:20, 10:25] == 100).all()
    line = (pixels == PREDICTED).all(axis=2)
    assert np.argwhere(line).min(axis=0).tolist() == [9, 9]
    assert np.argwhere(line).max(axis=0).tolist() == [20, 25]
    assert line.sum() == 12 * 17 - 10 * 15
    assert ((pixels == HALO).all(axis=2).sum()) == 14 * 19 - 12 * 17


def test_the_truth_is_dashed_also_where_the_prediction_is_the_same() -> None:
    alone, both = outlined(None, square()), outlined(square(), square())
    white, black = ((alone == colour).all(axis=2) for colour in (TRUE, BETWEEN))
    assert white.sum() + black.sum() == 12 * 17 - 10 * 15
    assert 0.3 < white.sum() / (white | black).sum() < 0.7
    assert (both[white] == TRUE).all()
    assert (both[black] == PREDICTED).all()


def test_a_region_of_one_pixel_at_the_border_has_a_line() -> None:
    mask = np.zeros(SIZE, bool)
    mask[0, 0] = True
    assert (outlined(mask, None) == PREDICTED).all(axis=2).sum() == 3


@pytest.mark.parametrize("mask", [None, np.zeros(SIZE, bool), np.ones(SIZE, bool)])
def test_without_an_edge_nothing_is_drawn(mask: np.ndarray | None) -> None:
    assert (outlined(mask, mask) == 100).all()


@pytest.mark.parametrize(("side", "width"), [(50, 1), (512, 1), (2048, 4), (8192, 16)])
def test_lines_grow_with_the_image(side: int, width: int) -> None:
    assert line_width(np.empty((side, 8, 3), np.uint8)) == width
