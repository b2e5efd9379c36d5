"""Which pixels of an image count: those that are inspected, and that lie in the image.

A pixel is hidden if the regions ignore it, or if it comes from outside the image once that is aligned, or lies beside
such pixels. It takes part in no label, score, threshold, metric, mask and region.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from zlib import compress, decompress

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from anomalib_tiled.grid import Size
    from anomalib_tiled.stages.alignment import Matrix
    from anomalib_tiled.stages.regions import RegionMap


HALF = 0.5
"""Distance from the middle of a pixel to its edge, in pixels."""

BESIDE = 8
"""Pixels beside those from outside the image that do not count either: a model judges a pixel by those around it."""


@dataclass(frozen=True, eq=False)
class Scope:
    """Which pixels count.

    Args:
        ignored: Pixels that the regions ignore, in every image, shape (height, width); ``None`` if there are none.
    """

    ignored: NDArray[np.bool_] | None = None

    def __reduce__(self) -> tuple[Callable[..., Scope], tuple[bytes | None, tuple[int, ...]]]:
        """Pickle in a few kilobytes: each process of a run gets it."""
        if self.ignored is None:
            return _unpacked, (None, ())
        return _unpacked, (compress(np.packbits(self.ignored).tobytes()), self.ignored.shape)

    def hidden(self, matrix: Matrix | None, size: Size, rows: slice, columns: slice) -> NDArray[np.bool_] | None:
        """Say which pixels of a rectangle do not count.

        Args:
            matrix: From pixels of the aligned image to pixels of the image; ``None`` if it is not aligned.
            size: Height and width of the image.
            rows: Rows of the rectangle.
            columns: Its columns.

        Returns:
            Shape (rows, columns); ``None`` if all pixels count.
        """
        ignored = None if self.ignored is None else self.ignored[rows, columns]
        outside = None if matrix is None else outside_of(matrix, size, rows, columns)
        if ignored is None or outside is None:
            return outside if ignored is None else ignored
        return ignored | outside


def _unpacked(bits: bytes | None, shape: tuple[int, ...]) -> Scope:
    if bits is None:
        return EVERYTHING
    pixels = np.unpackbits(np.frombuffer(decompress(bits), np.uint8), count=math.prod(shape))
    return Scope(pixels.reshape(shape).astype(np.bool_))


EVERYTHING = Scope()
"""All pixels count."""


def scope_of(regions: RegionMap | None) -> Scope:
    """Give the pixels that regions leave; all of them if there are none, or if they ignore nothing."""
    return EVERYTHING if regions is None or not regions.ignored.any() else Scope(regions.ignored)


def outside_of(matrix: Matrix, size: Size, rows: slice, columns: slice) -> NDArray[np.bool_]:
    """Say which pixels of an aligned image come from outside the image, or lie beside such, shape (rows, columns).

    Args:
        matrix: From pixels of the aligned image to pixels of the image.
        size: Height and width of both.
        rows: Rows of a rectangle of the aligned image.
        columns: Its columns.
    """
    top, bottom = max(rows.start - BESIDE, 0), min(rows.stop + BESIDE, size.height)
    left, right = max(columns.start - BESIDE, 0), min(columns.stop + BESIDE, size.width)
    y, x = np.mgrid[top:bottom, left:right].astype(np.float64)
    a, b, c, d, e, f, g, h, i = matrix
    scale = g * x + h * y + i
    across, down = (a * x + b * y + c) / scale, (d * x + e * y + f) / scale
    outside = (across < -HALF) | (across > size.width - HALF)  # pixel 0 reaches from -0.5 to 0.5
    outside |= (down < -HALF) | (down > size.height - HALF)
    square = np.ones((2 * BESIDE + 1, 2 * BESIDE + 1), np.uint8)
    near = cv2.dilate(outside.view(np.uint8), square).view(np.bool_)
    return cast(
        "NDArray[np.bool_]", near[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    )
