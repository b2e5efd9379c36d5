from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.map_quality import best_f1, defects_of, exceeded_by, quality_of

MASKS = np.zeros((3, 8, 10), dtype=np.bool_)
MASKS[1, 0, 0] = True  # one pixel
MASKS[1, 4:8, 4:8] = True  # sixteen
MASKS[2, 0:2, 5:7] = True  # four


@pytest.fixture
def maps() -> NDArray[np.float32]:
    """Random maps below 1, of images of which the first is normal."""
    return np.random.default_rng(0).random((3, 8, 10), dtype=np.float32)


def test_pixels_that_touch_at_a_corner_are_one_defect() -> None:
    mask = np.zeros((4, 4), dtype=np.bool_)
    mask[0, 0] = mask[1, 1] = mask[3, 3] = mask[3, 2] = True
    assert [each.tolist() for each in defects_of(mask)] == [[0, 5], [14, 15]]
    assert defects_of(np.zeros((4, 4), dtype=np.bool_)) == []


@pytest.mark.parametrize(("rate", "expected"), [(0, 99), (0.01, 98), (0.1, 89), (0.105, 89)])
def test_no_more_than_the_rate_is_above_the_threshold(rate: float, expected: int) -> None:
    values = np.random.default_rng(0).permutation(100).astype(np.float32).reshape(10, 10)
    assert exceeded_by(values, rate) == expected


def test_equal_values_at_the_threshold_are_not_above_it() -> None:
    assert exceeded_by(np.array([0, 1, 1, 1], np.float32), 0.5) == 1


def test_a_defect_is_found_by_one_pixel_above_what_normal_images_have(maps: NDArray[np.float32]) -> None:
    maps[MASKS] = 0
    maps[1, 7, 7] = maps[2, 1, 6] = 2
    quality = quality_of(np.array([0, 1, 2], np.float32), maps, MASKS, rate=0)
    assert (quality.defects, quality.found) == (3, 2)
    assert (quality.small, quality.small_found, quality.largest_small) == (2, 1, 4)
    assert quality.image_auroc == 1


def test_a_defect_that_only_reaches_the_threshold_is_not_found(maps: NDArray[np.float32]) -> None:
    maps[MASKS] = maps[0].max()
    assert quality_of(np.array([0, 1, 2], np.float32), maps, MASKS, rate=0).found == 0
    assert quality_of(np.array([0, 1, 2], np.float32), maps, MASKS, rate=0.02).found == 3


def test_false_alarms_are_counted_on_normal_images_alone(maps: NDArray[np.float32]) -> None:
    maps[MASKS] = 2
    maps[1, 0, 9] = 3  # beside the defects
    assert quality_of(np.array([0, 1, 2], np.float32), maps, MASKS, rate=0).found == 3


def test_maps_like_the_masks_are_perfect() -> None:
    quality = quality_of(np.array([0, 1, 1], np.float32), MASKS.astype(np.float32), MASKS, rate=0.001)
    assert (quality.pixel_auroc, quality.pixel_f1, quality.found) == (1, 1, 3)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.1, 0.2, 0.8, 0.9], 1),
        ([0.9, 0.8, 0.2, 0.1], 2 / 3),
        ([0.5, 0.5, 0.5, 0.5], 2 / 3),
        ([0.1, 0.5, 0.5, 0.9], 0.8),
    ],
)
def test_the_best_f1_is_that_of_a_threshold_that_exists(scores: list[float], expected: float) -> None:
    found = best_f1(np.array(scores, np.float32), np.array([False, False, True, True]))
    assert found == pytest.approx(expected)
