"""Aligners: where a part lies, to fractions of a pixel, or an error."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import cv2
import numpy as np
import pytest
from skimage import data

from anomalib_tiled.errors import DataError, UnalignedError
from anomalib_tiled.stages.aligners import MOST_IMAGES, Affine, Homography, Rigid, Translation
from anomalib_tiled.stages.alignment import Aligner, Matrix, Pixels, Reference
from anomalib_tiled.stages.registration import Floats, Placement, corners, moved, placement, rigid

SHAPE = (240, 320)
EACH = pytest.mark.parametrize("kind", [Translation, Rigid, Affine, Homography])


def plate(seed: int = 0, shape: tuple[int, int] = SHAPE) -> Pixels:
    """Draw a plate with components on a grey ground."""
    random, (height, width) = np.random.default_rng(seed), shape
    picture = np.full((*shape, 3), 120, np.uint8)
    cv2.rectangle(picture, (width // 8, height // 8), (width * 7 // 8, height * 7 // 8), (40, 110, 60), -1)
    for _ in range(40):
        x, y = random.integers(width // 6, width * 5 // 6), random.integers(height // 6, height * 5 // 6)
        right, down = x + random.integers(4, width // 16), y + random.integers(4, height // 16)
        colour = [int(value) for value in random.integers(0, 255, 3)]
        cv2.rectangle(picture, (int(x), int(y)), (int(right), int(down)), colour, -1)
    return picture


def photograph(picture: Pixels, matrix: Floats, seed: int) -> Pixels:
    """Move a picture, and change light and noise."""
    random = np.random.default_rng(seed)
    height, width = picture.shape[:2]
    seen = cv2.warpPerspective(picture, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    noisy = seen * random.uniform(0.85, 1.15) + random.uniform(-10, 10) + random.normal(0, 4, seen.shape)
    return np.asarray(noisy.clip(0, 255), np.uint8)


def spoiled(picture: Pixels) -> Pixels:
    """Paint a defect."""
    return np.asarray(cv2.ellipse(picture.copy(), (150, 120), (30, 18), 20, 0, 360, (250, 240, 30), -1), np.uint8)


def as_array(matrix: Matrix) -> Floats:
    return np.array(matrix).reshape(3, 3)


@cache
def learned(kind: type[Aligner], seed: int = 0, shape: tuple[int, int] = SHAPE) -> Reference:
    return kind().learn([photograph(plate(seed, shape), np.eye(3), number) for number in range(2)])


@EACH
def test_a_shifted_part_is_found_to_a_fraction_of_a_pixel(kind: type[Aligner]) -> None:
    aligner, true = kind(), rigid(Placement(21.3, -13.6, 0), SHAPE)
    found = aligner.align(spoiled(photograph(plate(), true, 9)), learned(kind))
    difference = moved(as_array(found.matrix), corners(SHAPE)) - moved(true, corners(SHAPE))
    assert np.abs(difference).max() < (0.15 if kind in {Translation, Rigid} else 0.6)
    assert found.quality > 0.9


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(Rigid, (240, 320)), (Affine, (240, 320)), (Homography, (240, 320)), (Rigid, (600, 800)), (Rigid, (301, 97))],
)
def test_a_turned_part_is_found(kind: type[Aligner], shape: tuple[int, int]) -> None:
    aligner, true = kind(), Placement(-0.06 * shape[1], 0.05 * shape[0], 2.7)
    found = aligner.align(photograph(plate(1, shape), rigid(true, shape), 9), learned(kind, 1, shape))
    place = placement(as_array(found.matrix), shape)
    assert np.hypot(place.right - true.right, place.down - true.down) < 0.3
    assert abs(place.degrees - true.degrees) < 0.1


def test_a_rigid_motion_changes_no_length_even_if_the_small_image_has_another_ratio() -> None:
    shape = (403, 1117)
    aligner = Rigid()
    found = aligner.align(photograph(plate(1, shape), rigid(Placement(3, 4, 3), shape), 9), learned(Rigid, 1, shape))
    turn = as_array(found.matrix)[:2, :2]
    assert np.abs(turn @ turn.T - np.eye(2)).max() < 1e-9


@pytest.mark.parametrize("kind", [Affine, Homography])
def test_scale_and_perspective_are_found(kind: type[Aligner]) -> None:
    true = np.array([[1.03, 0.01, -4], [-0.015, 0.98, 5], [0, 0, 1]])
    if kind is Homography:
        true[2, :2] = 5e-5, -4e-5
    aligner = kind()
    found = aligner.align(photograph(plate(), true, 9), learned(kind))
    assert np.abs(moved(as_array(found.matrix), corners(SHAPE)) - moved(true, corners(SHAPE))).max() < 1


def test_the_reference_lies_in_the_median_of_the_training_places() -> None:
    places = [Placement(right, down, degrees) for right, down, degrees in ((0, 0, 0), (4, 6, 1), (12, 7, 3))]
    aligner = Rigid()
    images = [photograph(plate(), rigid(place, SHAPE), number) for number, place in enumerate(places)]
    reference = aligner.learn(images)
    for place, image in zip(places, images, strict=True):
        found = placement(as_array(aligner.align(image, reference).matrix), SHAPE)
        assert np.hypot(found.right - place.right + 4, found.down - place.down + 6) < 0.4
        assert abs(found.degrees - place.degrees + 1) < 0.1


def test_a_bad_first_image_does_not_become_the_reference() -> None:
    bad = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), np.uint8)
    reference = Rigid().learn([bad, *(photograph(plate(), np.eye(3), seed) for seed in range(4))])
    assert reference.numbers["images"] == 4
    assert reference.image.shape == SHAPE


def test_no_more_images_are_read_than_it_learns_from() -> None:
    read = 0

    def images() -> Iterator[Pixels]:
        nonlocal read
        while True:
            read += 1
            yield plate()

    Translation().learn(images())
    assert read == MOST_IMAGES


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((*SHAPE, 3), np.uint8), r"It shows nothing: its structure varies by 0 grey levels, 1 is needed\."),
        (plate()[::-1, ::-1].copy(), r"."),
        (plate(7), r"."),
        (data.gravel()[: SHAPE[0], : SHAPE[1], None].repeat(3, axis=2), r"."),
    ],
    ids=["black", "upside down", "another part", "texture"],
)
@EACH
def test_what_is_not_there_is_not_found(kind: type[Aligner], image: Pixels, reason: str) -> None:
    aligner = kind()
    with pytest.raises(UnalignedError, match=reason):
        aligner.align(image, learned(kind))


def test_what_lies_farther_away_than_allowed_is_not_found() -> None:
    aligner = Rigid(max_shift=0.05)
    image = photograph(plate(), rigid(Placement(40, 0, 0), SHAPE), 9)
    with pytest.raises(UnalignedError):
        aligner.align(image, learned(Rigid))


def test_quality_below_the_least_is_an_error() -> None:
    aligner = Rigid(least_quality=0.99)
    reference = learned(Rigid)
    noisy = photograph(plate(), np.eye(3), 3) // 2 + np.random.default_rng(0).integers(0, 100, (*SHAPE, 3), np.uint8)
    with pytest.raises(UnalignedError, match=r"It fits the reference by 0\.\d\d of 1, at least 0\.99 is needed\."):
        aligner.align(noisy, reference)


def test_textures_have_no_common_part() -> None:
    grass = data.grass()[..., None].repeat(3, axis=2)
    crops = [grass[top : top + 200, left : left + 200] for top, left in ((0, 0), (50, 300), (300, 100), (290, 310))]
    with pytest.raises(
        DataError, match=r"half of the training images must show a common part, but only 1 of 4 fit one of them\."
    ):
        Rigid().learn(crops)


def test_the_result_does_not_depend_on_threads_and_leaves_them_alone() -> None:
    aligner = Homography()
    image, results = photograph(plate(), rigid(Placement(5, 4, 2), SHAPE), 9), []
    before = cv2.getNumThreads()
    try:
        for threads in (1, 2):
            cv2.setNumThreads(threads)
            reference = aligner.learn([photograph(plate(), np.eye(3), number) for number in range(2)])
            results.append((reference.image.tobytes(), aligner.align(image, reference)))
            assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_shift": 0}, r"Rigid needs a max_shift above 0 and at most 0\.4, got 0\."),
        ({"max_rotation": 181}, r"Rigid needs a max_rotation from 0 to 180 degrees, got 181\."),
        ({"least_quality": 1}, r"Rigid needs a least_quality between 0 and 1, got 1\."),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rigid(**arguments)
