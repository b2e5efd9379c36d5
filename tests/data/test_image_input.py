from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_tiled.data.image_input import as_bytes, pixels_of
from anomalib_tiled.errors import DataError

COLOUR = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
GREY = COLOUR[..., 0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_every_kind_of_image_gives_the_same_pixels(path: Path) -> None:
    expected = torch.from_numpy(COLOUR.copy()).permute(2, 0, 1)
    for image in (path, str(path), Image.fromarray(COLOUR), COLOUR, expected, COLOUR[:, ::-1][:, ::-1]):
        assert torch.equal(pixels_of(image), expected)
    for image in (COLOUR / 255, (COLOUR / 255).astype(np.float16), expected.double() / 255):
        torch.testing.assert_close(pixels_of(image), expected / 255, rtol=0, atol=1e-3)
        assert pixels_of(image).dtype == torch.float32


def test_an_array_for_reading_only_is_taken_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    fixed = COLOUR.copy()
    fixed.flags.writeable = False
    assert np.array_equal(as_bytes(pixels_of(fixed)), COLOUR)
    assert not recwarn.list


def test_grey_images_have_three_equal_channels() -> None:
    expected = torch.from_numpy(GREY.copy()).expand(3, 4, 6)
    for image in (Image.fromarray(GREY), GREY, GREY[..., None], torch.from_numpy(GREY.copy()), expected[:1]):
        assert torch.equal(pixels_of(image), expected)


def test_what_says_how_transparent_pixels_are_is_left_out() -> None:
    expected = torch.from_numpy(COLOUR.copy()).permute(2, 0, 1)
    transparent = np.dstack([COLOUR, GREY])
    for image in (transparent, Image.fromarray(transparent)):
        assert torch.equal(pixels_of(image), expected)


def test_more_than_eight_bits_are_warned_of(tmp_path: Path) -> None:
    deep = Image.fromarray(COLOUR[..., 0].astype(np.uint16) * 100)
    deep.save(tmp_path / "deep.png")
    for image, name in ((deep, "The image"), (tmp_path / "deep.png", "deep.png")):
        with pytest.warns(UserWarning, match=f"{name} has more than 8 bits per channel: anomalib reads values above"):
            pixels_of(image)


def test_pictures_get_the_bytes_back() -> None:
    assert np.array_equal(as_bytes(pixels_of(COLOUR)), COLOUR)
    assert np.array_equal(as_bytes(pixels_of(COLOUR / 255)), COLOUR)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (5, "An image must be a path, a Pillow image, an array or a tensor, but is a int."),
        (np.zeros((4, 6, 5), np.uint8), "the shape (height, width, 3) or (height, width), but has (4, 6, 5)."),
        (np.zeros((2, 4, 6, 3), np.uint8), "but has (2, 4, 6, 3). Give several images as a list."),
        (torch.zeros(4, 6, 3), "but has (4, 6, 3)."),
        (COLOUR.astype(np.int64), "must hold bytes (uint8), or fractions from 0 to 1, but holds torch.int64."),
        (COLOUR.astype(str), "must hold bytes (uint8), or fractions from 0 to 1, but holds <U3."),
        (COLOUR.astype(np.float32), "must lie between 0 and 1, but goes from "),
        (np.full((4, 6), 1.0001), "goes from 1.0001 to 1.0001. Divide it by the highest value that a pixel can have"),
        (np.full((4, 6), 257, ">u2"), "must hold bytes (uint8), or fractions from 0 to 1, but holds torch.uint16."),
        (np.full((4, 6), np.nan), "but goes from nan to nan."),
        (Path("/nowhere/a.png"), "/nowhere/a.png is missing."),
    ],
)
def test_what_is_no_image_is_refused(image: object, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        pixels_of(image)


def test_rounding_may_take_fractions_beyond_black_and_white() -> None:
    for kind, most in ((np.float64, 1 + 9e-6), (np.float32, 1 + 1e-7), (np.float16, 1 + 2**-10)):
        pixels = pixels_of(np.array([[most, -9e-6, 0.5]], kind))
        assert torch.equal(pixels, torch.tensor([[1.0, 0.0, 0.5]]).expand(3, 1, 3))


def test_numbers_in_the_order_of_other_machines() -> None:
    fractions = COLOUR / 255
    for kind in (">f4", "<f4", ">f8", np.longdouble):
        torch.testing.assert_close(pixels_of(fractions.astype(kind)), pixels_of(fractions))
