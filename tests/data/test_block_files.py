"""Parts of images in files; damaged ones are noticed and never used."""

from __future__ import annotations

import logging
import shutil
import zlib
from collections import Counter
from dataclasses import replace
from io import BytesIO
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


@pytest.fixture
def decoded() -> list[int]:
    """Positions of the images that were decoded."""
    return []


@pytest.fixture
def files(tmp_path: Path, decoded: list[int]) -> BlockFiles:
    def decode(position: int) -> np.ndarray:
        decoded.append(position)
        return IMAGES[position]

    files = BlockFiles(tmp_path, "image", GRID, 3, decode, (3,))
    files.fill()
    decoded.clear()
    return files


@pytest.mark.parametrize("channels", [(3,), ()])
def test_what_is_written_is_read(grid: TileGrid, tmp_path: Path, channels: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, *grid.image_size, *channels), np.uint8)
    files = BlockFiles(tmp_path, "any", grid, 2, images.__getitem__, channels)
    files.fill()
    assert files.have_their_sizes()
    for position, image in enumerate(images):
        for tile in grid.tiles:
            assert np.array_equal(files.read(position, tile.rows, tile.columns), image[tile.rows, tile.columns])
    for block in grid.blocks:
        parts = np.load(tmp_path / f"any_r{block.row:02d}_c{block.column:02d}.npy")
        assert np.array_equal(parts["pixels"], images[:, block.rows, block.columns])
        assert parts["crc32"].tolist() == [zlib.crc32(part.tobytes()) for part in parts["pixels"]]
    assert files.bytes == sum(path.stat().st_size - HEADER for path in tmp_path.iterdir())


def test_each_file_is_opened_once_for_all_images_that_memory_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three images of 288 bytes, two of which may be in memory."""
    opened, in_memory, opening = Counter[str](), list[list[int]](), Path.open

    def counting(path: Path, *arguments: object, **options: object) -> object:
        opened[path.name] += 1
        return opening(path, *arguments, **options)

    append = BlockFiles._append
    monkeypatch.setattr(
        BlockFiles, "_append", lambda self, images: (in_memory.append(len(images)), append(self, images))
    )
    monkeypatch.setattr(block_files, "BYTES_AT_ONCE", 2 * 288 + 287)
    monkeypatch.setattr(Path, "open", counting)
    BlockFiles(tmp_path, "image", GRID, 3, IMAGES.__getitem__, (3,)).fill()
    assert in_memory == [2, 1]
    assert len(opened) == len(GRID.blocks)
    assert set(opened.values()) == {3}, "for the header, and for each batch"


def test_an_image_that_is_larger_than_a_batch_comes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_files, "BYTES_AT_ONCE", 1)
    files = BlockFiles(tmp_path, "image", GRID, 3, IMAGES.__getitem__, (3,))
    files.fill()
    assert all(np.array_equal(files.read(position, *WHOLE), IMAGES[position]) for position in range(3))


def test_there_are_no_files_without_images(tmp_path: Path) -> None:
    files = BlockFiles(tmp_path, "mask", GRID, 0, pytest.fail)
    files.fill()
    assert files.have_their_sizes()
    assert not list(tmp_path.iterdir())


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_one_other_bit_is_noticed_at_every_read(
    files: BlockFiles, tmp_path: Path, decoded: list[int], caplog: pytest.LogCaptureFixture
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
def test_of_a_file_that_was_cut_short_the_images_are_decoded(files: BlockFiles, tmp_path: Path, left: int) -> None:
    path = tmp_path / "image_r00_c00.npy"
    path.write_bytes(path.read_bytes()[:left])
    assert not files.have_their_sizes()
    for position in (2, 0, 1):
        assert np.array_equal(files.read(position, *WHOLE), IMAGES[position])


def test_files_that_are_gone_are_done_without(
    files: BlockFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(tmp_path)
    assert not files.have_their_sizes()
    assert np.array_equal(files.read(1, *WHOLE), IMAGES[1])
    assert len(caplog.records) == len(GRID.blocks)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_pixels_of_an_image_that_has_changed_as_well_are_not_used(files: BlockFiles, tmp_path: Path) -> None:
    path = tmp_path / "image_r00_c00.npy"
    flip(path, HEADER)
    message = f"{path} was cut short or changed, and image 0 cannot be decoded in its place, .* Delete {tmp_path}; the"
    with pytest.raises(DataError, match=message):
        replace(files, decode=lambda _: IMAGES[1]).read(0, *WHOLE)


def test_where_only_a_checksum_was_changed_the_pixels_are_those_of_the_image(
    files: BlockFiles, tmp_path: Path, decoded: list[int]
) -> None:
    block = GRID.blocks[0]
    flip(tmp_path / "image_r00_c00.npy", HEADER + IMAGES[0, block.rows, block.columns].size)
    assert np.array_equal(files.read(0, *WHOLE), IMAGES[0])
    assert decoded == [0]


def test_files_of_earlier_versions_are_read_with_their_checksums(tmp_path: Path, decoded: list[int]) -> None:
    checksums = np.zeros((3, len(GRID.blocks)), np.uint32)
    for number, block in enumerate(GRID.blocks):
        parts = np.ascontiguousarray(IMAGES[:, block.rows, block.columns])
        np.save(tmp_path / f"image_{block.name}.npy", parts)
        checksums[:, number] = [zlib.crc32(part.data) for part in parts]
    files = BlockFiles(tmp_path, "image", GRID, 3, pytest.fail, (3,), checksums)
    assert files.have_their_sizes()
    assert files.bytes == IMAGES.size
    for position in range(3):
        for tile in GRID.tiles:
            read = files.read(position, tile.rows, tile.columns)
            assert np.array_equal(read, IMAGES[position, tile.rows, tile.columns])
    flip(tmp_path / "image_r01_c01.npy", -1)
    with pytest.raises(DataError, match="was cut short or changed"):
        replace(files, decode=lambda _: IMAGES[0]).read(2, *WHOLE)


@pytest.mark.parametrize("shape", [(1, 1, 3), (4096, 4096, 3), (16_384, 16_384)])
def test_headers_have_one_length(shape: tuple[int, ...]) -> None:
    dtype = np.dtype([("pixels", np.uint8, shape), ("crc32", "<u4")])
    header = block_files._header(dtype, 10**6)
    file = BytesIO(header)
    assert np.lib.format.read_magic(file) == (1, 0)
    assert np.lib.format.read_array_header_1_0(file) == ((10**6,), False, dtype)
    assert len(header) == file.tell() == HEADER
