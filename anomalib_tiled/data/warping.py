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

from anomalib_tiled.stages.alignment import Matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomalib_tiled.grid import Size

    Square = NDArray[np.float64]

IDENTITY: Matrix = (1, 0, 0, 0, 1, 0, 0, 0, 1)
"""Of an image whose part lies where the reference has it."""

SHRINKS = 1.5
"""Factor by which an image must be shrunk to be blurred before: a little less shows no patterns that are not there."""


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
    down, across = file_size.height / size.height, file_size.width / size.width
    enlarge = np.array([[across, 0, (across - 1) / 2], [0, down, (down - 1) / 2], [0, 0, 1]])
    return cast("Square", enlarge @ np.reshape(matrix, (3, 3)))


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


def _warp(pixels: NDArray[np.uint8], size: Size, matrix: Matrix, how: int, border: int) -> NDArray[np.uint8]:
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
