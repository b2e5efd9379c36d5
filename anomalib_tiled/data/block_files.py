"""Files of the image cache: one for each block between cuts, with that part of all images one after the other.

    256 bytes of header | pixels of image 0, CRC32 of them | pixels of image 1, CRC32 of them | ...

They are plain ``.npy`` files of shape (images,), with the fields ``pixels``, rows × columns × channels bytes, and
``crc32``, 4 bytes. They are read, not mapped, so their pages do not count as memory of the process. Files that are
complete are never written to again.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from anomalib_tiled.data.images import Pixels
from anomalib_tiled.errors import DataError
from anomalib_tiled.grid import Block, TileGrid
from anomalib_tiled.system.progress import track

logger = logging.getLogger(__name__)

HEADER = 256
"""Bytes before the first part."""

HEADER_OF_VERSION_1 = 128
"""The same in files of earlier versions of this package, which hold pixels alone."""

CHECKSUM = np.dtype("<u4")
"""Type of the checksum of a part."""

BYTES_AT_ONCE = 2**28
"""Decoded pixels that are in memory while the files are filled: each file is opened once for as many images as fit."""


class Part(NamedTuple):
    """One block of one image.

    Args:
        pixels: Its pixels, in the shape of the block.
        checksum: The CRC32 that belongs to them.
    """

    pixels: Pixels
    checksum: int

    @property
    def is_whole(self) -> bool:
        """Whether the pixels have their checksum."""
        return crc32(self.pixels.data) == self.checksum


@dataclass(frozen=True)
class BlockFiles:
    """Pixels of images, or of masks, part by part.

    Args:
        folder: Folder of the files.
        kind: Beginning of their names.
        grid: The grid whose cuts divide the images into blocks.
        number: Number of images.
        decode: Decodes the image at a position, with its channels last.
        channels: ``(3,)``, or ``()`` if pixels are single values.
        checksums: CRC32 of each part, shape (images, blocks), of files of earlier versions, which hold none.
    """

    folder: Path
    kind: str
    grid: TileGrid
    number: int
    decode: Callable[[int], Pixels]
    channels: tuple[int, ...] = ()
    checksums: NDArray[np.uint32] | None = None

    @property
    def bytes(self) -> int:
        """Size of all files together, without their headers."""
        height, width = self.grid.image_size
        of_checksums = 0 if self.checksums is not None else CHECKSUM.itemsize * len(self.grid.blocks)
        return self.number * (height * width * prod(self.channels) + of_checksums)

    def fill(self) -> None:
        """Decode all images and write the files; there are no files without images."""
        if not self.number:
            return
        for block in self.grid.blocks:
            self._path(block).write_bytes(_header(self._part_type(block), self.number))
        height, width = self.grid.image_size
        at_once = max(1, BYTES_AT_ONCE // (height * width * prod(self.channels)))
        decoded: list[Pixels] = []
        for position in track(range(self.number), f"Reading {self.kind}s"):
            decoded.append(self.decode(position))
            if len(decoded) == at_once or position == self.number - 1:
                self._append(decoded)
                decoded.clear()

    def have_their_sizes(self) -> bool:
        """Whether all files are accessible and complete."""
        with suppress(OSError):
            return all(
                self._path(block).stat().st_size == self._place(self.number, block)
                for block in (self.grid.blocks if self.number else ())
            )
        return False

    def read(self, position: int, rows: slice, columns: slice) -> Pixels:
        """Read whole blocks of an image; parts that differ from their checksums are decoded again.

        Args:
            position: Position of the image.
            rows: Rows that the blocks cover.
            columns: Columns that the blocks cover.

        Raises:
            DataError: A part is damaged, and its image has changed as well.
        """
        pixels = np.empty((rows.stop - rows.start, columns.stop - columns.start, *self.channels), np.uint8)
        for number, block in self.grid.blocks_in(rows, columns):
            part = self._part(position, number, block)
            read = part.pixels if part is not None and part.is_whole else self._decoded(position, block, part)
            pixels[_moved(block.rows, rows.start), _moved(block.columns, columns.start)] = read
        return pixels

    def _append(self, images: Sequence[Pixels]) -> None:
        for block in self.grid.blocks:
            parts = np.empty(len(images), self._part_type(block))
            pixels, (rows, columns) = parts["pixels"], (block.rows, block.columns)
            for place, image in enumerate(images):
                pixels[place] = image[rows, columns]
            parts["crc32"] = [crc32(part.data) for part in pixels]
            with self._path(block).open("ab") as file:
                file.write(parts.view(np.uint8).data)

    def _part(self, position: int, number: int, block: Block) -> Part | None:
        """Read a part; ``None`` if it is unreadable or incomplete."""
        dtype = self._part_type(block)
        try:
            found = np.fromfile(self._path(block), dtype, 1, offset=self._place(position, block))
        except OSError:
            return None
        if not found.size:
            return None
        checksum = found["crc32"][0] if self.checksums is None else self.checksums[position, number]
        return Part(found["pixels"][0], int(checksum))

    def _decoded(self, position: int, block: Block, part: Part | None) -> Pixels:
        """Decode a part again.

        Where a checksum of it is left, the image must still have the pixels of the checksum; or those of the part, if
        only the checksum was damaged.
        """
        path = self._path(block)
        logger.warning(
            "%s is missing, cut short or changed. Decoding image %d again, which is slow. Delete %s after the run.",
            *(path, position, self.folder),
        )
        pixels = np.ascontiguousarray(self.decode(position)[block.rows, block.columns])
        if part is None or crc32(pixels.data) == part.checksum or np.array_equal(pixels, part.pixels):
            return pixels
        message = (
            f"{path} was cut short or changed, and image {position} cannot be decoded in its place, because its "
            f"own file has other pixels by now. Delete {self.folder}; the next fit makes it again."
        )
        raise DataError(message)

    def _part_type(self, block: Block) -> np.dtype[Any]:
        shape = block.rows.stop - block.rows.start, block.columns.stop - block.columns.start, *self.channels
        fields: list[tuple[str, Any, tuple[int, ...]]] = [("pixels", np.uint8, shape)]
        return np.dtype(fields if self.checksums is not None else [*fields, ("crc32", CHECKSUM, ())])

    def _place(self, position: int, block: Block) -> int:
        """Give the first byte of a part."""
        header = HEADER if self.checksums is None else HEADER_OF_VERSION_1
        return header + position * self._part_type(block).itemsize

    def _path(self, block: Block) -> Path:
        return self.folder / f"{self.kind}_{block.name}.npy"


def _header(dtype: np.dtype[Any], number: int) -> bytes:
    """Give the header of a ``.npy`` file of version 1.0, in `HEADER` bytes."""
    text = repr({"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (number,)})
    magic = np.lib.format.magic(1, 0)
    length = HEADER - len(magic) - 2
    return magic + struct.pack("<H", length) + text.encode().ljust(length - 1) + b"\n"


def _moved(part: slice, origin: int) -> slice:
    return slice(part.start - origin, part.stop - origin)
