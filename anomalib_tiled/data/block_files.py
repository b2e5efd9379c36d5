"""Files of the image cache: one for each block between cuts, with the pixels of all images one after the other.

    128 bytes of header | image 0 | image 1 | ...        each of them rows × columns × channels bytes

They are plain ``.npy`` files of shape (images, rows, columns, channels). They are read, not mapped, so their pages do
not count as memory of the process. Files that are complete are never written to again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Generic, TypeVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from anomalib_tiled.data.images import Pixels
from anomalib_tiled.errors import DataError
from anomalib_tiled.grid import Block
from anomalib_tiled.system.progress import track

Image = TypeVar("Image", bound="Hashable")

logger = logging.getLogger(__name__)

HEADER = 128
"""Bytes before the pixels in a ``.npy`` file of up to four dimensions."""


@dataclass(frozen=True)
class BlockFiles(Generic[Image]):
    """Pixels of images, or of masks, part by part: a part is one block of one image.

    Args:
        folder: Folder of the files.
        kind: Beginning of their names.
        blocks: The blocks, one file each.
        images: What the images are known by, in the order of the files.
        decode: Decodes an image, with its channels last.
        channels: ``(3,)``, or ``()`` if pixels are single values.
    """

    folder: Path
    kind: str
    blocks: Sequence[Block]
    images: Sequence[Image]
    decode: Callable[[Image], Pixels]
    channels: tuple[int, ...] = ()

    @cached_property
    def checksums(self) -> NDArray[np.uint32]:
        """CRC32 of each part, shape (images, blocks)."""
        return np.zeros((len(self.images), len(self.blocks)), np.uint32)

    @cached_property
    def _positions(self) -> dict[Image, int]:
        return {image: position for position, image in enumerate(self.images)}

    def fill(self) -> None:
        """Decode all images, and write the files and the checksums; there are no files without images."""
        if not self.images:
            return
        for block in self.blocks:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(self.images), *self._shape(block))}
            with self._path(block).open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
        for position, image in enumerate(track(self.images, f"Reading {self.kind}s")):
            pixels = self.decode(image)
            for number, block in enumerate(self.blocks):
                part = np.ascontiguousarray(pixels[block.rows, block.columns])
                with self._path(block).open("ab") as file:
                    file.write(part.data)
                self.checksums[position, number] = crc32(part.data)

    def have_their_sizes(self) -> bool:
        """Whether all files are accessible and complete."""
        with suppress(OSError):
            return all(
                self._path(block).stat().st_size == HEADER + len(self.images) * prod(self._shape(block))
                for block in (self.blocks if self.images else ())
            )
        return False

    def read(self, image: Image, rows: slice, columns: slice) -> Pixels:
        """Read whole blocks of an image; parts that differ from their checksums are decoded again.

        Args:
            image: The image.
            rows: Rows that the blocks cover.
            columns: Columns that the blocks cover.

        Raises:
            DataError: A part is damaged, and its image has changed as well.
        """
        position = self._positions[image]
        pixels = np.empty((rows.stop - rows.start, columns.stop - columns.start, *self.channels), np.uint8)
        for number, block in enumerate(self.blocks):
            if _inside(block.rows, rows) and _inside(block.columns, columns):
                part = self._part(position, block)
                if part is None or crc32(part.data) != self.checksums[position, number]:
                    part = self._decoded(position, number)
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

    def _decoded(self, position: int, number: int) -> Pixels:
        block = self.blocks[number]
        path = self._path(block)
        logger.warning(
            "%s is missing, cut short or changed. Decoding image %d again, which is slow. Delete %s after the run.",
            *(path, position, self.folder),
        )
        part = np.ascontiguousarray(self.decode(self.images[position])[block.rows, block.columns])
        if crc32(part.data) != self.checksums[position, number]:
            message = (
                f"{path} was cut short or changed, and image {position} cannot be decoded in its place, because its "
                f"own file has other pixels by now. Delete {self.folder}; the next fit makes it again."
            )
            raise DataError(message)
        return part

    def _shape(self, block: Block) -> tuple[int, ...]:
        return block.rows.stop - block.rows.start, block.columns.stop - block.columns.start, *self.channels

    def _path(self, block: Block) -> Path:
        return self.folder / f"{self.kind}_{block.name}.npy"


def _inside(part: slice, whole: slice) -> bool:
    return bool(whole.start <= part.start and part.stop <= whole.stop)


def _moved(part: slice, origin: int) -> slice:
    return slice(part.start - origin, part.stop - origin)
