"""Motifs: what the camera sees, before light, noise and the place of the part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path

import numpy as np
import skimage
from numpy.random import Generator
from PIL import Image

from anomalib_tiled.grid import Size
from benchmarks.quality.defects import SURFACE, Pixels, paint

PICTURES = Path(skimage.__file__).parent / "data"
"""Photographs that are installed with scikit-image; its others would be downloaded."""


class Motif(ABC):
    """What the camera sees.

    Args:
        size: Height and width of the images in pixels.
        margin: Pixels that pictures reach beyond the image on each side, so that the part can be moved.
    """

    kinds: tuple[str, ...] = SURFACE
    """Kinds of defects."""

    def __init__(self, size: Size, margin: int) -> None:
        self.size, self.margin = size, margin

    @property
    def canvas(self) -> Size:
        """Height and width of the pictures."""
        return Size(self.size.height + 2 * self.margin, self.size.width + 2 * self.margin)

    @abstractmethod
    def normal(self, random: Generator) -> Pixels:
        """Give a picture without a defect, shape (height, width, 3) of the canvas.

        Args:
            random: Decides what differs from picture to picture.
        """

    def spoilt(self, picture: Pixels, kind: str, random: Generator) -> Pixels:
        """Give a copy of a picture with a defect.

        Args:
            picture: A normal picture.
            kind: Kind of the defect.
            random: Decides place and shape.
        """
        return paint(picture, kind, random, margin=self.margin)


class Photograph(Motif):
    """One photograph, brought to the size of the canvas.

    Args:
        size: As for `Motif`.
        margin: As for `Motif`.
        name: File of the photograph.
    """

    def __init__(self, size: Size, margin: int, name: str) -> None:
        super().__init__(size, margin)
        self.name = name

    def normal(self, random: Generator) -> Pixels:
        """Give the photograph; all are the same before light, noise and place."""
        del random
        return self._resized

    @cached_property
    def _resized(self) -> Pixels:
        """The middle of the photograph, with the proportions of the canvas."""
        photograph = Image.open(PICTURES / self.name).convert("RGB")
        return np.asarray(
            photograph.resize(self.canvas[::-1], Image.Resampling.BICUBIC, _middle(photograph, self.canvas))
        )


class Texture(Motif):
    """Crops of a texture at random places and turned over at random.

    Crops of training and test show the same material, and so overlap, but never at the same places of the image.

    Args:
        size: As for `Motif`.
        name: File of the texture.
    """

    def __init__(self, size: Size, name: str) -> None:
        super().__init__(size, margin=0)
        self.name = name

    def normal(self, random: Generator) -> Pixels:
        """Cut at a random place."""
        height, width, _ = self._whole.shape
        top, left = random.integers((height - self.size.height + 1, width - self.size.width + 1))
        crop = self._whole[top : top + self.size.height, left : left + self.size.width]
        vertically, horizontally = random.choice((-1, 1), size=2)
        return np.ascontiguousarray(crop[::vertically, ::horizontally])

    @cached_property
    def _whole(self) -> Pixels:
        return np.asarray(Image.open(PICTURES / self.name).convert("RGB"))


def _middle(picture: Image.Image, shape: Size) -> tuple[float, float, float, float]:
    """Give the largest box in the middle of a picture that has the proportions of a shape."""
    scale = min(picture.width / shape.width, picture.height / shape.height)
    width, height = scale * shape.width, scale * shape.height
    left, top = max(0, (picture.width - width) / 2), max(0, (picture.height - height) / 2)  # rounding errors
    return left, top, min(picture.width, left + width), min(picture.height, top + height)
