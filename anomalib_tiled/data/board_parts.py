"""Pictures of the parts, without the board below them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from anomalib_tiled.data.board_layout import Box, Part, PartKind, Point
from anomalib_tiled.data.board_pen import Pen

if TYPE_CHECKING:
    from collections.abc import Callable

MARGIN = 18
"""How far pins and shadow may stand out of a body, in units."""

PLASTIC = (38, 39, 42)
PLASTIC_EDGE = (58, 59, 62)
METAL = (168, 171, 174)
BRIGHT_METAL = (200, 202, 204)
PRINT = (176, 178, 180)
SHADOW = (6, 22, 12, 120)


def draw_part(part: Part, scale: float) -> Image.Image:
    """Draw a part on a transparent picture that reaches ``MARGIN`` units beyond its body.

    Args:
        part: The part.
        scale: Canvas pixels per unit.
    """
    frame = part.body.grown(MARGIN)
    picture = Image.new("RGBA", (round(frame.width * scale), round(frame.height * scale)))
    pen = Pen(picture, scale, Point(frame.left, frame.top))
    _LOOKS[part.kind](part, pen)
    return picture


def _chip(part: Part, pen: Pen) -> None:
    body = part.body
    for pad in part.pads:
        foot = pad.box.centre
        pin = Point(foot.x - 5 * pad.outwards.x, foot.y - 5 * pad.outwards.y)
        pen.box(Box.around(pin, 14 if pad.outwards.x else 5, 5 if pad.outwards.x else 14), METAL)
    pen.box(body.moved(3, 3), SHADOW, radius=3)
    pen.box(body, PLASTIC_EDGE, radius=3)
    pen.box(body.grown(-3), PLASTIC, radius=2)
    pen.disc(Point(body.left + 10, body.top + 10), PLASTIC_EDGE, radius=4)
    height = min(body.width / 4.6, body.height / 3.2)
    pen.text(Point(body.centre.x, body.centre.y - height * 0.5), part.label, height=height, colour=PRINT)
    pen.text(Point(body.centre.x, body.centre.y + height * 0.6), "24-17", height=height * 0.8, colour=PRINT)


def _resistor(part: Part, pen: Pen) -> None:
    _passive(part, pen, PLASTIC)
    pen.text(part.body.centre, part.label, height=10, colour=PRINT)


def _capacitor(part: Part, pen: Pen) -> None:
    _passive(part, pen, (164, 132, 92))


def _passive(part: Part, pen: Pen, colour: tuple[int, int, int]) -> None:
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
    pen.polygon(
        [
            Point(centre.x - 32, centre.y - 8),
            Point(centre.x - 16, centre.y - 28),
            Point(centre.x - 16, centre.y + 28),
            Point(centre.x - 32, centre.y + 8),
        ],
        PLASTIC,
    )
    pen.text(Point(centre.x + 8, centre.y - 8), part.label, height=17, colour=PLASTIC)
    pen.text(Point(centre.x + 8, centre.y + 10), "25V", height=13, colour=PLASTIC)


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


_LOOKS: dict[PartKind, Callable[[Part, Pen], None]] = {
    "chip": _chip,
    "resistor": _resistor,
    "capacitor": _capacitor,
    "can": _can,
    "header": _header,
    "crystal": _crystal,
}
