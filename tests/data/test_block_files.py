"""Parts of images in files; damaged ones are noticed and never used."""

from __future__ import annotations

import logging
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomalib_tiled.data.block_files import HEADER, BlockFiles
from anomalib_tiled.errors import DataError
from anomalib_tiled.grid import Size, TileGrid

GRID = TileGrid(Size(8, 12), Size(4, 5), Size(3, 5))
WHOLE = slice(0, 8), slice(0, 12)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), np.uint8)


@pytest.fixture
def decoded() -> list[int]:
    """Positions of the images that were decoded."""
    return []


@pytest.fixture
def files(tmp_path: Path, decoded: list[int]) -> BlockFiles[int]:
    def decode(position: int) -> np.ndarray:
        decoded.append(position)
        return IMAGES[position]

    files = BlockFiles(tmp_path, "image", GRID.blocks, range(3), decode, (3,))
    files.fill()
    decoded.clear()
    return files


@pytest.mark.parametrize("channels", [(3,), ()])
def test_what_is_written_is_read(grid: TileGrid, tmp_path: Path, channels: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, *grid.image_size, *channels), np.uint8)
    files = BlockFiles(tmp_path, "any", grid.blocks, range(2), images.__getitem__, channels)
    files.fill()
    assert files.have_their_sizes()
    for position, image in enumerate(images):
        for tile in grid.tiles:
            assert np.array_equal(files.read(position, tile.rows, tile.columns), image[tile.rows, tile.columns])
    for number, block in enumerate(grid.blocks):
        array = np.load(tmp_path / f"any_r{block.row:02d}_c{block.column:02d}.npy")
        assert np.array_equal(array, images[:, block.rows, block.columns])
        assert files.checksums[:, number].tolist() == [zlib.crc32(part.tobytes()) for part in array]


def test_there_are_no_files_without_images(tmp_path: Path) -> None:
    files = BlockFiles(tmp_path, "mask", GRID.blocks, (), pytest.fail)
    files.fill()
    assert files.have_their_sizes()
    assert not list(tmp_path.iterdir())


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_one_other_bit_is_noticed_at_every_read(
    files: BlockFiles[int], tmp_path: Path, decoded: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "image_r01_c01.npy"
    files.read(1, *WHOLE)
    flip(path, (HEADER + path.stat().st_size) // 2)
    before = path.read_bytes()
    assert np.array_equal(files.read(0, *WHOLE), IMAGES[0]), "its neighbours are as they were"
    assert not decoded
    for _ in range(2):
        assert np.array_equal(files.read(1, *WHOLE), IMAGES[1])
    assert decoded == [1, 1]
    message = f"{path} is missing, cut short or changed. Decoding image 1 again, which is slow. Delete {tmp_path} after"
    assert caplog.messages == 2 * [f"{message} the run."]
    assert path.read_bytes() == before, "nothing is written to a file that others may be reading"


@pytest.mark.parametrize("left", [0, HEADER - 1, HEADER, HEADER + 1])
def test_of_a_file_that_was_cut_short_the_images_are_decoded(files: BlockFiles[int], tmp_path: Path, left: int) -> None:
    path = tmp_path / "image_r00_c00.npy"
    path.write_bytes(path.read_bytes()[:left])
    assert not files.have_their_sizes()
    for position in (2, 0, 1):
        assert np.array_equal(files.read(position, *WHOLE), IMAGES[position])


def test_files_that_are_gone_are_done_without(
    files: BlockFiles[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(tmp_path)
    assert not files.have_their_sizes()
    assert np.array_equal(files.read(1, *WHOLE), IMAGES[1])
    assert len(caplog.records) == len(GRID.blocks)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_pixels_of_an_image_that_has_changed_as_well_are_not_used(files: BlockFiles[int], tmp_path: Path) -> None:
    path = tmp_path / "image_r00_c00.npy"
    flip(path, HEADER)
    message = f"{path} was cut short or changed, and image 0 cannot be decoded in its place, .* Delete {tmp_path}; the"
    changed = replace(files, decode=lambda _: IMAGES[1])
    changed.checksums[:] = files.checksums
    with pytest.raises(DataError, match=message):
        changed.read(0, *WHOLE)
