"""Files of the image cache: one for each block between cuts, with the pixels of all images one after the other.

    128 bytes of header | image 0 | image 1 | ...        each of them rows × columns × channels bytes

They are plain ``.npy`` files of shape (images, rows, columns, channels). They are read, not mapped, so their pages do
not count as memory of the process. A file that is complete is never written to again.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from anomalib_tiled.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from anomalib_tiled.grid import Block

    Pixels = NDArray[np.uint8]

logger = logging.getLogger(__name__)

HEADER = 128
"""Bytes before the pixels in a ``.npy`` file of up to four dimensions."""


@dataclass(frozen=True)
class BlockFiles:
    """Pixels of images, or of masks, part by part: a part is one block of one image.

    Args:
        folder: Folder of the files.
        kind: Beginning of their names.
        blocks: The blocks, one file each.
        images: Number of images.
        channels: Values per pixel; ``None`` if pixels are single values.
    """

    folder: Path
    kind: str
    blocks: Sequence[Block]
    images: int
    channels: int | None

    @cached_property
    def checksums(self) -> NDArray[np.uint32]:
        """CRC32 of each part, shape (images, blocks)."""
        return np.zeros((self.images, len(self.blocks)), np.uint32)

    def create(self) -> None:
        """Write the files without images."""
        for block in self.blocks if self.images else ():
            header = {"descr": "|u1", "fortran_order": False, "shape": (self.images, *self._shape(block))}
            with self._path(block).open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)

    def append(self, position: int, pixels: Pixels) -> None:
        """Write the next image, and note its checksums.

        Args:
            position: Number of images before it.
            pixels: The image, shape (height, width) or (height, width, channels).
        """
        for number, block in enumerate(self.blocks):
            part = np.ascontiguousarray(pixels[block.rows, block.columns])
            with self._path(block).open("ab") as file:
                file.write(part.data)
            self.checksums[position, number] = crc32(part.data)

    def have_their_sizes(self) -> bool:
        """Whether all files are accessible and complete."""
        with suppress(OSError):
            return all(
                self._path(block).stat().st_size == HEADER + self.images * prod(self._shape(block))
                for block in (self.blocks if self.images else ())
            )
        return False

    def read(self, position: int, area: tuple[slice, slice], decode: Callable[[], Pixels]) -> Pixels:
        """Read whole blocks of an image, and compare each part with its checksum.

        Args:
            position: Position of the image in the files.
            area: Rows and columns that the blocks cover.
            decode: Decodes the whole image again, in place of damaged parts.

        Raises:
            DataError: A part is damaged, and its image has changed as well.
        """
        rows, columns = area
        pixels = np.empty((rows.stop - rows.start, columns.stop - columns.start, *self._channels), np.uint8)
        for number, block in enumerate(self.blocks):
            if _inside(block.rows, rows) and _inside(block.columns, columns):
                part = self._part(position, block)
                if part is None or crc32(part.data) != self.checksums[position, number]:
                    part = self._decoded(position, number, decode)
                pixels[_moved(block.rows, rows.start), _moved(block.columns, columns.start)] = part
        return pixels

    def _part(self, position: int, block: Block) -> Pixels | None:
        """Read a part; ``None`` if it is unreadable or incomplete."""
        shape = self._shape(block)
        size = prod(shape)
        try:
            values = np.fromfile(self._path(block), np.uint8, size, offset=HEADER + position * size)
        except OSError:
            return None
        return values.reshape(shape) if values.size == size else None

    def _decoded(self, position: int, number: int, decode: Callable[[], Pixels]) -> Pixels:
        block = self.blocks[number]
        path = self._path(block)
        logger.warning(
            "%s is missing, cut short or changed. Decoding image %d again, which is slow. Delete %s after the run.",
            *(path, position, self.folder),
        )
        part = np.ascontiguousarray(decode()[block.rows, block.columns])
        if crc32(part.data) != self.checksums[position, number]:
            message = (
                f"{path} was cut short or changed, and image {position} cannot be decoded in its place, because its "
                f"own file has other pixels by now. Delete {self.folder}; the next fit makes it again."
            )
            raise DataError(message)
        return part

    @property
    def _channels(self) -> tuple[int, ...]:
        return () if self.channels is None else (self.channels,)

    def _shape(self, block: Block) -> tuple[int, ...]:
        return block.rows.stop - block.rows.start, block.columns.stop - block.columns.start, *self._channels

    def _path(self, block: Block) -> Path:
        return self.folder / f"{self.kind}_r{block.row:02d}_c{block.column:02d}.npy"


def _inside(part: slice, whole: slice) -> bool:
    return bool(whole.start <= part.start and part.stop <= whole.stop)


def _moved(part: slice, origin: int) -> slice:
    return slice(part.start - origin, part.stop - origin)
