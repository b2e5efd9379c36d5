"""Drawing in board units on a canvas of any resolution."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from PIL import ImageDraw, ImageFont

from anomalib_tiled.data.board_layout import Box, Point

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

Colour = tuple[int, int, int] | tuple[int, int, int, int] | int

BOARD_CORNER = Point(0, 0)


class Pen:
    """Draws shapes given in units.

    Args:
        canvas: What to draw on.
        scale: Canvas pixels per unit.
        origin: The place on the board, in units, of the canvas's top left corner.
    """

    def __init__(self, canvas: Image.Image, scale: float, origin: Point = BOARD_CORNER) -> None:
        self.canvas = canvas
        self.scale = scale
        self.origin = origin
        self._draw = ImageDraw.Draw(canvas)

    def box(self, box: Box, colour: Colour, *, radius: float = 0) -> None:
        """Fill a rectangle; the corners are rounded by ``radius`` units."""
        self._draw.rounded_rectangle(self._corners(box), radius=radius * self.scale, fill=colour)

    def outline(self, box: Box, colour: Colour, *, width: float) -> None:
        """Draw the border of a rectangle, ``width`` units thick."""
        self._draw.rectangle(self._corners(box), outline=colour, width=self._thickness(width))

    def disc(self, centre: Point, colour: Colour, *, radius: float) -> None:
        """Fill a circle with a radius in units."""
        self._draw.ellipse(self._corners(Box.around(centre, 2 * radius, 2 * radius)), fill=colour)

    def line(self, points: Sequence[Point], colour: Colour, *, width: float) -> None:
        """Connect points by a line ``width`` units thick."""
        self._draw.line([self._pixel(point) for point in points], fill=colour, width=self._thickness(width))

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """Fill a polygon."""
        self._draw.polygon([self._pixel(point) for point in points], fill=colour)

    def text(self, centre: Point, text: str, *, height: float, colour: Colour) -> None:
        """Write a line of text ``height`` units high around a centre."""
        font = _font(max(4, round(height * self.scale)))
        self._draw.text(self._pixel(centre), text, fill=colour, font=font, anchor="mm")

    def _pixel(self, point: Point) -> tuple[float, float]:
        return (point.x - self.origin.x) * self.scale, (point.y - self.origin.y) * self.scale

    def _corners(self, box: Box) -> tuple[float, float, float, float]:
        left, top = self._pixel(Point(box.left, box.top))
        right, bottom = self._pixel(Point(box.right, box.bottom))
        return left, top, max(left, right - 1), max(top, bottom - 1)

    def _thickness(self, width: float) -> int:
        return max(1, round(width * self.scale))


@lru_cache(maxsize=32)
def _font(pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=pixels)
