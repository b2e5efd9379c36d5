"""Where parts lie in training images that are not aligned, and which new images show them elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
import torch

from anomalib_tiled.data.images import Pixels
from anomalib_tiled.errors import DataError, UnalignedError
from anomalib_tiled.grid import Size
from anomalib_tiled.stages.reference_image import common_part
from anomalib_tiled.stages.registration import (
    Floats,
    Motion,
    between,
    corners,
    locate,
    locate_near,
    moved,
    one_thread,
    placement,
    shrink,
)

DISPLACED = "displaced"
"""Kind of the warnings about images that show their part elsewhere."""

ADVICE = "A model per tile expects the same place. Set alignment: Rigid in a new run, or see docs/how-to.md."

_SIDE = 256  # of a small image; shifts are found to 0.1 of its pixels
_MOTION = Motion(cv2.MOTION_EUCLIDEAN, shift=0.15, degrees=6)
_LEAST_QUALITY = 0.8  # a pattern that repeats, such as bricks, fits itself elsewhere by up to 0.78
_TOLERANCE = 2.0  # pixels; models see no less


@dataclass(frozen=True)
class Displacement:
    """How far parts lie from a reference.

    Args:
        pixels: Distance that the middle of the image has moved.
        degrees: Rotation, at least 0.
        corner: Largest distance that a corner of the image has moved, in pixels.
    """

    pixels: float = 0.0
    degrees: float = 0.0
    corner: float = 0.0

    def __str__(self) -> str:
        """Give both amounts with their units."""
        return f"{self.pixels:.1f} pixels and {self.degrees:.1f} degrees"

    @classmethod
    def of(cls, matrix: Floats, shape: tuple[int, ...], size: Size) -> Displacement:
        """Measure the matrix of a small image, in pixels of the size that the ensemble takes."""
        matrix = between(matrix, shape, size)
        place, points = placement(matrix, size), corners(size)
        corner = float(np.hypot(*(moved(matrix, points) - points).T).max())
        return cls(float(np.hypot(place.right, place.down)), abs(place.degrees), corner)

    def farthest(self, other: Displacement) -> Displacement:
        """Take the larger amounts of two."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Displacement(*(max(pair) for pair in pairs))


@dataclass(frozen=True, eq=False)
class TrainedPlacement:
    """Where parts lie in the training images.

    Args:
        image: The part in the middle of its places, small and grey, shape (height, width).
        size: Size of the images that the ensemble takes.
        farthest: The largest displacements of training images.
        compared: Number of training images that show the part.
        images: Number of images that were looked at.
    """

    image: Pixels
    size: Size
    farthest: Displacement
    compared: int
    images: int

    @classmethod
    def learn(cls, images: Iterable[Pixels], size: Size) -> TrainedPlacement | None:
        """Look at training images; give ``None`` if they show no common part, such as a texture.

        Args:
            images: Some of the training images, each of shape (height, width, 3).
            size: Their size.
        """
        with one_thread():
            small = [shrink(image, _SIDE) for image in images]
            try:
                part = common_part(small, _locate, _MOTION.kind)
            except DataError:
                return None
        farthest = Displacement()
        for each in part.located.values():
            farthest = farthest.farthest(Displacement.of(each.matrix, part.image.shape, size))
        return cls(part.image, size, farthest, len(part.located), len(small))

    def note(self) -> str | None:
        """Say that training images show the part in different places; ``None`` if they do not."""
        if self.farthest.corner <= self._tolerance:
            return None
        return (
            f"Parts lie up to {self.farthest} from the middle of their places in the training images "
            f"({self.compared} of {self.images} could be compared). {ADVICE}"
        )

    def remark(self, image: object, pixels: torch.Tensor) -> str | None:
        """Say that an image shows the part elsewhere than training images; ``None`` if it does not, or shows no part.

        Args:
            image: Name of the image.
            pixels: The image, values from 0 to 1, shape (3, height, width).
        """
        with one_thread():
            try:
                matrix, _ = _locate(_shrunk(pixels, self.image.shape), self.image)
            except UnalignedError:
                return None
        found = Displacement.of(matrix, self.image.shape, self.size)
        if found.corner <= self.farthest.corner + self._tolerance:
            return None
        return (
            f"{image} shows its part {found} from where the training images do, which differ by up to {self.farthest}; "
            f"its score is less reliable. {ADVICE}"
        )

    @property
    def _tolerance(self) -> float:
        return max(_TOLERANCE, max(self.size) / 1024)

    def to_bytes(self) -> bytes:
        """Give the content of a file."""
        file = BytesIO()
        np.savez_compressed(
            file,
            image=self.image,
            size=np.array(self.size),
            compared=np.array(self.compared),
            images=np.array(self.images),
            pixels=np.array(self.farthest.pixels),
            degrees=np.array(self.farthest.degrees),
            corner=np.array(self.farthest.corner),
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> TrainedPlacement:
        """Read the content of a file."""
        with np.load(BytesIO(content), allow_pickle=False) as file:
            farthest = Displacement(*(float(file[name]) for name in ("pixels", "degrees", "corner")))
            size = Size(*(int(side) for side in file["size"]))
            return cls(file["image"], size, farthest, int(file["compared"]), int(file["images"]))


def _locate(image: Pixels, reference: Pixels) -> tuple[Floats, float]:
    """Find the part; first near the middle of its places, where it nearly always is."""
    with suppress(UnalignedError):
        matrix, quality = locate_near(image, reference, _MOTION)
        if quality >= _LEAST_QUALITY:
            return matrix, quality
    matrix, quality = locate(image, reference, _MOTION)
    if quality < _LEAST_QUALITY:
        message = f"It fits the reference by {quality:.2f} of 1."
        raise UnalignedError(message)
    return matrix, quality


def _shrunk(pixels: torch.Tensor, shape: tuple[int, ...]) -> Pixels:
    """Make a small grey image of a tensor, channel by channel, which takes less than to reorder it."""
    channels = [cv2.resize(each.numpy(), shape[::-1], interpolation=cv2.INTER_AREA) for each in pixels.cpu()]
    grey = cv2.cvtColor(np.stack(channels, axis=-1), cv2.COLOR_RGB2GRAY)
    return np.asarray(np.rint(grey * 255).clip(0, 255), np.uint8)
