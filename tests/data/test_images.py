from __future__ import annotations

import errno
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from anomalib.data.utils import read_image as anomalib_image
from anomalib.data.utils import read_mask as anomalib_mask
from PIL import Image, features
from PIL.ExifTags import Base

from anomalib_tiled.config.settings import as_size
from anomalib_tiled.data.cache import open_source
from anomalib_tiled.data.image_files import LIMIT, set_limit, size_of
from anomalib_tiled.data.images import common_size, grey_mask_notes, lost_bits, read_image, read_masks
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.data.tile_dataset import AreaDataset
from anomalib_tiled.errors import ConfigurationError, DataError
from anomalib_tiled.grid import Size, TileGrid

SIZE = Size(8, 12)
ORIENTATION = Base.Orientation


def picture(path: Path, mode: str, size: Size = SIZE) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 4), dtype=np.uint8)
    image = Image.fromarray(pixels, "RGBA")
    (image if mode == "RGBA" else image.convert("RGB").convert(mode)).save(path)
    return path


def deep(path: Path, kind: type, *channels: int) -> Path:
    """More than 8 bits per channel, which Pillow does not write in all of these formats."""
    pixels = np.random.default_rng(0).uniform(0, 600, (*SIZE, *channels)).astype(kind)
    assert cv2.imwrite(str(path), pixels)
    return path


def turned(path: Path) -> Path:
    """A photograph that viewers turn by a quarter."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    with Image.open(picture(path, "RGB")) as image:
        image.save(path, exif=exif)
    return path


def transparent(path: Path) -> Path:
    with Image.open(picture(path, "P")) as image:
        image.save(path, transparency=bytes(range(256)))
    return path


def packed(path: Path) -> Path:
    """Grey of 12 bits, two values in three bytes, which cameras write and Pillow only reads."""
    values = (np.arange(SIZE.height * SIZE.width) * 40).tolist()
    data = b"".join(
        (first << 12 | second).to_bytes(3, "big") for first, second in zip(*[iter(values)] * 2, strict=True)
    )
    long, height, width = 4, *SIZE
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, long, 1, value) for tag, value in tags.items())
    header = b"II*\0" + struct.pack("<I", 8 + len(data))
    path.write_bytes(header + data + struct.pack("<H", len(tags)) + entries + bytes(4))
    return path


FILES = {
    **{f"{mode}.png": picture for mode in ("RGB", "L", "LA", "P", "1")},
    **{f"{mode}.jpg": picture for mode in ("RGB", "CMYK")},
    **{f"{mode}.tiff": picture for mode in ("RGBA", "YCbCr")},
    "RGB.bmp": picture,
    "RGBA.webp": picture,
}
SPECIAL = {
    "grey 16.png": lambda path: deep(path, np.uint16),
    "colour 16.png": lambda path: deep(path, np.uint16, 3),
    "grey 16.tiff": lambda path: deep(path, np.uint16),
    "colour 16.tiff": lambda path: deep(path, np.uint16, 3),
    "float.tiff": lambda path: deep(path, np.float32),
    "turned.jpg": turned,
    "turned.tiff": turned,
    "turned.avif": turned,
    "packed.tiff": packed,
    "transparent.png": transparent,
}


@pytest.fixture(params=[*FILES, *SPECIAL])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """One file of each format and mode."""
    path = tmp_path / request.param
    return SPECIAL[path.name](path) if path.name in SPECIAL else FILES[path.name](path, path.stem)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_images_are_read_as_anomalib_reads_them(file: Path, tmp_path: Path) -> None:
    theirs = anomalib_image(file, as_tensor=True)
    size = Size(*theirs.shape[1:])
    assert size_of(file) == size, "turned or not: Pillow turns TIFF files only"
    assert read_image(file, size).flags.writeable, "or PyTorch warns"
    split, grid = split_of((file, None)), TileGrid(size, Size(5, 7), Size(3, 5))
    for directory in (tmp_path / "cache", None):
        source = open_source(split, grid, directory)
        whole = slice(0, size.height), slice(0, size.width)
        ours = AreaDataset(source, split.samples, area=whole, grid=grid)[0].image
        assert torch.equal(ours, theirs), "to the last bit"
        for tile in grid.tiles:
            cut = AreaDataset(source, split.samples, area=(tile.rows, tile.columns), grid=grid)[0].image
            assert torch.equal(cut, theirs[:, tile.rows, tile.columns])


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_masks_are_read_as_anomalib_reads_them(file: Path) -> None:
    assert np.array_equal(read_masks([file], size_of(file)), anomalib_mask(file, as_tensor=True).numpy())


def test_several_masks_are_joined(tmp_path: Path) -> None:
    paths = []
    for number, pixels in enumerate(([[0, 1, 0, 0]], [[0, 9, 255, 0]])):  # every grey value but zero
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(np.array(pixels, np.uint8)).save(paths[-1])
    assert read_masks(paths, Size(1, 4)).tolist() == [[0, 1, 1, 0]]
    assert read_masks(paths, Size(2, 8)).tolist() == [[0, 0, 1, 1, 1, 1, 0, 0]] * 2


@pytest.mark.parametrize(
    ("name", "kind", "channels", "loss"),
    [
        ("grey.png", np.uint16, (), "anomalib reads values above 255 as white"),
        ("grey.tiff", np.uint16, (), "anomalib reads values above 255 as white"),
        ("float.tiff", np.float32, (), "anomalib cuts off fractions, and reads values above 255 as white"),
        ("colour.png", np.uint16, (3,), "anomalib keeps the upper 8 bits"),
        ("colour.tiff", np.uint16, (3,), "anomalib keeps the upper 8 bits"),
        ("grey.png", np.uint8, (), None),
        ("colour.tiff", np.uint8, (3,), None),
        ("colour.bmp", np.uint8, (3,), None),
    ],
)
def test_what_is_lost_of_more_than_8_bits(
    tmp_path: Path, name: str, kind: type, channels: tuple[int, ...], loss: str | None
) -> None:
    path = deep(tmp_path / name, kind, *channels)
    assert lost_bits(path) == loss
    with Image.open(path) as image:
        assert ((np.asarray(image) > 255).any() or channels == (3,)) or loss is None


def test_masks_of_more_than_two_values(tmp_path: Path) -> None:
    """Zeros and ones, 0 and 255, one value, bits, a palette and colours are all plain; greys between are not."""
    half = np.zeros(SIZE, np.uint8)
    half[:, 6:] = 1
    smooth = half * 255
    smooth[:, 5] = 60
    images = {
        "ones.png": Image.fromarray(half),
        "white.png": Image.fromarray(half * 255),
        "black.png": Image.fromarray(half * 0),
        "full.png": Image.fromarray(half * 0 + 255),
        "bits.png": Image.fromarray(half * 255).convert("1"),
        "palette.png": Image.fromarray(half * 255).convert("P"),
        "colour.png": Image.fromarray(half * 255).convert("RGB"),
        "smooth.png": Image.fromarray(smooth),
        "photo.jpg": Image.fromarray(smooth),
    }
    samples = []
    for name, image in images.items():
        image.save(tmp_path / name)
        samples.append(Sample("test", tmp_path / f"of_{name}", tmp_path / name, 1))
    assert grey_mask_notes(samples[:-2]) == []
    assert grey_mask_notes([]) == []
    several = [Sample("test", tmp_path / "x.png", samples[0].mask_path, 1, (samples[-2].mask_path,))]
    (note,) = grey_mask_notes([*samples, *several, *samples])
    assert note.startswith(
        f"2 of 9 masks have more than two grey values, for example {tmp_path / 'smooth.png'}: every "
    )


def test_packed_values_of_12_bits_are_read_as_they_are_and_cut_off_above_255(tmp_path: Path) -> None:
    path = packed(tmp_path / "packed.tiff")
    expected = np.minimum(np.arange(SIZE.height * SIZE.width) * 40, 255).reshape(SIZE)
    assert np.array_equal(read_image(path, SIZE), np.stack([expected] * 3, axis=-1))
    assert lost_bits(path) == "anomalib reads values above 255 as white"


def test_a_size_of_one_number_cuts_nothing_off(tmp_path: Path) -> None:
    """The whole image is squeezed to a square: a mark in the right third of a wide image stays."""
    pixels, mask = np.zeros((64, 96, 3), np.uint8), np.zeros((64, 96), np.uint8)
    pixels[:, 84:93] = mask[:, 84:93] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    size = common_size(split_of((tmp_path / "wide.png", tmp_path / "mask.png")), as_size(32))
    image, mask = read_image(tmp_path / "wide.png", size), read_masks([tmp_path / "mask.png"], size)
    assert image.shape == (32, 32, 3)
    bright = np.flatnonzero(image[16, :, 0] > 127)
    assert bright.tolist() == np.flatnonzero(mask[16]).tolist() == [28, 29, 30]


def test_another_size_is_resized_to(tmp_path: Path) -> None:
    path = picture(tmp_path / "any.png", "RGB")
    resized = read_image(path, Size(4, 6))
    assert (resized.shape, resized.dtype, resized.flags.c_contiguous) == ((4, 6, 3), np.uint8, True)
    means = np.asarray(Image.open(path), float).mean(axis=(0, 1)), resized.mean(axis=(0, 1))
    np.testing.assert_allclose(*means, atol=12)
    mask = read_masks([picture(tmp_path / "mask.png", "1")], Size(5, 7))
    assert mask.shape == (5, 7)
    assert set(np.unique(mask)) <= {0, 1}


def test_what_is_no_readable_image_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    reasons = {
        "text.png": "is no image that can be read. Replace it, or leave it out.",
        "empty.png": "is empty. Replace it, or leave it out.",
        "folder.png": "is a folder, not an image. Replace it, or leave it out.",
        "dangling.png": "is missing. Restore it, or leave it out.",
        f"{'long' * 100}.png": "cannot be read (File name too long). Shorten the name, or use a folder with a shorter",
    }
    for name, reason in reasons.items():
        for read in (size_of, lambda path: read_image(path, SIZE), lambda path: read_masks([path], SIZE)):
            with pytest.raises(DataError, match=re.escape(f"{tmp_path / name} {reason}")):
                read(tmp_path / name)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOMEM, "Cannot allocate memory"), MemoryError()],
)
def test_a_file_is_not_blamed_for_a_lack_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    Image.new("RGB", (4, 4)).save(tmp_path / "any.png")
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(type(error)) as raised:
        size_of(tmp_path / "any.png")
    assert raised.value is error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("Failed to decode frame 0"), "Failed to decode frame 0"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_damage_is_told_whatever_pillow_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    Image.new("RGB", (4, 4)).save(tmp_path / "any.png")
    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(DataError, match=rf"any\.png is damaged \({said}\)\. Replace it, or leave it out"):
        read_image(tmp_path / "any.png", SIZE)


@pytest.mark.parametrize("kind", ["device", "link to a pipe"])
def test_what_has_no_end_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "pipe.png"
    if kind == "device":
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(path)
        path = tmp_path / "link.png"
        path.symlink_to("pipe.png")
    message = f"{path.name} is a pipe, a socket or a device, not an image. Replace it by a file"
    for read in (size_of, lost_bits, lambda path: read_image(path, SIZE), lambda path: read_masks([path], SIZE)):
        with pytest.raises(DataError, match=message):
            read(path)


def test_more_pixels_than_pillow_reads_can_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "large.png", "RGB", Size(12, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    set_limit(None)
    with pytest.raises(
        DataError, match=rf"\(240 pixels\) exceeds limit of 200 pixels.*set the environment variable {LIMIT}"
    ):
        size_of(path)
    set_limit("240")
    assert read_image(path, SIZE).shape == (8, 12, 3)
    with pytest.raises(ConfigurationError, match=rf"{LIMIT} must be a number of pixels, .* but is '16k'\. Correct it"):
        set_limit("16k")


@pytest.mark.slow
def test_more_pixels_are_read_by_every_process(tmp_path: Path) -> None:
    path = picture(tmp_path / "small.png", "RGB")
    reading = (
        "from pathlib import Path; from anomalib_tiled.data.image_files import size_of; "
        f"print(size_of(Path({str(path)!r})))"
    )
    limits = {name: {**os.environ, LIMIT: limit} for name, limit in {"enough": "96", "too few": "47"}.items()}
    done = {
        name: subprocess.run([sys.executable, "-c", reading], env=limit, capture_output=True, text=True, check=False)
        for name, limit in limits.items()
    }
    assert done["enough"].stdout.strip() == "8 x 12"
    assert "(96 pixels) exceeds limit of 94 pixels" in done["too few"].stderr


@pytest.mark.parametrize("kind", ["png", "jpg", "tiff", "webp", "avif", "dds"])
def test_whatever_is_wrong_with_a_file_it_is_named(tmp_path: Path, kind: str) -> None:
    if kind == "avif" and not features.check("avif"):
        pytest.skip("Pillow was built without it")
    path = picture(tmp_path / f"any.{kind}", "RGB", Size(40, 40))
    whole, random, refusals = path.read_bytes(), np.random.default_rng(0), []
    for length in range(0, len(whole), max(1, len(whole) // 25)):
        damaged = bytearray(whole if length % 2 else whole[:length])
        for place in random.integers(0, max(1, len(damaged)), size=6 if damaged else 0):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            size_of(path)
            read_image(path, Size(40, 40))
        except DataError as error:  # anything else would be a traceback
            refusals.append(str(error))
    assert len(refusals) > 5
    assert [each for each in refusals if not each.startswith(str(path))] == []


def split_of(*paths: tuple[Path, Path | None]) -> Split:
    return Split(tuple(Sample("train", image, mask, 0) for image, mask in paths))


def test_images_of_several_sizes_need_one_to_be_resized_to(tmp_path: Path) -> None:
    first, second = picture(tmp_path / "a.png", "RGB"), picture(tmp_path / "b.png", "RGB", Size(4, 4))
    assert common_size(split_of((first, first), (first, None)), None) == SIZE
    split = split_of((first, None), (second, None))
    assert common_size(split, Size(4, 4)) == Size(4, 4)
    message = "but there are 2: 4 x 4 (b.png); 8 x 12 (a.png). Set tiling.image_size to [height, width]"
    with pytest.raises(DataError, match=re.escape(message)):
        common_size(split, None)


def test_a_mask_of_another_size_than_its_image(tmp_path: Path) -> None:
    image, mask = picture(tmp_path / "a.png", "RGB"), picture(tmp_path / "mask.png", "L", Size(12, 8))
    message = f"{mask} has 12 x 8 pixels (height x width), {image} has 8 x 12. Replace the mask."
    with pytest.raises(DataError, match=re.escape(message)):
        common_size(split_of((image, mask)), Size(4, 4))
