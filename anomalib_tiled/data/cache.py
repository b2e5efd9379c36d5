"""The image cache: every image is decoded once, and a tile is read without touching the rest of its image.

A cache is a folder with a file for each block between cuts. The pixels of one block of one image lie next to each
other on the disk.

    image_r00_c00.npy   image_r00_c01.npy   ...   mask_r00_c00.npy   ...   checksums.npy   index.json

Blocks that were cut short or changed are never used; their images are decoded again. A cache is made by one process
at a time, completely or not at all, after a check for free space.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from hashlib import blake2b
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Protocol
from zlib import crc32

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from anomalib_tiled.data.block_files import BlockFiles
from anomalib_tiled.data.images import Pixels, errors_naming_file, read_image, read_masks
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.errors import RunFolderError, StorageError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.system.files import is_file, read_json, write_json
from anomalib_tiled.system.os_errors import storage_errors
from anomalib_tiled.system.progress import progress_bar, track
from anomalib_tiled.system.temporary import TEMPORARY, remove_abandoned, working_folder

Version = tuple[str, int, int]

logger = logging.getLogger(__name__)

INDEX = "index.json"
"""Contents of a cache; written last, so its presence means that the cache is complete."""

CHECKSUMS = "checksums.npy"
"""CRC32 of each part of each image, then of each mask."""


class PixelSource(Protocol):
    """Where pixels come from: a cache, or the files themselves."""

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the decoded files, and of how they are cut; ``None`` if reading a tile decodes its image."""

    def image(self, sample: Sample, rows: slice, columns: slice) -> Pixels:
        """Give a rectangle of an image, shape (rows, columns, 3)."""

    def mask(self, sample: Sample, rows: slice, columns: slice) -> Pixels | None:
        """Give a rectangle of a mask, shape (rows, columns), ones where it is anomalous; ``None`` if unknown."""


@dataclass(frozen=True)
class DecodedFiles:
    """Pixels decoded from the files on every request.

    Args:
        image_size: Height and width that images are resized to.
        has_masks: Whether a normal image has an empty mask.
    """

    image_size: Size
    has_masks: bool

    @property
    def fingerprint(self) -> None:
        """``None``: a tile cannot be read without decoding its image."""
        return None

    def image(self, sample: Sample, rows: slice, columns: slice) -> Pixels:
        """Decode the image and give a rectangle of it, shape (rows, columns, 3)."""
        return read_image(sample.image_path, self.image_size)[rows, columns]

    def mask(self, sample: Sample, rows: slice, columns: slice) -> Pixels | None:
        """Decode the mask and give a rectangle of it, shape (rows, columns)."""
        if sample.masks:
            return read_masks(sample.masks, self.image_size)[rows, columns]
        return _mask_without_file(sample, rows, columns) if self.has_masks else None

    def check(self, split: Split) -> None:
        """Decode every file once, to find damaged ones before training begins.

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
        grid: The grid whose cuts divide the images into blocks.
        images: The images, in the order of the files.
        masks: The mask files of each joined mask, in the order of the files.
        versions: Path, size in bytes and modification time of each decoded file.
    """

    folder: Path
    grid: TileGrid
    images: tuple[Path, ...] = field(repr=False)
    masks: tuple[tuple[Path, ...], ...] = field(repr=False)
    versions: list[Version] = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """The name of the folder."""
        return self.folder.name

    @property
    def bytes(self) -> int:
        """Size on the disk, in bytes."""
        height, width = self.grid.image_size
        return height * width * (3 * len(self.images) + len(self.masks))

    def image(self, sample: Sample, rows: slice, columns: slice) -> Pixels:
        """Read a rectangle of whole blocks of an image, shape (rows, columns, 3)."""
        return self._images.read(sample.image_path, rows, columns)

    def mask(self, sample: Sample, rows: slice, columns: slice) -> Pixels | None:
        """Read a rectangle of whole blocks of a mask, shape (rows, columns)."""
        if sample.masks:
            return self._masks.read(sample.masks, rows, columns)
        return _mask_without_file(sample, rows, columns) if self.masks else None

    @cached_property
    def _images(self) -> BlockFiles[Path]:
        decode = partial(read_image, size=self.grid.image_size)
        return BlockFiles(self.folder, "image", self.grid.blocks, self.images, decode, (3,))

    @cached_property
    def _masks(self) -> BlockFiles[tuple[Path, ...]]:
        decode = partial(read_masks, size=self.grid.image_size)
        return BlockFiles(self.folder, "mask", self.grid.blocks, self.masks, decode)

    def open(self) -> bool:
        """Read the checksums.

        Returns:
            Whether the cache exists and is complete. Its contents are compared with the checksums at each read.
        """
        if not is_file(self.folder / INDEX):
            return False
        checksums = self._read_checksums()
        if checksums is None or not (self._images.have_their_sizes() and self._masks.have_their_sizes()):
            logger.warning(
                "The image cache %s is not used, because files in it are missing, cut short or changed.", self.folder
            )
            return False
        self._images.checksums[:], self._masks.checksums[:] = np.split(checksums, [len(self.images)])
        return True

    def _read_checksums(self) -> NDArray[np.uint32] | None:
        try:
            noted = read_json(self.folder / INDEX)["checksums"]
            content = (self.folder / CHECKSUMS).read_bytes()
        except (OSError, RunFolderError, KeyError):
            return None
        return np.load(BytesIO(content)) if crc32(content) == noted else None

    def fill(self) -> None:
        """Decode all images and masks into the folder, which must exist and be empty."""
        self._images.fill()
        self._masks.fill()
        np.save(self.folder / CHECKSUMS, np.concatenate([self._images.checksums, self._masks.checksums]))
        content = {
            "images": [str(path) for path in self.images],
            "masks": [[str(path) for path in paths] for paths in self.masks],
            "files": self.versions,
            "checksums": crc32((self.folder / CHECKSUMS).read_bytes()),
        }
        write_json(self.folder / INDEX, content)


def open_source(split: Split, grid: TileGrid, directory: Path | None, *, build: bool = True) -> PixelSource:
    """Open the cache of a split.

    Args:
        split: All images and masks.
        grid: The grid that cuts them.
        directory: Folder of all caches; ``None`` to decode images on every request.
        build: Whether to fill a missing cache; otherwise images are decoded on every request.

    Raises:
        DataError: An image or mask cannot be decoded.
        StorageError: The cache does not fit on the disk.
    """
    decoded = DecodedFiles(grid.image_size, split.has_masks)
    if directory is None:
        return decoded
    images = tuple(dict.fromkeys(sample.image_path for sample in split.samples))
    masks = tuple(dict.fromkeys(sample.masks for sample in split.samples if sample.masks))
    files = [*images, *chain.from_iterable(masks)]
    if not build and not all(map(is_file, files)):
        return decoded  # images that are not needed now may be missing or inaccessible
    versions = [_version(path) for path in files]
    folder = directory / _key(grid, versions, [len(paths) for paths in masks])
    cache = ImageCache(folder, grid, images, masks, versions)
    if cache.open():
        return cache
    if not build:
        return decoded
    make_folder(
        folder, lambda temporary: replace(cache, folder=temporary).fill(), is_made=cache.open, needed=cache.bytes
    )
    return cache if cache.open() else decoded


def _key(grid: TileGrid, versions: Sequence[Version], joined: Sequence[int]) -> str:
    """Name a cache after everything that decides its contents."""
    content = json.dumps([grid.image_size, grid.row_cuts, grid.column_cuts, versions, joined])
    return blake2b(content.encode(), digest_size=12).hexdigest()


def _version(path: Path) -> Version:
    with errors_naming_file(path):
        status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


def _mask_without_file(sample: Sample, rows: slice, columns: slice) -> Pixels | None:
    """Give an empty mask for a normal image; masks of others are unknown."""
    if sample.label != 0:
        return None
    return np.zeros((rows.stop - rows.start, columns.stop - columns.start), dtype=np.uint8)


def make_folder(folder: Path, fill: Callable[[Path], None], *, is_made: Callable[[], bool], needed: int) -> None:
    """Fill a folder with a temporary name and rename it when it is complete.

    If another process makes the same folder, this one waits, and takes over if the other is killed.

    Args:
        folder: The folder; an existing one that cannot be used is removed.
        fill: Fills the given folder.
        is_made: Whether the folder can be used.
        needed: Size of the folder in bytes.

    Raises:
        StorageError: There is too little free space, which is checked first, or the disk cannot be written. No files
            are left behind.
    """
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            if is_made():  # another process has made it meanwhile, and reads it
                return
            shutil.rmtree(folder, ignore_errors=True)
            remove_abandoned(folder.parent.glob(TEMPORARY))
            _check_space(folder.parent, needed)
            try:
                with working_folder(folder.parent, folder.name) as work:
                    fill(work)
                    work.rename(folder)
            except OSError:
                if not is_made():  # another machine, which the lock does not reach, may have been faster
                    raise
    logger.info("The image cache %s takes %s.", folder, _readable(needed))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process makes the folder."""
    path = folder.with_name(f".{folder.name}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("Waiting for another process, which decodes the same images into %s.", folder)
        with progress_bar() as bar:
            bar.add_task("Waiting for another run that decodes the same images", total=None)
            lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # a process that has opened it notices that, and makes a new one
        lock.release()


def _check_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if needed > free:
        message = (
            f"The image cache needs {_readable(needed)} in {directory}, but only {_readable(free)} are free. "
            "Make room, point cache.directory to another disk, or set cache to null (slower)."
        )
        raise StorageError(message)


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"  # noqa: PLR2004  # bytes in a gigabyte
