"""The images of a split in columns, and a file of them that opens without parsing.

The file is a copy of ``split.csv`` for programs. It is mapped, so that a process loads only what it uses, and shares it
with all others of the machine:

    header | rows | offsets, hashes, places of image names | the same of mask names | image names | mask names

The header holds the SHA-256 checksum of the ``split.csv`` that the file was made of, the numbers of rows, names and
bytes of text, and the CRC32 of numbers and parts.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from anomalib_tiled.data.names import Names
from anomalib_tiled.stages.alignment import Matrix
from anomalib_tiled.system.files import replacing

ROW = np.dtype([("image", "<u4"), ("masks", "<i4"), ("label", "<i4"), ("subset", "<u4")])
"""A use of an image: positions of its name and of those of its masks, its label, and the position of the subset."""

NONE = -1
"""Instead of the position of masks: there are none."""

UNKNOWN = -(2**31)
"""Instead of a label: it is unknown."""

PIECE = 2**22
"""Bytes that are compared with their checksum at a time."""

HEADER = struct.Struct("<8s32s40sQ")
LENGTHS = struct.Struct("<5Q")
MAGIC = b"SPLIT\0\0\1"
"""What the file is, and the version of its form."""

BETWEEN_MASKS = "\0"
"""Joins the names of masks that each show some of the defects of an image; no file name holds it."""


@dataclass(frozen=True, eq=False)
class SplitTable:
    """All images of a split.

    Args:
        rows: The images, subset by subset, of the type `ROW`; an image of two subsets has two rows.
        images: Names of all images.
        masks: Names of all masks; those of an image are joined.
        transforms: The matrix of each image, shape (images, 9), NaN for one that cannot be aligned; ``None`` if images
            are not aligned. They have a file of their own.
    """

    rows: NDArray[Any]
    images: Names
    masks: Names
    transforms: NDArray[np.float64] | None = None

    def matrix_of(self, place: int) -> Matrix | None:
        """Give the matrix of the image at a position; ``None`` if it is not aligned."""
        if self.transforms is None or np.isnan(self.transforms[place, 0]):
            return None
        return cast("Matrix", tuple(self.transforms[place].tolist()))

    def matrix_of_masks(self, place: int) -> Matrix | None:
        """Give the matrix of the image that the masks at a position belong to; ``None`` if it is not aligned."""
        return None if self.transforms is None else self.matrix_of(int(self._image_of_masks[place]))

    @cached_property
    def _image_of_masks(self) -> NDArray[np.int64]:
        images, masked = np.zeros(len(self.masks), np.int64), self.rows[self.rows["masks"] != NONE]
        images[masked["masks"]] = masked["image"]
        return images

    @property
    def has_shared_masks(self) -> bool:
        """Whether two images have the same masks."""
        masked = self.rows[self.rows["masks"] != NONE]
        return bool((self._image_of_masks[masked["masks"]] != masked["image"]).any())

    def write(self, path: Path, source: str) -> None:
        """Write the table.

        Args:
            path: The file.
            source: SHA-256 checksum of the split's CSV file, in hexadecimal digits.

        Raises:
            StorageError: The disk cannot be written.
        """
        parts = [np.ascontiguousarray(part).view(np.uint8).data for part in self._parts]
        lengths = LENGTHS.pack(*self._lengths)
        checksum = crc32(lengths)
        for part in parts:
            checksum = crc32(part, checksum)
        header = HEADER.pack(MAGIC, bytes.fromhex(source), lengths, checksum)
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.writelines([header, *parts])

    @classmethod
    def open(cls, path: Path, source: str) -> SplitTable | None:
        """Map a table into memory.

        Args:
            path: The file.
            source: SHA-256 checksum of the split's CSV file, in hexadecimal digits.

        Returns:
            The table; ``None`` if the file is missing, damaged, or was made of another split.
        """
        try:
            with path.open("rb") as file:
                magic, made_of, lengths, noted = HEADER.unpack(file.read(HEADER.size))
                checksum = crc32(lengths)
                while piece := file.read(PIECE):  # not through the map: pages that were read count as memory
                    checksum = crc32(piece, checksum)
                if (magic, made_of.hex(), noted) != (MAGIC, source, checksum):
                    return None
                content = np.asarray(np.memmap(file, np.uint8, "r", offset=HEADER.size))
        except (OSError, struct.error):
            return None
        return cls._of(content, LENGTHS.unpack(lengths))

    @classmethod
    def _of(cls, content: NDArray[np.uint8], lengths: Sequence[int]) -> SplitTable:
        """Divide the content of a file into its parts."""
        rows, images, masks, image_bytes, mask_bytes = lengths
        numbers = [np.dtype(np.uint64)] * 3
        types = [ROW, *numbers, *numbers, np.dtype(np.uint8), np.dtype(np.uint8)]
        counts = [rows, images + 1, images, images, masks + 1, masks, masks, image_bytes, mask_bytes]
        parts, first = [], 0
        for dtype, count in zip(types, counts, strict=True):
            parts.append(content[first : (first := first + dtype.itemsize * count)].view(dtype))
        of_images, of_masks = (*parts[1:4], parts[7]), (*parts[4:7], parts[8])
        return cls(parts[0], Names(*of_images), Names(*of_masks))

    @property
    def _parts(self) -> list[NDArray[Any]]:
        of_names = [[names.offsets, names.hashes, names.places] for names in (self.images, self.masks)]
        return [self.rows, *of_names[0], *of_names[1], self.images.text, self.masks.text]

    @property
    def _lengths(self) -> list[int]:
        texts = (self.images.text, self.masks.text)
        return [len(self.rows), len(self.images), len(self.masks), *map(len, texts)]
