"""Parts of images in files; damaged ones are noticed, repaired and never used."""

from __future__ import annotations

import logging
import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomalib_tiled.data import block_files
from anomalib_tiled.data.block_files import HEADER, BlockFiles
from anomalib_tiled.errors import DataError
from anomalib_tiled.grid import Size, TileGrid

GRID = TileGrid(Size(8, 12), Size(4, 5), Size(3, 5))
WHOLE = slice(0, 8), slice(0, 12)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), np.uint8)


def never() -> np.ndarray:
    pytest.fail("decoded")


def again(position: int) -> Callable[[], np.ndarray]:
    return lambda: IMAGES[position]


@pytest.fixture
def files(tmp_path: Path) -> BlockFiles:
    files = BlockFiles(tmp_path, "image", GRID.blocks, len(IMAGES), 3)
    files.create()
    for position, image in enumerate(IMAGES):
        files.append(position, image)
    return files


@pytest.mark.parametrize("channels", [3, None])
def test_what_is_written_is_read(grid: TileGrid, tmp_path: Path, channels: int | None) -> None:
    shape = (*grid.image_size, *([] if channels is None else [channels]))
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    files = BlockFiles(tmp_path, "any", grid.blocks, 2, channels)
    files.create()
    for position, image in enumerate(images):
        files.append(position, image)
    assert files.have_their_sizes()
    for position, image in enumerate(images):
        for tile in grid.tiles:
            read = files.read(position, (tile.rows, tile.columns), never)
            assert np.array_equal(read, image[tile.rows, tile.columns])
    for number, block in enumerate(grid.blocks):
        array = np.load(tmp_path / f"any_r{block.row:02d}_c{block.column:02d}.npy")
        assert np.array_equal(array, images[:, block.rows, block.columns])
        assert files.checksums[:, number].tolist() == [zlib.crc32(part.tobytes()) for part in array]


def test_there_are_no_files_without_images(tmp_path: Path) -> None:
    files = BlockFiles(tmp_path, "mask", GRID.blocks, 0, None)
    files.create()
    assert files.have_their_sizes()
    assert not list(tmp_path.iterdir())


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_one_other_bit_is_noticed_and_repaired(
    files: BlockFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "image_r01_c01.npy"
    before = path.read_bytes()
    flip(path, (HEADER + len(before)) // 2)
    assert np.array_equal(files.read(0, WHOLE, never), IMAGES[0]), "its neighbours are as they were"
    assert not caplog.messages
    assert np.array_equal(files.read(1, WHOLE, again(1)), IMAGES[1])
    assert caplog.messages == [f"{path} is missing, cut short or changed. Decoding image 1 again."]
    assert path.read_bytes() == before
    assert np.array_equal(files.read(1, WHOLE, never), IMAGES[1])


@pytest.mark.parametrize("left", [0, HEADER - 1, HEADER, HEADER + 1])
def test_a_file_that_was_cut_short_is_repaired(
    files: BlockFiles, tmp_path: Path, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert np.array_equal(files.read(2, WHOLE, never), IMAGES[2])
    path = tmp_path / "image_r00_c00.npy"
    before = path.read_bytes()
    path.write_bytes(before[:left])
    assert not files.have_their_sizes()
    for _ in range(2):
        for position in (2, 0, 1):
            assert np.array_equal(files.read(position, WHOLE, again(position)), IMAGES[position])
    assert len(caplog.messages) == 3, "each image once"
    assert path.read_bytes()[HEADER:] == before[HEADER:]


def test_files_that_are_gone_are_done_without(
    files: BlockFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(tmp_path)
    assert not files.have_their_sizes()
    assert np.array_equal(files.read(1, WHOLE, again(1)), IMAGES[1])
    assert len(caplog.records) == len(GRID.blocks)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_pixels_of_an_image_that_has_changed_as_well_are_not_put_back(files: BlockFiles, tmp_path: Path) -> None:
    path = tmp_path / "image_r00_c00.npy"
    flip(path, HEADER)
    before = path.read_bytes()
    message = f"{path} was cut short or changed, and image 0 cannot be restored, .* Delete {tmp_path}; the next fit"
    with pytest.raises(DataError, match=message):
        files.read(0, WHOLE, again(1))
    assert path.read_bytes() == before


def test_a_part_is_compared_once(files: BlockFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def note(part: np.ndarray) -> int:
        compared.append(len(part))
        return zlib.crc32(part)

    monkeypatch.setattr(block_files, "crc32", note)
    area = GRID.blocks[0].rows, GRID.blocks[0].columns
    for _ in range(3):
        files.read(0, area, never)
    assert len(compared) == 1
    for _ in range(3):
        files.read(0, WHOLE, never)
        files.read(1, area, never)
    assert len(compared) == len(GRID.blocks) + 1


@pytest.mark.parametrize("who", ["this process", "another one"])
def test_parts_before_one_that_was_put_back_are_compared_anew(files: BlockFiles, tmp_path: Path, who: str) -> None:
    """Whoever writes past the end of a file leaves zeros before it."""
    for position in range(3):
        files.read(position, WHOLE, never)
    path = tmp_path / "image_r00_c00.npy"
    path.write_bytes(b"")
    other = replace(files)
    other.checksums[:] = files.checksums
    (files if who == "this process" else other).read(2, WHOLE, again(2))
    os.utime(path, ns=(10**18, 10**18))  # the clock of files is too coarse for a test
    for position in range(3):
        assert np.array_equal(files.read(position, WHOLE, again(position)), IMAGES[position])


def test_a_part_that_is_put_back_in_the_same_moment(files: BlockFiles, tmp_path: Path) -> None:
    path = tmp_path / "image_r00_c00.npy"
    os.utime(path, ns=(10**18, 10**18))
    for position in range(3):
        files.read(position, WHOLE, never)
    path.write_bytes(path.read_bytes()[:HEADER])
    os.utime(path, ns=(10**18, 10**18))
    files.read(2, WHOLE, again(2))
    os.utime(path, ns=(10**18, 10**18))
    assert np.array_equal(files.read(0, WHOLE, again(0)), IMAGES[0])
