"""The image cache: every image is decoded once, and a tile is read without touching the rest of its image.

A cache is a folder of plain ``.npy`` files, one for each block between cuts, of shape
(images, rows, columns, channels). The pixels of one block of one image lie next to each other on the disk.

    image_r00_c00.npy   image_r00_c01.npy   ...   mask_r00_c00.npy   ...   index.json

Files are read with ordinary reads, not mapped, so what was read does not count as memory of the process.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import chain
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from anomalib_tiled.data.images import naming, read_image, read_masks
from anomalib_tiled.errors import StorageError
from anomalib_tiled.files import storage_errors, write_json
from anomalib_tiled.progress import track

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from anomalib_tiled.data.split import Sample, Split
    from anomalib_tiled.grid import Block, Size, TileGrid

    Pixels = NDArray[np.uint8]

File = TypeVar("File", bound="Hashable")

COMPLETE = "index.json"
HEADER = 128
"""Bytes before the pixels in a ``.npy`` file with a short header."""


class PixelSource(Protocol):
    """Where pixels come from: a cache, or the files themselves."""

    def image(self, sample: Sample, rows: slice, columns: slice) -> Pixels:
        """Give a rectangle of an image, shape (rows, columns, 3)."""

    def mask(self, sample: Sample, rows: slice, columns: slice) -> Pixels | None:
        """Give a rectangle of a mask, shape (rows, columns), ones where it is anomalous; ``None`` if unknown."""


@dataclass(frozen=True)
class DecodedFiles:
    """Pixels decoded from the files each time they are asked for.

    Args:
        image_size: Height and width that images are resized to.
        has_masks: Whether a normal image has an empty mask.
    """

    image_size: Size
    has_masks: bool

    def image(self, sample: Sample, rows: slice, columns: slice) -> Pixels:
        """Decode the image and give a rectangle of it, shape (rows, columns, 3)."""
        return read_image(sample.image_path, self.image_size)[rows, columns]

    def mask(self, sample: Sample, rows: slice, columns: slice) -> Pixels | None:
        """Decode the mask and give a rectangle of it, shape (rows, columns)."""
        if sample.masks:
            return read_masks(sample.masks, self.image_size)[rows, columns]
        return _mask_without_file(sample, rows, columns) if self.has_masks else None

    def check(self, split: Split) -> None:
        """Decode every file once, so that a damaged one is known before training begins.

        Raises:
            DataError: An image or mask cannot be decoded.
        """
        for sample in track(split.samples, "Checking images"):
            read_image(sample.image_path, self.image_size)
            if sample.masks:
                read_masks(sample.masks, self.image_size)


@dataclass(frozen=True)
class ImageCache:
    """Decoded images in a folder.

    Args:
        folder: The folder of this cache.
        grid: The grid whose cuts part the images.
        images: Position of each image in the files.
        masks: Position of the mask of each image in the files, by the paths that it is joined from.
    """

    folder: Path
    grid: TileGrid
    images: dict[Path, int] = field(repr=False)
    masks: dict[tuple[Path, ...], int] = field(repr=False)

    def image(self, sample: Sample, rows: slice, columns: slice) -> Pixels:
        """Read a rectangle of whole blocks of an image, shape (rows, columns, 3)."""
        return self._read("image", self.images[sample.image_path], rows, columns)

    def mask(self, sample: Sample, rows: slice, columns: slice) -> Pixels | None:
        """Read a rectangle of whole blocks of a mask, shape (rows, columns)."""
        if sample.masks:
            return self._read("mask", self.masks[sample.masks], rows, columns)
        return _mask_without_file(sample, rows, columns) if self.masks else None

    def _read(self, kind: str, position: int, rows: slice, columns: slice) -> Pixels:
        channels = (3,) if kind == "image" else ()
        area = np.empty((rows.stop - rows.start, columns.stop - columns.start, *channels), dtype=np.uint8)
        for block in self.grid.blocks:
            if _inside(block.rows, rows) and _inside(block.columns, columns):
                target = area[_moved(block.rows, rows.start), _moved(block.columns, columns.start)]
                offset = HEADER + position * target.size
                pixels = np.fromfile(self.folder / _file_name(kind, block), np.uint8, target.size, offset=offset)
                target[...] = pixels.reshape(target.shape)
        return area


def open_source(split: Split, grid: TileGrid, directory: Path | None, *, build: bool = True) -> PixelSource:
    """Open the cache of a split.

    Args:
        split: All images and masks.
        grid: How they are cut.
        directory: Folder that holds caches; ``None`` to decode images each time they are needed.
        build: Whether to fill the cache if it is not there; otherwise images are decoded when they are needed.

    Raises:
        DataError: An image or mask cannot be decoded.
        StorageError: The cache does not fit on the disk.
    """
    decoded = DecodedFiles(grid.image_size, split.has_masks)
    if directory is None:
        return decoded
    images = _positions(sample.image_path for sample in split.samples)
    masks = _positions(sample.masks for sample in split.samples if sample.masks)
    files = [*images, *chain.from_iterable(masks)]
    if not build and not all(path.is_file() for path in files):
        return decoded  # images that are not needed now may be elsewhere
    cache = ImageCache(directory / _key(grid, files, [len(paths) for paths in masks]), grid, images, masks)
    if not (cache.folder / COMPLETE).exists():
        if not build:
            return decoded
        _build(cache)
    return cache


def _build(cache: ImageCache) -> None:
    """Fill a folder with a temporary name and rename it when it is complete."""
    temporary = _temporary(cache.folder, str(os.getpid()))
    with storage_errors(cache.folder):
        cache.folder.parent.mkdir(parents=True, exist_ok=True)
        _check_space(cache)
        _remove_leftovers(cache.folder)
        temporary.mkdir()
        try:
            _fill(temporary, cache)
            if (cache.folder / COMPLETE).exists():  # finished by another run in the meantime, which is reading it
                return
            shutil.rmtree(cache.folder, ignore_errors=True)
            temporary.rename(cache.folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove what processes of this machine that were killed while filling this cache have left."""
    for temporary in folder.parent.glob(_temporary(folder, "*").name):
        process = temporary.name.split(".")[-2]
        if process == str(os.getpid()) or not _is_running(int(process)):
            shutil.rmtree(temporary, ignore_errors=True)


def _temporary(folder: Path, process: str) -> Path:
    """Name a folder to fill; with the machine, because others may fill a cache on a shared disk."""
    return folder.with_name(f".{folder.name}.{platform.node()}.{process}.tmp")


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _fill(folder: Path, cache: ImageCache) -> None:
    size = cache.grid.image_size
    kinds: list[tuple[str, list[Callable[[], Pixels]]]] = [
        ("image", [partial(read_image, path, size) for path in cache.images]),
        ("mask", [partial(read_masks, paths, size) for paths in cache.masks]),
    ]
    for kind, readers in kinds:
        if not readers:
            continue
        for block in cache.grid.blocks:
            _write_header(folder / _file_name(kind, block), block, len(readers), 3 if kind == "image" else None)
        for read in track(readers, f"Reading {kind}s"):
            pixels = read()
            for block in cache.grid.blocks:
                with (folder / _file_name(kind, block)).open("ab") as file:
                    file.write(np.ascontiguousarray(pixels[block.rows, block.columns]).data)
    masks = [[str(path) for path in paths] for paths in cache.masks]
    write_json(folder / COMPLETE, {"images": [str(path) for path in cache.images], "masks": masks})


def _write_header(path: Path, block: Block, count: int, channels: int | None) -> None:
    height, width = block.rows.stop - block.rows.start, block.columns.stop - block.columns.start
    shape = (count, height, width) if channels is None else (count, height, width, channels)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        if file.tell() != HEADER:
            message = f"The .npy header of {path} must take {HEADER} bytes, but takes {file.tell()}."
            raise RuntimeError(message)


def _check_space(cache: ImageCache) -> None:
    height, width = cache.grid.image_size
    needed = height * width * (3 * len(cache.images) + len(cache.masks))
    free = shutil.disk_usage(cache.folder.parent).free
    if needed > free:
        message = (
            f"The image cache needs {_readable(needed)} in {cache.folder.parent}, but {_readable(free)} are free. "
            "Make room, point cache.directory to another disk, or set cache to null (slower)."
        )
        raise StorageError(message)


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"  # noqa: PLR2004  # bytes in a gigabyte


def _key(grid: TileGrid, files: list[Path], joined: list[int]) -> str:
    """Name a cache after everything that decides what is in it."""
    status = [_version(path) for path in files]
    content = json.dumps([grid.image_size, grid.row_cuts, grid.column_cuts, status, joined])
    return blake2b(content.encode(), digest_size=12).hexdigest()


def _version(path: Path) -> tuple[str, int, int]:
    with naming(path):
        status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


def _positions(files: Iterable[File]) -> dict[File, int]:
    return {file: position for position, file in enumerate(dict.fromkeys(files))}


def _file_name(kind: str, block: Block) -> str:
    return f"{kind}_r{block.row:02d}_c{block.column:02d}.npy"


def _inside(part: slice, whole: slice) -> bool:
    return bool(whole.start <= part.start and part.stop <= whole.stop)


def _moved(part: slice, origin: int) -> slice:
    return slice(part.start - origin, part.stop - origin)


def _mask_without_file(sample: Sample, rows: slice, columns: slice) -> Pixels | None:
    """Give an empty mask for a normal image; for others nothing is known."""
    if sample.label != 0:
        return None
    return np.zeros((rows.stop - rows.start, columns.stop - columns.start), dtype=np.uint8)
