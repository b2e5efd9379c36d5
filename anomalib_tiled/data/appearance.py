"""How an image looks, in a few numbers: brightness, contrast, sharpness, and where the part lies."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np

from anomalib_tiled.stages.registration import placement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from anomalib_tiled.stages.alignment import Matrix

    Pixels = NDArray[np.uint8]
    Mask = NDArray[np.bool_]
    Floats = NDArray[np.float32]

WHITE = 255
"""Highest grey value."""

ROWS_AT_ONCE = 256
"""Rows that are looked at together, which bounds the memory."""

DIGITS = 5
"""Digits behind the point that are kept."""

STEP = 8
"""What a step of one grey value amounts to in Sobel's filter of 3 x 3 pixels: 1 + 2 + 1, over two pixels."""


@dataclass(frozen=True)
class Appearance:
    """How an image looks, in the size that the ensemble takes, once it is aligned.

    Args:
        brightness: Mean grey value, between 0 and 1.
        contrast: Standard deviation of the grey values.
        sharpness: Steepness of the edges: the step from one pixel to the next, as a fraction of the contrast. A light
            that fades does not change it.
        shift_x: Shift of the part to the right, in pixels; ``None`` if images are not aligned.
        shift_y: The same, downwards.
        rotation: Rotation of the part in degrees, clockwise; ``None`` if images are not aligned.
    """

    brightness: float
    contrast: float
    sharpness: float
    shift_x: float | None = None
    shift_y: float | None = None
    rotation: float | None = None

    @classmethod
    def of(cls, pixels: Pixels, hidden: Mask | None = None, matrix: Matrix | None = None) -> Appearance:
        """Look at an image, in one pass over its pixels.

        Each pixel counts in the steepness with the square of its gradient. So edges decide, however few pixels they
        have, and noise, which is in all pixels, but weak, does not hide that they are blurred.

        Args:
            pixels: Shape (height, width, 3).
            hidden: Pixels that do not count, shape (height, width); ``None`` if all do.
            matrix: From pixels of the aligned image to pixels of the image; ``None`` if it is not aligned.
        """
        counts, steep = np.zeros(WHITE + 1), np.zeros(2)
        for grey, squares, counted in _strips(pixels, hidden):
            counts += cv2.calcHist([grey], [0], counted, [WHITE + 1], [0, WHITE + 1]).ravel()
            steep += squares.sum(dtype=np.float64), np.square(squares).sum(dtype=np.float64)
        greys = np.arange(WHITE + 1)
        mean = float(counts @ greys / max(counts.sum(), 1))
        contrast = float(np.sqrt(counts @ (greys - mean) ** 2 / max(counts.sum(), 1)))
        steepness = float(np.sqrt(steep[1] / max(steep[0], 1))) / STEP  # squares are whole numbers
        values = (mean / WHITE, contrast / WHITE, steepness / contrast if contrast else 0.0, *_place(pixels, matrix))
        return cls(*(round(each, DIGITS) for each in values))

    def to_json(self) -> dict[str, float]:
        """Give what is known by its names."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def _place(pixels: Pixels, matrix: Matrix | None) -> tuple[float, ...]:
    """Say where the part lies; nothing if images are not aligned."""
    return () if matrix is None else placement(np.reshape(matrix, (3, 3)), pixels.shape[:2])


def _strips(pixels: Pixels, hidden: Mask | None) -> Iterator[tuple[Pixels, Floats, Pixels | None]]:
    """Give grey values, squared gradients and pixels that count, strip by strip; a gradient needs all neighbours."""
    for top in range(0, len(pixels), ROWS_AT_ONCE):
        above, below = max(top - 1, 0), min(top + ROWS_AT_ONCE + 1, len(pixels))
        inner = slice(top - above, top - above + ROWS_AT_ONCE)
        grey = cast("Pixels", cv2.cvtColor(np.ascontiguousarray(pixels[above:below]), cv2.COLOR_RGB2GRAY))
        across, down = (cast("Floats", cv2.Sobel(grey, cv2.CV_32F, *each)) for each in ((1, 0), (0, 1)))
        squares = np.square(across, out=across) + np.square(down, out=down)
        if hidden is None:
            yield grey[inner], squares[inner], None
        else:
            counted = (~hidden[above:below]).view(np.uint8)
            beside = cast("Pixels", cv2.erode(counted, np.ones((3, 3), np.uint8)))
            yield grey[inner], np.where(beside, squares, np.float32(0))[inner], counted[inner]
