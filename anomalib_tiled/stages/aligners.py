"""The built-in aligners: they register small grey images with the mean of training images."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import cv2
import numpy as np

from anomalib_tiled.errors import UnalignedError
from anomalib_tiled.stages.alignment import Aligner, Alignment, Matrix, Pixels, Reference
from anomalib_tiled.stages.reference_image import common_part
from anomalib_tiled.stages.registration import (
    Floats,
    Motion,
    between,
    locate,
    one_thread,
    placement,
    rigid,
    shrink,
)

MOST_IMAGES = 32
"""How many of the given images an aligner learns from; the others are not read."""


class Registration(Aligner):
    """Aligns by registering each image with a reference; subclasses say how a part may move.

    Args:
        motion: How the part may move.
        least_quality: An image that fits the reference less is not aligned.
    """

    def __init__(self, motion: Motion, least_quality: float) -> None:
        self._motion, self._least_quality = motion, least_quality
        name = type(self).__name__
        if not 0 < motion.shift <= 0.4:  # noqa: PLR2004
            message = f"{name} needs a max_shift above 0 and at most 0.4, got {motion.shift}."
            raise ValueError(message)
        if not 0 <= motion.degrees <= 180:  # noqa: PLR2004
            message = f"{name} needs a max_rotation from 0 to 180 degrees, got {motion.degrees}."
            raise ValueError(message)
        if not 0 < least_quality < 1:
            message = f"{name} needs a least_quality between 0 and 1, got {least_quality}."
            raise ValueError(message)

    def learn(self, images: Iterable[Pixels]) -> Reference:
        """Average the first images, moved to the median of their places; the numbers say how well they fit."""
        with one_thread():
            part = common_part([shrink(each) for each in islice(images, MOST_IMAGES)], self._locate, self._motion.kind)
        qualities = [each.quality for each in part.located.values()]
        return Reference(part.image, {"images": len(qualities), "quality": round(float(np.median(qualities)), 4)})

    def align(self, image: Pixels, reference: Reference) -> Alignment:
        """Register the image with the reference; the quality is the median correlation of windows."""
        with one_thread():
            matrix, quality = self._locate(small := shrink(image), reference.image)
        matrix = between(matrix, small.shape, image.shape)
        if self._motion.kind == cv2.MOTION_EUCLIDEAN:  # small images may have sides of a slightly other ratio
            matrix = rigid(placement(matrix, image.shape), image.shape)
        return Alignment(_as_tuple(matrix), quality)

    def _locate(self, image: Pixels, reference: Pixels) -> tuple[Floats, float]:
        matrix, quality = locate(image, reference, self._motion)
        if quality < self._least_quality:
            message = f"It fits the reference by {quality:.2f} of 1, at least {self._least_quality:g} is needed."
            raise UnalignedError(message)
        return matrix, quality


class Translation(Registration):
    """Shift: phase correlation, refined to fractions of a pixel.

    Args:
        max_shift: Farthest shift to look for, as a fraction of the image side; above 0, at most 0.4.
        least_quality: Quality, between 0 and 1, below which an image counts as unaligned.
    """

    def __init__(self, max_shift: float = 0.15, least_quality: float = 0.6) -> None:
        super().__init__(Motion(cv2.MOTION_TRANSLATION, max_shift), least_quality)


class Rigid(Registration):
    """Shift and rotation: phase correlation in steps of rotation, refined.

    Args:
        max_shift: Farthest shift to look for, as a fraction of the image side; above 0, at most 0.4.
        max_rotation: Largest rotation to look for, in degrees to either side; at most 180.
        least_quality: Quality, between 0 and 1, below which an image counts as unaligned.
    """

    def __init__(self, max_shift: float = 0.15, max_rotation: float = 10.0, least_quality: float = 0.6) -> None:
        super().__init__(Motion(cv2.MOTION_EUCLIDEAN, max_shift, max_rotation), least_quality)


class Affine(Registration):
    """Shift, rotation, scale and shear: from the best shift and rotation on, refined.

    Args:
        max_shift: Farthest shift to look for, as a fraction of the image side; above 0, at most 0.4.
        max_rotation: Largest rotation to look for, in degrees to either side; at most 180.
        least_quality: Quality, between 0 and 1, below which an image counts as unaligned.
    """

    def __init__(self, max_shift: float = 0.15, max_rotation: float = 10.0, least_quality: float = 0.6) -> None:
        super().__init__(Motion(cv2.MOTION_AFFINE, max_shift, max_rotation, _BEND), least_quality)


class Homography(Registration):
    """Perspective: a flat part seen at changing angles; from the best shift and rotation on, refined.

    Args:
        max_shift: Farthest shift to look for, as a fraction of the image side; above 0, at most 0.4.
        max_rotation: Largest rotation to look for, in degrees to either side; at most 180.
        least_quality: Quality, between 0 and 1, below which an image counts as unaligned.
    """

    def __init__(self, max_shift: float = 0.15, max_rotation: float = 10.0, least_quality: float = 0.6) -> None:
        super().__init__(Motion(cv2.MOTION_HOMOGRAPHY, max_shift, max_rotation, _BEND), least_quality)


_BEND = 0.04
"""Farthest that a corner may move beyond shift and rotation: no camera that looks at the same part moves it more."""


def _as_tuple(matrix: Floats) -> Matrix:
    a, b, c, d, e, f, g, h, i = (float(value) for value in (matrix / matrix[2, 2]).ravel())
    return (a, b, c, d, e, f, g, h, i)
