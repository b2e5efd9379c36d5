"""Moves pixels between an image file and the aligned image, which has the size that the ensemble takes.

    pixel of the file   <- in_file(matrix) -   pixel of the aligned image

Pixels are counted from 0, and whole numbers are the middles of pixels, so an image that is halved moves pixel 0 of the
small image to 0.5, between pixels 0 and 1 of the file.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np

from anomalib_tiled.errors import DataError
from anomalib_tiled.stages.alignment import Matrix
from anomalib_tiled.stages.registration import resizing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomalib_tiled.grid import Size

    Square = NDArray[np.float64]

IDENTITY: Matrix = (1, 0, 0, 0, 1, 0, 0, 0, 1)
"""Of an image whose part lies where the reference has it."""

SHRINKS = 1.5
"""Factor by which an image must be shrunk to be blurred before: a little less shows no patterns that are not there."""


MOST = 2**15 - 1
"""Pixels on each side of an image, from which OpenCV refuses to move it."""

ROWS_AT_ONCE = 256
"""Rows of a map whose places in the file are computed together, which bounds the memory."""

NOTHING = np.float32(-np.inf)
"""The score of a pixel of which a map says nothing, among scores of which the highest counts."""


def moves(matrix: Matrix | None) -> bool:
    """Whether a transform changes anything."""
    return matrix is not None and tuple(matrix) != IDENTITY


def in_file(matrix: Matrix, size: Size, file_size: Size) -> Square:
    """Give the transform from pixels of the aligned image to pixels of its file, shape (3, 3).

    Args:
        matrix: From pixels of the aligned image to pixels of the image, both in the size that the ensemble takes.
        size: That size.
        file_size: Height and width of the file.
    """
    return cast("Square", resizing(size, file_size) @ np.reshape(matrix, (3, 3)))


def warped(pixels: NDArray[np.uint8], size: Size, matrix: Matrix) -> NDArray[np.uint8]:
    """Align an image, with one interpolation. Pixels from outside the image repeat its border.

    Args:
        pixels: The image in the size of its file, shape (height, width, channels).
        size: Height and width of the result.
        matrix: From pixels of the result to pixels of the image in that size.
    """
    height, width = pixels.shape[:2]
    wide, high = (_spread(factor) for factor in (width / size.width, height / size.height))
    if wide or high:
        least = np.finfo(np.float64).tiny  # 0 would take the blur of the other direction
        pixels = cast(
            "NDArray[np.uint8]",
            cv2.GaussianBlur(
                pixels, (0, 0), sigmaX=max(wide, least), sigmaY=max(high, least), borderType=cv2.BORDER_REPLICATE
            ),
        )
    return _warp(pixels, size, matrix, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)


def warped_mask(mask: NDArray[np.uint8], size: Size, matrix: Matrix) -> NDArray[np.uint8]:
    """Align a mask, shape (height, width), by the nearest pixel; pixels from outside the image are zero."""
    return _warp(mask, size, matrix, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)


def unwarped(scores: NDArray[np.float32], size: Size, matrix: Matrix, *, is_mask: bool = False) -> NDArray[np.float32]:
    """Move a map of an aligned image back to the pixels of its file.

    A pixel of the file gets the highest score of the map pixel under its middle, and of all map pixels whose middles
    lie in it; so no pixel of the map that lies in the image is lost.

    Args:
        scores: The map, shape (height, width); NaN where it says nothing.
        size: Height and width of the file.
        matrix: From pixels of the aligned image to pixels of the image, in the size of the map.
        is_mask: Whether the map is 1 in few pixels and 0 in all others, which is faster.

    Returns:
        Shape (height, width) of the file; NaN where the map says nothing, or does not reach.
    """
    known = np.where(np.isnan(scores), NOTHING, scores)
    to_file = in_file(matrix, type(size)(*scores.shape), size)
    flags, border = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, cv2.BORDER_CONSTANT
    found = cast(
        "NDArray[np.float32]",
        cv2.warpPerspective(
            known,
            np.linalg.inv(to_file),
            (size.width, size.height),
            flags=flags,
            borderMode=border,
            borderValue=float(NOTHING),
        ),
    )
    for first in range(0, len(known), ROWS_AT_ONCE):
        rows = known[first : first + ROWS_AT_ONCE]
        which = rows > (0 if is_mask else NOTHING)
        if which.any():
            _raise_by(rows, which, first, to_file, found)
    found[found == NOTHING] = np.nan
    return found


def _raise_by(
    rows: NDArray[np.float32], which: NDArray[np.bool_], first: int, to_file: Square, found: NDArray[np.float32]
) -> None:
    """Raise pixels of the file to the highest score of the map pixels whose middles lie in them.

    Args:
        rows: Rows of the map.
        which: Which of their pixels count, same shape.
        first: Position of the first row.
        to_file: From pixels of the map to pixels of the file.
        found: The scores of all pixels of the file, which are changed.
    """
    y, x = np.ogrid[first : first + len(rows), : rows.shape[1]]
    lines = [(a * x + c).astype(np.float32) + (b * y).astype(np.float32) for a, b, c in to_file]
    if to_file[2].tolist() != [0, 0, 1]:
        lines[:2] = [line / lines[2] for line in lines[:2]]
    across, down = (np.rint(line, out=line) for line in lines[:2])
    height, width = found.shape
    inside = which & (across >= 0) & (across < width) & (down >= 0) & (down < height)
    places = down[inside].astype(np.intp) * width + across[inside].astype(np.intp)
    np.maximum.at(found.reshape(-1), places, rows[inside])


def _warp(pixels: NDArray[np.uint8], size: Size, matrix: Matrix, how: int, border: int) -> NDArray[np.uint8]:
    if max(pixels.shape) >= MOST:
        message = (
            f"Images that are aligned must have less than {MOST} pixels on each side, because OpenCV moves no larger "
            f"ones, but one has {pixels.shape[0]} x {pixels.shape[1]}. Shrink it, or cut it."
        )
        raise DataError(message)
    to_file = in_file(matrix, size, type(size)(*pixels.shape[:2]))
    flags = how | cv2.WARP_INVERSE_MAP
    moved = cv2.warpPerspective(pixels, to_file, (size.width, size.height), flags=flags, borderMode=border)
    return cast("NDArray[np.uint8]", moved)


def _spread(factor: float) -> float:
    """Give the standard deviation of the blur before an image is shrunk by a factor; 0 for none.

    Blur and interpolation together then spread a pixel as far as torchvision's antialiasing does: a triangle that
    reaches w pixels has the variance w² / 6.
    """
    return math.sqrt((factor**2 - 1) / 6) if factor > SHRINKS else 0.0
