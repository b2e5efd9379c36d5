"""Shapes that people draw, as pixels: a pixel belongs to a shape if its middle lies in it.

Coordinates count from the left and upper edge of the first pixel, as LabelMe and COCO do:

    x       0       1       2       3
            ├───────┼───────┼───────┤       from x = 0 to 2: pixels 0 and 1, whose middles are 0.5 and 1.5
    pixel       0       1       2

Pillow and OpenCV also fill each pixel that the outline touches, so that half of an image would be a column more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from anomalib_tiled.grid import Size

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]
Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""

MIDDLE = 0.5


class Shape(Protocol):
    """Something drawn on an image."""

    @property
    def box(self) -> Box | None:
        """How far it reaches, in pixels of the image that it was drawn on; ``None`` if it may reach beyond that."""

    def pixels(self, drawn_on: Size, size: Size) -> Mask:
        """Give its pixels in an image of another size, shape (height, width)."""


@dataclass(frozen=True, eq=False)
class Polygon:
    """A polygon; where it crosses itself, what lies inside an even number of times is outside.

    Args:
        points: x and y of the corners, shape (corners, 2).
    """

    points: Points

    @classmethod
    def rectangle(cls, left: float, top: float, right: float, bottom: float) -> Polygon:
        """Make a rectangle of its edges."""
        return cls(np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=np.float64))

    @property
    def box(self) -> Box:
        """How far it reaches."""
        (left, top), (right, bottom) = self.points.min(axis=0), self.points.max(axis=0)
        return float(left), float(top), float(right), float(bottom)

    def pixels(self, drawn_on: Size, size: Size) -> Mask:
        """Give its pixels: each row changes between outside and inside where its middle crosses an edge."""
        crossed = np.zeros((size.height, size.width + 1), dtype=np.bool_)
        points = self.points * (size.width / drawn_on.width, size.height / drawn_on.height)
        for start, end in pairwise([*points, points[0]]):
            (x, y), (to_x, to_y) = sorted((start, end), key=lambda point: float(point[1]))
            rows = np.arange(*np.clip(np.ceil(np.array([y, to_y]) - MIDDLE), 0, size.height).astype(int))
            if rows.size:
                across = x + (rows + MIDDLE - y) * (to_x - x) / (to_y - y)
                columns = np.clip(np.ceil(across - MIDDLE), 0, size.width).astype(int)
                crossed[rows, columns] ^= True
        inside: Mask = np.logical_xor.accumulate(crossed, axis=1)[:, :-1]
        return inside


@dataclass(frozen=True)
class Circle:
    """A circle, which may reach beyond the image.

    Args:
        x: Its middle, from the left.
        y: Its middle, from the top.
        radius: Its radius.
    """

    x: float
    y: float
    radius: float

    @property
    def box(self) -> Box | None:
        """``None``: circles at the border of an image are drawn beyond it."""
        return None

    def pixels(self, drawn_on: Size, size: Size) -> Mask:
        """Give its pixels: an ellipse if the image was drawn with other proportions."""
        down = (np.arange(size.height) + MIDDLE) * drawn_on.height / size.height - self.y
        right = (np.arange(size.width) + MIDDLE) * drawn_on.width / size.width - self.x
        inside: Mask = np.add.outer(down**2, right**2) <= self.radius**2
        return inside


@dataclass(frozen=True, eq=False)
class Bitmap:
    """Pixels of the image that was drawn on.

    Args:
        mask: Shape (height, width).
    """

    mask: Mask

    @property
    def box(self) -> Box | None:
        """``None``: pixels lie in their image."""
        return None

    def pixels(self, drawn_on: Size, size: Size) -> Mask:
        """Give the nearest pixels."""
        rows, columns = (
            ((np.arange(new) + MIDDLE) * old / new).astype(int) for new, old in zip(size, drawn_on, strict=True)
        )
        nearest: Mask = self.mask[rows[:, None], columns]
        return nearest


def joined(masks: Iterable[Mask], size: Size) -> Mask:
    """Join masks: pixels of any of them."""
    together = np.zeros(size, dtype=np.bool_)
    for mask in masks:
        together |= mask
    return together
