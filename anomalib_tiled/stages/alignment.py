"""Alignment: moves the part to the same place in every image before the image is cut into tiles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Matrix = tuple[float, float, float, float, float, float, float, float, float]
"""A homography, row by row, in pixels: x to the right, y down, whole numbers are the middles of pixels."""


@dataclass(frozen=True, eq=False)
class Reference:
    """What an aligner has learned from the normal training images.

    Args:
        image: A small grey image of the part, shape (height, width).
        numbers: Other numbers that the aligner needs, by name.
    """

    image: Pixels
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Alignment:
    """Where the part lies in an image.

    Args:
        matrix: From pixels of the aligned image to pixels of the image as it is, both in the size that the ensemble
            takes. The identity for a part that lies where the reference has it.
        quality: How well the moved image fits the reference: 0 not at all, 1 perfectly.
    """

    matrix: Matrix
    quality: float


class Aligner(ABC):
    """How the part is found in an image."""

    @abstractmethod
    def learn(self, images: Iterable[Pixels]) -> Reference:
        """Learn where parts lie.

        Args:
            images: The normal training images, one by one, each of shape (height, width, 3), all of one size; they can
                be iterated several times.

        Raises:
            DataError: The images show no common part.
        """

    @abstractmethod
    def align(self, image: Pixels, reference: Reference) -> Alignment:
        """Find the part in an image.

        Args:
            image: Shape (height, width, 3), of the size of the images to learn from.
            reference: What `learn` has returned, also in another process.

        Raises:
            UnalignedError: The part is not found, with the reason as a sentence.
        """
