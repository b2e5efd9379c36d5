"""Moving pixels between files and aligned images."""

from __future__ import annotations

from math import cos, radians, sin
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import resize

from anomalib_tiled.data.images import read_image, read_masks
from anomalib_tiled.data.warping import IDENTITY, in_file, moves, unwarped, warped
from anomalib_tiled.errors import DataError
from anomalib_tiled.grid import Size
from anomalib_tiled.stages.alignment import Matrix


def shift(x: float, y: float) -> Matrix:
    return (1, 0, x, 0, 1, y, 0, 0, 1)


def turn(degrees: float, middle: float) -> Matrix:
    c, s = cos(radians(degrees)), sin(radians(degrees))
    return (c, -s, middle - c * middle + s * middle, s, c, middle - s * middle - c * middle, 0, 0, 1)


def smooth(height: int, width: int) -> np.ndarray:
    """Three channels that vary slowly."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(5 * x / width + phase) * np.cos(4 * y / height) for phase in range(3)]
    return (127.5 + 120 * np.stack(waves, axis=-1)).round().astype(np.uint8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    Image.fromarray(smooth(60, 90)).save(tmp_path / "image.png")
    return tmp_path / "image.png"


@pytest.mark.parametrize("size", [Size(60, 90), Size(30, 45), Size(70, 80)])
def test_the_identity_is_read_as_without_alignment(file: Path, size: Size) -> None:
    assert np.array_equal(read_image(file, size, IDENTITY), read_image(file, size))
    assert np.array_equal(read_masks([file], size, IDENTITY), read_masks([file], size))
    assert not moves(IDENTITY)
    assert not moves(None)


@pytest.mark.parametrize("size", [Size(60, 90), Size(30, 45), Size(20, 18), Size(120, 45)])
def test_a_transform_close_to_the_identity_gives_nearly_what_resizing_gives(file: Path, size: Size) -> None:
    moved = read_image(file, size, shift(1e-9, 0)).astype(int)
    assert np.abs(moved - read_image(file, size)).max() <= 4
    assert np.abs(moved - read_image(file, size)).mean() < 1


def test_a_whole_shift_moves_pixels_and_repeats_the_border(file: Path) -> None:
    image, moved = read_image(file, Size(60, 90)), read_image(file, Size(60, 90), shift(3, -2))
    assert np.array_equal(moved[2:, :-3], image[:-2, 3:])
    assert np.array_equal(moved[2:, -3:], np.repeat(image[:-2, -1:], 3, axis=1))
    assert np.array_equal(moved[:2, 0], np.repeat(image[:1, 3], 2, axis=0))


def test_a_shift_counts_pixels_of_the_size_that_the_ensemble_takes(file: Path) -> None:
    small = Size(20, 30)
    moved, expected = read_image(file, small, shift(2, 1)), read_image(file, small)[1:, 2:]
    assert np.abs(moved[:-1, :-2].astype(int) - expected).max() <= 4


def test_pixels_of_the_aligned_image_are_found_in_the_file() -> None:
    to_file = in_file(shift(2, 1), Size(20, 30), Size(60, 90))
    assert np.allclose(to_file @ [0, 0, 1], [7, 4, 1])  # pixel (2, 1) of the small image is pixels 6 to 8, 3 to 5
    assert np.allclose(in_file(IDENTITY, Size(10, 10), Size(10, 10)), np.eye(3))


def test_turning_there_and_back_gives_the_image() -> None:
    image = smooth(64, 64)
    there = warped(image, Size(64, 64), turn(5, 31.5))
    back = warped(there, Size(64, 64), turn(-5, 31.5)).astype(int)
    assert np.abs(there.astype(int) - image).max() > 10
    assert np.abs(back - image)[8:-8, 8:-8].max() <= 4


def test_shrinking_blurs_as_much_as_antialiasing() -> None:
    """Noise keeps the spread that resizing leaves of it; without a blur it would keep far more."""
    noise = np.random.default_rng(0).integers(0, 256, (240, 240, 3), dtype=np.uint8)
    small = Size(60, 60)
    resized = resize(torch.from_numpy(noise).permute(2, 0, 1), list(small), antialias=True).float().std()
    moved = warped(noise, small, shift(0.3, 0)).astype(float).std()
    assert moved == pytest.approx(float(resized), rel=0.25)


def test_an_image_that_shrinks_in_one_direction_is_blurred_in_that_one_alone() -> None:
    stripes = np.tile(np.array([[0], [255]], np.uint8), (20, 10))[..., None].repeat(3, axis=-1)  # rows alternate
    across = warped(np.ascontiguousarray(stripes.transpose(1, 0, 2)), Size(10, 10), shift(0.01, 0))
    assert across.std() < 10, "columns are averaged"
    kept = warped(stripes, Size(40, 5), shift(0.01, 0))
    assert kept.std() > 100, "rows are not"


def test_masks_are_moved_with_their_image_and_end_at_its_border(tmp_path: Path) -> None:
    mask = np.zeros((6, 8), np.uint8)
    mask[2, 3], mask[:, 7] = 255, 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    moved = read_masks([tmp_path / "mask.png"], Size(6, 8), shift(2, 1))
    assert np.argwhere(moved).tolist() == [[0, 5], [1, 1], [1, 5], [2, 5], [3, 5], [4, 5]]
    assert set(np.unique(moved)) == {0, 1}


def test_a_whole_shift_moves_a_map_back() -> None:
    scores = np.arange(48, dtype=np.float32).reshape(6, 8)
    back = unwarped(scores, Size(6, 8), shift(3, -2))
    assert np.array_equal(back[:4, 3:], scores[2:, :-3])
    assert np.isnan(back[:, :3]).all()
    assert np.isnan(back[4:]).all()


@pytest.mark.parametrize("size", [Size(40, 60), Size(33, 71), Size(80, 120), Size(17, 20), Size(20, 200)])
@pytest.mark.parametrize("matrix", [turn(3, 25), turn(-20, 30), shift(1.5, -2.5), turn(90, 20)])
def test_no_pixel_of_a_map_is_lost_where_the_image_reaches(size: Size, matrix: Matrix) -> None:
    """Each pixel alone: whatever the others are, it is found in the file, at its place."""
    random = np.random.default_rng(0)
    to_file = in_file(matrix, Size(40, 60), size)
    for y, x in random.integers(0, (40, 60), (60, 2)):
        scores = np.arange(40, dtype=np.float32)[:, None].repeat(60, axis=1) / 50 - 1
        scores[y, x] = 1
        place = to_file @ [x, y, 1]
        column, row = place[:2]
        found = np.argwhere(unwarped(scores, size, matrix) > 0)
        if 0 <= column < size.width - 0.5 and 0 <= row < size.height - 0.5:
            assert np.abs(found - [row, column]).max(axis=1).min() <= 0.501, "the pixel that its middle lies in"
        reach = 1 + max(size.height / 40, size.width / 60)
        assert np.all(np.abs(found - [row, column]) <= reach), "and nowhere else"


def test_scores_and_masks_agree_after_moving_back() -> None:
    scores = np.random.default_rng(0).random((40, 60), dtype=np.float32)
    for size in (Size(40, 60), Size(25, 30), Size(90, 130)):
        moved = unwarped(scores, size, turn(4, 20))
        for is_mask in (False, True):
            mask = unwarped((scores > 0.9).astype(np.float32), size, turn(4, 20), is_mask=is_mask)
            assert np.array_equal(moved > 0.9, mask > 0)


def test_pixels_of_which_a_map_says_nothing_stay_so() -> None:
    scores = np.ones((6, 8), np.float32)
    scores[2:4, 3:5] = np.nan
    back = unwarped(scores, Size(6, 8), shift(1, 0))
    assert np.argwhere(np.isnan(back[:, 1:])).tolist() == [[2, 3], [2, 4], [3, 3], [3, 4]]


def test_a_mask_comes_back_to_where_it_was(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[20:30, 30:44] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    aligned = read_masks([tmp_path / "mask.png"], Size(64, 64), turn(7, 31.5))
    back = unwarped(aligned.astype(np.float32), Size(64, 64), turn(7, 31.5)) > 0
    inside, near = np.s_[21:29, 31:43], np.s_[19:31, 29:45]
    assert back[inside].all()
    assert back.sum() == back[near].sum(), "nothing lies more than a pixel beside it"


def test_images_too_large_for_opencv_are_refused() -> None:
    with pytest.raises(DataError, match=r"less than 32767 pixels on each side.*, but one has 2 x 32768\. Shrink it"):
        warped(np.zeros((2, 32768, 3), np.uint8), Size(2, 10), shift(1, 0))
