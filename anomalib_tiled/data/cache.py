"""The image cache: every image is decoded once, and a tile is read without touching the rest of its image.

A cache is a folder with a file for each block between cuts. The pixels of one block of one image lie next to each
other on the disk, and their checksum after them, so reading a tile takes neither memory nor time for other tiles.

    image_r00_c00.npy   image_r00_c01.npy   ...   mask_r00_c00.npy   ...   files.csv   index.json

Blocks that were cut short or changed are never used; their images are decoded again. A cache is made by one process
at a time, completely or not at all, after a check for free space. Caches of earlier versions are read as they are:
their block files hold pixels alone, and all checksums are in a file of their own, which is read whole.

    image_r00_c00.npy   image_r00_c01.npy   ...   mask_r00_c00.npy   ...   checksums.npy   index.json
"""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from io import BytesIO
from itertools import chain
from pathlib import Path
from socket import gethostname
from typing import Protocol
from zlib import crc32

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from anomalib_tiled.data.block_files import BlockFiles
from anomalib_tiled.data.image_files import errors_naming_file
from anomalib_tiled.data.images import Pixels, read_image, read_masks
from anomalib_tiled.data.names import Names
from anomalib_tiled.data.scope import EVERYTHING, Scope
from anomalib_tiled.data.split import Sample, Split, joined_masks
from anomalib_tiled.data.split_table import BETWEEN_MASKS, SplitTable
from anomalib_tiled.errors import DataError, RunFolderError, StorageError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.system.files import is_file, open_table, read_json, write_json
from anomalib_tiled.system.os_errors import storage_errors
from anomalib_tiled.system.progress import progress_bar, track
from anomalib_tiled.system.temporary import TEMPORARY, remove_abandoned, working_folder

Version = tuple[str, int, int]

logger = logging.getLogger(__name__)

INDEX = "index.json"
"""Form of a cache, and its numbers; written last, so its presence means that the cache is complete."""

FORM = 2
"""Of the caches that this version writes. Earlier ones say none."""

FILES = "files.csv"
"""The files that were decoded, for people: which image or mask has which position, with size and time."""

FILE_COLUMNS = ("kind", "position", "path", "bytes", "modified")

CHECKSUMS = "checksums.npy"
"""In caches of earlier versions: CRC32 of each part of each image, then of each mask, shape (images, blocks)."""


class PixelSource(Protocol):
    """Where pixels come from: a cache, or the files themselves."""

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the decoded files, and of how they are cut; ``None`` if reading a tile decodes its image."""

    @property
    def scope(self) -> Scope:
        """Which pixels count in every image."""

    def image(self, sample: Sample, rows: slice, columns: slice) -> Pixels:
        """Give a rectangle of an image, shape (rows, columns, 3)."""

    def mask(self, sample: Sample, rows: slice, columns: slice) -> Pixels | None:
        """Give a rectangle of a mask, shape (rows, columns), ones where it is anomalous; ``None`` if unknown.

        Pixels that do not count are zero.
        """

    def hidden(self, sample: Sample, rows: slice, columns: slice) -> NDArray[np.bool_] | None:
        """Say which pixels of a rectangle do not count, shape (rows, columns); ``None`` if all count."""


@dataclass(frozen=True)
class DecodedFiles:
    """Pixels decoded from the files on every request.

    Args:
        image_size: Height and width that images are resized to.
        has_masks: Whether a normal image has an empty mask.
        scope: Which pixels count.
    """

    image_size: Size
    has_masks: bool
    scope: Scope = EVERYTHING

    @property
    def fingerprint(self) -> None:
        """``None``: a tile cannot be read without decoding its image."""
        return None

    def image(self, sample: Sample, rows: slice, columns: slice) -> Pixels:
        """Decode the image and give a rectangle of it, shape (rows, columns, 3)."""
        return read_image(sample.image_path, self.image_size, sample.matrix)[rows, columns]

    def mask(self, sample: Sample, rows: slice, columns: slice) -> Pixels | None:
        """Decode the mask and give a rectangle of it, shape (rows, columns)."""
        if sample.masks:
            whole = read_masks(sample.masks, self.image_size, sample.matrix)[rows, columns]
            return _without_hidden(whole, self.hidden(sample, rows, columns))
        return _mask_without_file(sample, rows, columns) if self.has_masks else None

    def hidden(self, sample: Sample, rows: slice, columns: slice) -> NDArray[np.bool_] | None:
        """Say which pixels of a rectangle do not count, shape (rows, columns); ``None`` if all count."""
        return self.scope.hidden(sample.matrix, self.image_size, rows, columns)

    def check(self, split: Split) -> None:
        """Decode every file once, to find damaged ones before training begins.

        Raises:
            DataError: An image or mask cannot be decoded.
        """
        for sample in track(split.samples, "Checking images"):
            read_image(sample.image_path, self.image_size, sample.matrix)
            if sample.masks:
                read_masks(sample.masks, self.image_size, sample.matrix)


@dataclass(frozen=True)
class ImageCache:
    """Decoded images in a folder.

    Args:
        folder: The folder of this cache.
        grid: The grid whose cuts divide the images into blocks.
        images: Names of the images, in the order of the files.
        masks: Names of the masks, in the order of the files; those of an image are joined.
        checksums: Those of a cache of an earlier version.
        scope: Which pixels count.
        table: The split, for the transforms of aligned images; ``None`` if images are not aligned.
    """

    folder: Path
    grid: TileGrid
    images: Names = field(repr=False)
    masks: Names = field(repr=False)
    checksums: NDArray[np.uint32] | None = field(default=None, repr=False, compare=False)
    scope: Scope = field(default=EVERYTHING, repr=False, compare=False)
    table: SplitTable | None = field(default=None, repr=False, compare=False)

    @property
    def fingerprint(self) -> str:
        """The name of the folder."""
        return self.folder.name

    @property
    def bytes(self) -> int:
        """Size on the disk, in bytes."""
        return self._images.bytes + self._masks.bytes

    def image(self, sample: Sample, rows: slice, columns: slice) -> Pixels:
        """Read a rectangle of whole blocks of an image, shape (rows, columns, 3)."""
        return self._images.read(self.images.place_of(str(sample.image_path)), rows, columns)

    def mask(self, sample: Sample, rows: slice, columns: slice) -> Pixels | None:
        """Read a rectangle of whole blocks of a mask, shape (rows, columns)."""
        if sample.masks:
            mask = self._masks.read(self.masks.place_of(joined_masks(sample)), rows, columns)
            return _without_hidden(mask, self.hidden(sample, rows, columns))
        return _mask_without_file(sample, rows, columns) if self.masks else None

    def hidden(self, sample: Sample, rows: slice, columns: slice) -> NDArray[np.bool_] | None:
        """Say which pixels of a rectangle do not count, shape (rows, columns); ``None`` if all count."""
        return self.scope.hidden(sample.matrix, self.grid.image_size, rows, columns)

    @cached_property
    def _images(self) -> BlockFiles:
        checksums = None if self.checksums is None else self.checksums[: len(self.images)]
        return BlockFiles(self.folder, "image", self.grid, len(self.images), self._decode_image, (3,), checksums)

    @cached_property
    def _masks(self) -> BlockFiles:
        checksums = None if self.checksums is None else self.checksums[len(self.images) :]
        return BlockFiles(self.folder, "mask", self.grid, len(self.masks), self._decode_masks, (), checksums)

    def _decode_image(self, position: int) -> Pixels:
        matrix = None if self.table is None else self.table.matrix_of(position)
        return read_image(Path(self.images[position]), self.grid.image_size, matrix)

    def _decode_masks(self, position: int) -> Pixels:
        matrix = None if self.table is None else self.table.matrix_of_masks(position)
        return read_masks(tuple(map(Path, self.masks[position].split(BETWEEN_MASKS))), self.grid.image_size, matrix)

    def opened(self) -> ImageCache | None:
        """Give the cache as it can be read; ``None`` if it is missing or incomplete.

        Its contents are compared with their checksums at each read.
        """
        if not is_file(self.folder / INDEX):
            return None
        cache = self.of_its_form()
        if cache is not None and cache.is_complete:
            return cache
        logger.warning(
            "The image cache %s is not used, because files in it are missing, cut short or changed.", self.folder
        )
        return None

    @property
    def is_complete(self) -> bool:
        """Whether the files of all blocks are accessible, and of the right size."""
        return self._images.have_their_sizes() and self._masks.have_their_sizes()

    def of_its_form(self) -> ImageCache | None:
        """Give the cache as it can be read, without looking at its blocks; ``None`` if its index was changed."""
        try:
            index = read_json(self.folder / INDEX)
            if "form" in index:
                return self if index == self.index else None
            content = (self.folder / CHECKSUMS).read_bytes()
            checksums = np.load(BytesIO(content)) if crc32(content) == index["checksums"] else None
        except (OSError, RunFolderError, KeyError):
            return None
        shape = len(self.images) + len(self.masks), self.index["blocks"]
        return None if checksums is None or checksums.shape != shape else replace(self, checksums=checksums)

    @property
    def index(self) -> dict[str, int]:
        """Content of the index: the form of the cache, and its numbers."""
        blocks = (len(self.grid.row_cuts) - 1) * (len(self.grid.column_cuts) - 1)
        return {"form": FORM, "images": len(self.images), "masks": len(self.masks), "blocks": blocks}

    def fill(self, versions: Sequence[Version]) -> None:
        """Decode all images and masks into the folder, which must exist and be empty.

        Args:
            versions: Path, size in bytes and modification time of each image, then of each mask.
        """
        self._images.fill()
        self._masks.fill()
        kinds = [("image", position) for position in range(len(self.images))]
        kinds += [("mask", place) for place, names in enumerate(self.masks) for _ in names.split(BETWEEN_MASKS)]
        with open_table(self.folder / FILES, "w") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(FILE_COLUMNS)
            writer.writerows((*kind, *version) for kind, version in zip(kinds, versions, strict=True))
        write_json(self.folder / INDEX, self.index)


def open_source(
    split: Split, grid: TileGrid, directory: Path | None, *, build: bool = True, scope: Scope = EVERYTHING
) -> PixelSource:
    """Open the cache of a split.

    Args:
        split: All images and masks.
        grid: The grid that cuts them.
        directory: Folder of all caches; ``None`` to decode images on every request.
        build: Whether to fill a missing cache; otherwise images are decoded on every request.
        scope: Which pixels count.

    Raises:
        DataError: An image or mask cannot be decoded.
        StorageError: The cache does not fit on the disk.
    """
    decoded = DecodedFiles(grid.image_size, split.has_masks, scope)
    if directory is None:
        return decoded
    images, joined = split.table.images, [names.split(BETWEEN_MASKS) for names in split.table.masks]
    versions = _versions([*images, *chain.from_iterable(joined)], needed=build)
    if versions is None:
        return decoded  # images that are not needed now may be missing or inaccessible
    folder = directory / _key(grid, versions, [len(names) for names in joined], split.table.transforms)
    cache = ImageCache(folder, grid, images, split.table.masks, table=split.table, scope=scope)
    if (opened := cache.opened()) is not None:
        return opened
    if not build:
        return decoded
    make_folder(
        folder,
        lambda temporary: replace(cache, folder=temporary).fill(versions),
        is_made=lambda: cache.opened() is not None,
        needed=cache.bytes,
    )
    return cache.opened() or decoded


def reopen_cache(split: Split, grid: TileGrid, folder: Path) -> ImageCache:
    """Open the cache that another process has opened, without a look at images or blocks.

    Args:
        split: All images and masks.
        grid: The grid that cuts them.
        folder: The folder of the cache.

    Raises:
        DataError: The cache is not visible here, or was changed.
    """
    check_visible(folder)
    cache = ImageCache(folder, grid, split.table.images, split.table.masks, table=split.table).of_its_form()
    if cache is None:
        message = (
            f"The image cache {folder} must hold the images of the run, but was changed while the run was in work. "
            "Delete it, and fit the run again, which makes it anew."
        )
        raise DataError(message)
    return cache


def check_visible(folder: Path) -> None:
    """Check that a cache that another process has opened can be read here.

    Args:
        folder: The folder of the cache.

    Raises:
        DataError: It is not visible.
    """
    if not is_file(folder / INDEX):
        message = (
            f"Every machine that works on a run must see its image cache, but {folder} is not visible from this "
            f"machine, {gethostname()}. Mount the disk that it is on here, too, under the same path; or point "
            "cache.directory to a folder that all machines see."
        )
        raise DataError(message)


def _key(
    grid: TileGrid, versions: Sequence[Version], joined: Sequence[int], transforms: NDArray[np.float64] | None
) -> str:
    """Name a cache after everything that decides its contents."""
    content = json.dumps([grid.image_size, grid.row_cuts, grid.column_cuts, versions, joined]).encode()
    moved = b"" if transforms is None else transforms.tobytes()
    return blake2b(content + moved, digest_size=12).hexdigest()


def _versions(names: Sequence[str], *, needed: bool) -> list[Version] | None:
    """Look at size and time of files; ``None`` if one of them is missing or inaccessible, but not needed."""
    versions = []
    for name in names:
        try:
            status = os.stat(name)  # noqa: PTH116  # a path for each of a million files takes seconds
        except OSError:
            if not needed:
                return None
            with errors_naming_file(Path(name)):
                raise
        if not (needed or stat.S_ISREG(status.st_mode)):
            return None
        versions.append((name, status.st_size, status.st_mtime_ns))
    return versions


def _mask_without_file(sample: Sample, rows: slice, columns: slice) -> Pixels | None:
    """Give an empty mask for a normal image; masks of others are unknown."""
    if sample.label != 0:
        return None
    return np.zeros((rows.stop - rows.start, columns.stop - columns.start), dtype=np.uint8)


def _without_hidden(mask: Pixels, hidden: NDArray[np.bool_] | None) -> Pixels:
    """Remove pixels that do not count from a mask."""
    return mask if hidden is None else np.where(hidden, np.uint8(0), mask)


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
