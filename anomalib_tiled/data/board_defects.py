"""Defects of circuit boards, and masks of the pixels that they change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from anomalib_tiled.data.board_drawing import MARGIN, Board, Pen, develop
from anomalib_tiled.data.board_layout import Part, Point

VISIBLE = 8
"""Smallest change of a colour channel, of 255 steps, that belongs to a defect."""

MOST_PER_IMAGE = 3


@dataclass(frozen=True)
class Damage:
    """A board on which a defect is drawn.

    Args:
        board: The board that the canvas shows.
        pen: Draws on the canvas.
        random: Decides places and shapes.
    """

    board: Board
    pen: Pen
    random: Generator

    def anywhere(self, margin: float) -> Point:
        """Choose a place at least ``margin`` units from the border."""
        frame = self.board.layout.frame.grown(-margin)
        return Point(self.random.uniform(frame.left, frame.right), self.random.uniform(frame.top, frame.bottom))

    def on_trace(self) -> Point:
        """Choose a place on a trace, and so beside all parts."""
        trace = self.board.traces[self.random.integers(len(self.board.traces))]
        return trace[self.random.integers(1, len(trace) - 1)]

    def any_part(self, *kinds: str) -> Part:
        """Choose a part of one of these kinds."""
        parts = [part for part in self.board.layout.parts if part.kind in kinds]
        return parts[self.random.integers(len(parts))]

    def blob(self, centre: Point, width: float, height: float) -> list[Point]:
        """Draw up a rough ellipse, ``width`` and ``height`` in units."""
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        reach = self.random.uniform(0.75, 1.0, size=angles.size) / 2
        radii = zip(reach, angles, strict=True)
        return [centre.moved(width * part * np.cos(angle), height * part * np.sin(angle)) for part, angle in radii]


def spoil(
    board: Board, canvas: Image.Image, *, kind: str, random: Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw one to three defects of a kind on a populated board.

    Args:
        board: The board that the canvas shows.
        canvas: The board with all its parts; it is not changed.
        kind: One of ``DEFECTS``.
        random: Decides number, places and shapes.

    Returns:
        The picture, shape (height, width, 3), and the mask of the pixels in which it differs from the picture without
        defects, shape (height, width). Changes too faint to see are left out of both.
    """
    spoilt = canvas.copy()
    for _ in range(random.integers(1, MOST_PER_IMAGE, endpoint=True)):
        DEFECTS[kind](Damage(board, Pen(spoilt, board.scale), random))
    before, after = develop(canvas), develop(spoilt)
    mask = np.abs(after.astype(np.int16) - before).max(axis=2) >= VISIBLE
    return np.where(mask[:, :, None], after, before), mask


def _scratch(damage: Damage) -> None:
    """Draw a bent line of bare metal, 60 to 130 units long."""
    start, angle = damage.anywhere(margin=90), damage.random.uniform(0, 2 * np.pi)
    length, bend = damage.random.uniform(60, 130), damage.random.uniform(-0.9, 0.9)
    points = [start]
    for step in range(12):
        direction = angle + bend * step / 12
        points.append(points[-1].moved(length / 12 * np.cos(direction), length / 12 * np.sin(direction)))
    damage.pen.line(points, (78, 66, 40), width=6)
    damage.pen.line(points, (202, 192, 160), width=3.5)


def _missing_part(damage: Damage) -> None:
    """Take a resistor or capacitor away: the bare board shows."""
    frame = damage.any_part("resistor", "capacitor").body.grown(MARGIN / 2)
    scale = damage.board.scale
    corner = (max(0, round(frame.left * scale)), max(0, round(frame.top * scale)))
    pixels = (*corner, round(frame.right * scale), round(frame.bottom * scale))
    damage.pen.canvas.paste(damage.board.bare.crop(pixels), corner)


def _solder_bridge(damage: Damage) -> None:
    """Join two or three neighbouring pins of a chip by a drop of tin."""
    pads = damage.any_part("chip").pads
    neighbours = [pair for pair in pairwise(pads) if pair[0].outwards == pair[1].outwards]
    one, other = (pad.box.centre for pad in neighbours[damage.random.integers(len(neighbours))])
    centre = Point((one.x + other.x) / 2, (one.y + other.y) / 2)
    width, height = 22 + abs(one.x - other.x) / 2, 22 + abs(one.y - other.y) / 2
    damage.pen.polygon(damage.blob(centre, width + 4, height + 4), (84, 86, 88))
    damage.pen.polygon(damage.blob(centre, width, height), (182, 186, 190))
    damage.pen.disc(centre.moved(-4, -4), (212, 212, 212), radius=3.5)


def _burnt_spot(damage: Damage) -> None:
    """Blacken a round spot of the board, 30 to 56 units across, with a soft edge."""
    centre, across = damage.on_trace(), damage.random.uniform(30, 56)
    scale = damage.board.scale
    veil = Image.new("L", (round(2 * across * scale),) * 2)
    pen = Pen(veil, scale, centre.moved(-across, -across))
    pen.polygon(damage.blob(centre, across * 1.15, across), 150)
    pen.polygon(damage.blob(centre, across * 0.8, across * 0.7), 235)
    veil = veil.filter(ImageFilter.GaussianBlur(2.5 * scale))
    corner = (round((centre.x - across) * scale), round((centre.y - across) * scale))
    damage.pen.canvas.paste((24, 14, 8), (*corner, corner[0] + veil.width, corner[1] + veil.height), veil)


def _cut_trace(damage: Damage) -> None:
    """Gouge a trace out of the board, down to the resin, its torn ends bare."""
    centre = damage.on_trace()
    width, height = damage.random.uniform(20, 38, size=2)
    damage.pen.polygon(damage.blob(centre, width + 8, height + 8), (206, 152, 104))
    damage.pen.polygon(damage.blob(centre, width, height), (146, 128, 78))
    damage.pen.polygon(damage.blob(centre, width * 0.6, height * 0.6), (120, 102, 60))


DEFECTS: dict[str, Callable[[Damage], None]] = {
    "scratch": _scratch,
    "missing_part": _missing_part,
    "solder_bridge": _solder_bridge,
    "burnt_spot": _burnt_spot,
    "cut_trace": _cut_trace,
}
