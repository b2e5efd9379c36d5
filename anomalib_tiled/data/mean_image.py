"""The mean of images: a small picture of the part."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import cv2
import numpy as np

from anomalib_tiled.data.image_files import shrunk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomalib_tiled.grid import Size

    Pixels = NDArray[np.uint8]
    Mask = NDArray[np.bool_]

SIDE = 1024
"""Most pixels of the longer side of the mean."""


class MeanImage:
    """Adds up images, shrunk, one by one.

    Args:
        size: Height and width of the images.
    """

    def __init__(self, size: Size) -> None:
        self.size = shrunk(size, SIDE)
        self._sum = np.zeros((*self.size, 3))
        self._weight = np.zeros((*self.size, 1))

    def add(self, pixels: Pixels, hidden: Mask | None = None) -> None:
        """Add an image.

        Args:
            pixels: Shape (height, width, 3).
            hidden: Pixels that do not count, shape (height, width); ``None`` if all do.
        """
        if hidden is None:
            self._sum += self._shrunk(pixels)
            self._weight += 1
        else:
            counted = (~hidden).astype(np.float32)
            self._sum += self._shrunk(np.where(hidden[..., None], np.uint8(0), pixels))
            self._weight += self._shrunk(counted)[..., None]

    def pixels(self) -> Pixels:
        """Give the mean, shape (height, width, 3); pixels that count in no image are black."""
        mean = self._sum / np.where(self._weight > 0, self._weight, 1)
        return cast("Pixels", np.rint(mean).clip(0, 255).astype(np.uint8))

    def _shrunk(self, values: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        small = cv2.resize(values, (self.size.width, self.size.height), interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.float32)
