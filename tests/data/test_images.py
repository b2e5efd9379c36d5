from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from anomalib.data.utils import read_image as anomalib_image
from anomalib.data.utils import read_mask as anomalib_mask
from PIL import Image

from anomalib_tiled.data.images import common_size, read_image, read_mask, size_of
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.errors import DataError
from anomalib_tiled.grid import Size

SIZE = Size(8, 12)


def picture(path: Path, mode: str, size: Size = SIZE) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").convert(mode).save(path)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "1"])
def test_images_are_read_as_anomalib_reads_them(tmp_path: Path, mode: str) -> None:
    path = picture(tmp_path / "any.png", mode)
    theirs = (anomalib_image(path) * 255).round().astype(np.uint8)
    ours = read_image(path, SIZE)
    assert np.array_equal(ours, theirs)
    assert ours.flags.writeable, "or PyTorch warns"


@pytest.mark.parametrize("mode", ["L", "RGB", "1"])
def test_masks_are_read_as_anomalib_reads_them(tmp_path: Path, mode: str) -> None:
    path = picture(tmp_path / "any.png", mode)
    theirs = anomalib_mask(path) > 0
    assert np.array_equal(read_mask(path, SIZE), theirs)


def test_a_mask_is_every_grey_value_but_zero(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1, 128, 255]], np.uint8)).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", Size(1, 4)).tolist() == [[0, 1, 1, 1]]


def test_another_size_is_resized_to(tmp_path: Path) -> None:
    path = picture(tmp_path / "any.png", "RGB")
    resized = read_image(path, Size(4, 6))
    assert (resized.shape, resized.dtype, resized.flags.c_contiguous) == ((4, 6, 3), np.uint8, True)
    means = np.asarray(Image.open(path), float).mean(axis=(0, 1)), resized.mean(axis=(0, 1))
    np.testing.assert_allclose(*means, atol=12)
    mask = read_mask(picture(tmp_path / "mask.png", "1"), Size(5, 7))
    assert mask.shape == (5, 7)
    assert set(np.unique(mask)) <= {0, 1}


def test_the_size_is_height_and_width(tmp_path: Path) -> None:
    assert size_of(picture(tmp_path / "any.png", "RGB")) == SIZE


@pytest.mark.parametrize("read", [lambda path: read_image(path, SIZE), lambda path: read_mask(path, SIZE), size_of])
def test_a_file_that_is_no_image(tmp_path: Path, read: object) -> None:
    path = tmp_path / "any.png"
    path.write_text("text")
    message = f"{path} is no image that can be read. Replace it or take it out of the data set."
    with pytest.raises(DataError, match=re.escape(message)):
        read(path)


def test_an_image_that_is_cut_short(tmp_path: Path) -> None:
    path = picture(tmp_path / "any.png", "RGB")
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(DataError, match=r"any.png is damaged \(.*\). Replace it or take it out of the data set."):
        read_image(path, SIZE)


def split_of(*paths: tuple[Path, Path | None]) -> Split:
    return Split(tuple(Sample("train", image, mask, 0) for image, mask in paths))


def test_images_of_one_size_keep_it(tmp_path: Path) -> None:
    split = split_of((picture(tmp_path / "a.png", "RGB"), picture(tmp_path / "mask.png", "L")))
    assert common_size(split, None) == SIZE
    assert common_size(split, Size(4, 4)) == Size(4, 4)


def test_images_of_several_sizes_need_one_to_be_resized_to(tmp_path: Path) -> None:
    first, second = picture(tmp_path / "a.png", "RGB"), picture(tmp_path / "b.png", "RGB", Size(4, 4))
    split = split_of((first, None), (second, None))
    assert common_size(split, Size(4, 4)) == Size(4, 4)
    message = "but there are 2: 4 x 4 (b.png); 8 x 12 (a.png). Set tiling.image_size to [height, width]"
    with pytest.raises(DataError, match=re.escape(message)):
        common_size(split, None)


@pytest.mark.parametrize("image_size", [None, Size(4, 4)])
def test_a_mask_of_another_size_than_its_image(tmp_path: Path, image_size: Size | None) -> None:
    image, mask = picture(tmp_path / "a.png", "RGB"), picture(tmp_path / "mask.png", "L", Size(12, 8))
    message = f"{mask} has 12 x 8 pixels (height x width), {image} has 8 x 12. Replace the mask."
    with pytest.raises(DataError, match=re.escape(message)):
        common_size(split_of((image, mask)), image_size)
