"""Pictures of circuit boards: bare, with parts, and as a camera sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from anomalib_tiled.data.board_layout import SHORTER_SIDE, Box, Layout, Part, Point, Trace, lay_out, route
from anomalib_tiled.grid import Size

Colour = tuple[int, ...] | int

SUPERSAMPLING = 2
"""Canvas pixels per image pixel, along each side."""

MARGIN = 18
"""How far pins and shadow may stand out of a body, in units."""

SUBSTRATE = (24, 74, 46)
COPPER_BELOW_MASK = (36, 104, 62)
TRACE = (58, 134, 78)
TIN = (150, 150, 140)
GOLD = (190, 164, 88)
SILKSCREEN = (200, 204, 196)
DRILLED = (22, 24, 24)
PLASTIC = (38, 39, 42)
PLASTIC_EDGE = (58, 59, 62)
METAL = (168, 171, 174)
BRIGHT_METAL = (200, 202, 204)
PRINT = (176, 178, 180)
SHADOW = (6, 22, 12, 120)


class Pen:
    """Draws shapes given in board units on a canvas of any resolution.

    Args:
        canvas: What to draw on.
        scale: Canvas pixels per unit.
        origin: The place on the board, in units, of the canvas's top left corner.
    """

    def __init__(self, canvas: Image.Image, scale: float, origin: tuple[float, float] = (0, 0)) -> None:
        self.canvas, self.scale, self.origin = canvas, scale, origin
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

    def text(self, centre: Point, text: str, *, height: float, colour: Colour = PRINT) -> None:
        """Write a line of text ``height`` units high around a centre."""
        font = _font(max(4, round(height * self.scale)))
        self._draw.text(self._pixel(centre), text, fill=colour, font=font, anchor="mm")

    def _pixel(self, point: Point) -> tuple[float, float]:
        return (point.x - self.origin[0]) * self.scale, (point.y - self.origin[1]) * self.scale

    def _corners(self, box: Box) -> tuple[float, float, float, float]:
        left, top = self._pixel(Point(box.left, box.top))
        right, bottom = self._pixel(Point(box.right, box.bottom))
        return left, top, max(left, right - 1), max(top, bottom - 1)

    def _thickness(self, width: float) -> int:
        return max(1, round(width * self.scale))


@cache
def _font(pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=pixels)


@dataclass(frozen=True)
class Board:
    """One board, ready to be populated over and over.

    Args:
        layout: Places of all parts.
        traces: The copper traces.
        scale: Canvas pixels per unit.
        bare: Canvas of the board without parts.
        bodies: A transparent picture of each of the layout's parts, which reaches ``MARGIN`` units beyond its body.
    """

    layout: Layout
    traces: tuple[Trace, ...]
    scale: float
    bare: Image.Image
    bodies: tuple[Image.Image, ...]


def manufacture(image_size: Size, random: Generator) -> Board:
    """Lay out a board and draw everything that is the same in all of its images.

    Args:
        image_size: Height and width of the images in pixels.
        random: Decides the layout.
    """
    scale = SUPERSAMPLING * min(image_size) / SHORTER_SIDE
    layout = lay_out(image_size, random)
    traces = route(layout, random)
    canvas = Image.new("RGB", (SUPERSAMPLING * image_size.width, SUPERSAMPLING * image_size.height), SUBSTRATE)
    _draw_bare(Pen(canvas, scale), layout, traces)
    bodies = tuple(_draw_part(part, scale) for part in layout.parts)
    return Board(layout, traces, scale, _roughened(canvas, random), bodies)


def populate(board: Board, random: Generator) -> Image.Image:
    """Put all parts onto the bare board, each about half an image pixel off its place.

    Args:
        board: The board.
        random: Decides the displacements, up to 1 image pixel.

    Returns:
        A canvas.
    """
    canvas = board.bare.copy()
    displacements = np.clip(np.rint(random.normal(scale=0.8, size=(len(board.bodies), 2))), -2, 2).astype(int)
    for part, body, (x, y) in zip(board.layout.parts, board.bodies, displacements, strict=True):
        frame = part.body.grown(MARGIN)
        canvas.paste(body, (round(frame.left * board.scale) + int(x), round(frame.top * board.scale) + int(y)), body)
    return canvas


def develop(canvas: Image.Image) -> NDArray[np.uint8]:
    """Bring a canvas to the resolution of the images: red, green and blue, shape (height, width, 3)."""
    return np.asarray(canvas.reduce(SUPERSAMPLING))


def photograph(picture: NDArray[np.uint8], random: Generator) -> NDArray[np.uint8]:
    """Photograph a board: brightness, uneven light, tint and sensor noise differ from shot to shot.

    Args:
        picture: The board without light, shape (height, width, 3).
        random: Decides the differences. Those that do not depend on the picture are the same for every
            picture of this size, so that two boards photographed alike differ where the boards differ.

    Returns:
        The photograph, shape (height, width, 3).
    """
    height, width, _ = picture.shape
    gain, slope_x, slope_y = random.uniform((0.94, -0.04, -0.04), (1.06, 0.04, 0.04))
    tint = random.uniform(0.985, 1.015, size=3)
    light = gain * (1 + slope_x * np.linspace(-1, 1, width) + slope_y * np.linspace(-1, 1, height)[:, None])
    seen = random.standard_normal(picture.shape, dtype=np.float32)
    seen *= np.float32(2.0)
    seen += picture * (light[:, :, None] * tint).astype(np.float32)
    return np.clip(np.rint(seen, out=seen), 0, 255, out=seen).astype(np.uint8)


def _draw_bare(pen: Pen, layout: Layout, traces: tuple[Trace, ...]) -> None:
    """Draw ground plane, traces with a via at every open end, what belongs to each part, and screw holes."""
    pen.box(layout.frame.grown(-10), COPPER_BELOW_MASK, radius=14)
    for trace in traces:
        pen.line(trace, SUBSTRATE, width=8)
    for trace in traces:
        pen.line(trace, TRACE, width=3.5)
    for trace in traces:
        pen.disc(trace[-1], TIN, radius=5.5)
        pen.disc(trace[-1], DRILLED, radius=2.5)
    for part in layout.parts:
        _draw_footprint(pen, part)
    for hole in layout.holes:
        pen.disc(hole, GOLD, radius=46)
        pen.disc(hole, DRILLED, radius=26)


def _draw_footprint(pen: Pen, part: Part) -> None:
    """Draw pads, the outline printed around the part, and the mark of its first pin."""
    pen.outline(part.body.grown(3), SILKSCREEN, width=1.5)
    pen.disc(Point(part.body.left - 7, part.body.top - 7), SILKSCREEN, radius=2.5)
    for pad in part.pads:
        pen.box(pad.box.grown(1.5), SUBSTRATE)
        pen.box(pad.box, GOLD if part.kind == "header" else TIN, radius=1)


def _roughened(canvas: Image.Image, random: Generator) -> Image.Image:
    """Give the board's surface a grain that is the same in all images."""
    grain = random.normal(scale=5, size=(canvas.height, canvas.width, 1)).astype(np.float32)
    return Image.fromarray(np.clip(np.asarray(canvas) + grain, 0, 255).astype(np.uint8))


def _draw_part(part: Part, scale: float) -> Image.Image:
    frame = part.body.grown(MARGIN)
    picture = Image.new("RGBA", (round(frame.width * scale), round(frame.height * scale)))
    _LOOKS[part.kind](part, Pen(picture, scale, Point(frame.left, frame.top)))
    return picture


def _chip(part: Part, pen: Pen) -> None:
    body = part.body
    for pad in part.pads:
        x, y = pad.outwards
        pen.box(Box.around(pad.box.centre.moved(-5 * x, -5 * y), 14 if x else 5, 5 if x else 14), METAL)
    pen.box(body.moved(3, 3), SHADOW, radius=3)
    pen.box(body, PLASTIC_EDGE, radius=3)
    pen.box(body.grown(-3), PLASTIC, radius=2)
    pen.disc(Point(body.left + 10, body.top + 10), PLASTIC_EDGE, radius=4)
    height = min(body.width / 4.6, body.height / 3.2)
    pen.text(body.centre.moved(0, -height * 0.5), part.label, height=height)
    pen.text(body.centre.moved(0, height * 0.6), "24-17", height=height * 0.8)


def _resistor(part: Part, pen: Pen) -> None:
    _passive(part, pen, PLASTIC)
    pen.text(part.body.centre, part.label, height=10)


def _passive(part: Part, pen: Pen, colour: Colour = (164, 132, 92)) -> None:
    body = part.body
    pen.box(body.moved(2, 2), SHADOW, radius=2)
    pen.box(body, METAL, radius=2)
    lying = body.width > body.height
    pen.box(Box.around(body.centre, body.width - 14 * lying, body.height - 14 * (not lying)), colour)


def _can(part: Part, pen: Pen) -> None:
    """Draw an electrolytic capacitor: a metal can on a black base, the negative pole marked."""
    centre = part.body.centre
    pen.box(part.body.moved(3, 3), SHADOW, radius=12)
    pen.box(part.body, PLASTIC, radius=12)
    pen.disc(centre, METAL, radius=37)
    pen.disc(centre, BRIGHT_METAL, radius=33)
    pen.polygon([centre.moved(*corner) for corner in ((-32, -8), (-16, -28), (-16, 28), (-32, 8))], PLASTIC)
    pen.text(centre.moved(8, -8), part.label, height=17, colour=PLASTIC)
    pen.text(centre.moved(8, 10), "25V", height=13, colour=PLASTIC)


def _header(part: Part, pen: Pen) -> None:
    pen.box(part.body.moved(3, 3), SHADOW, radius=1)
    pen.box(part.body, PLASTIC_EDGE, radius=1)
    pen.box(part.body.grown(-3), PLASTIC)
    for pad in part.pads:
        pen.box(pad.box.grown(-1), (120, 102, 48))
        pen.box(pad.box.grown(-2.5), (206, 180, 96))


def _crystal(part: Part, pen: Pen) -> None:
    body = part.body
    pen.box(body.moved(3, 3), SHADOW, radius=20)
    pen.box(body, (134, 137, 140), radius=20)
    pen.box(body.grown(-3), METAL, radius=17)
    pen.box(body.grown(-7), BRIGHT_METAL, radius=13)
    pen.text(body.centre, part.label, height=15, colour=(86, 88, 90))


_LOOKS: dict[str, Callable[[Part, Pen], None]] = {
    "chip": _chip,
    "resistor": _resistor,
    "capacitor": _passive,
    "can": _can,
    "header": _header,
    "crystal": _crystal,
}
