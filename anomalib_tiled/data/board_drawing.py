"""Pictures of circuit boards: bare, with parts, and as a camera sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from anomalib_tiled.data.board_layout import SHORTER_SIDE, Layout, Part, Point, lay_out
from anomalib_tiled.data.board_parts import MARGIN, draw_part
from anomalib_tiled.data.board_pen import Pen
from anomalib_tiled.data.board_traces import Trace, route

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from anomalib_tiled.grid import Size

SUPERSAMPLING = 2
"""Canvas pixels per image pixel, along each side."""

SUBSTRATE = (24, 74, 46)
COPPER_BELOW_MASK = (36, 104, 62)
TRACE = (58, 134, 78)
TIN = (150, 150, 140)
GOLD = (190, 164, 88)
SILKSCREEN = (200, 204, 196)
DRILLED = (22, 24, 24)


@dataclass(frozen=True)
class Board:
    """One board, ready to be populated over and over.

    Args:
        layout: Places of all parts.
        traces: The copper traces.
        scale: Canvas pixels per unit.
        bare: Canvas of the board without parts.
        bodies: A transparent picture of each of the layout's parts.
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
    bodies = tuple(draw_part(part, scale) for part in layout.parts)
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
    """Bring a canvas to the resolution of the images.

    Args:
        canvas: A populated board.

    Returns:
        Red, green and blue, shape (height, width, 3).
    """
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
    _draw_copper(pen, layout, traces)
    for part in layout.parts:
        _draw_footprint(pen, part)
    for hole in layout.holes:
        pen.disc(hole, GOLD, radius=46)
        pen.disc(hole, DRILLED, radius=26)


def _draw_copper(pen: Pen, layout: Layout, traces: tuple[Trace, ...]) -> None:
    """Draw the ground plane, kept clear of traces, and the traces with a via at every open end."""
    pen.box(layout.frame.grown(-10), COPPER_BELOW_MASK, radius=14)
    for trace in traces:
        pen.line(trace, SUBSTRATE, width=8)
    for trace in traces:
        pen.line(trace, TRACE, width=3.5)
    for trace in traces:
        pen.disc(trace[-1], TIN, radius=5.5)
        pen.disc(trace[-1], DRILLED, radius=2.5)


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
