"""Places on a circuit board: blocks, parts, pads and screw holes, in units instead of pixels.

A board measures 1024 units along its shorter side, whatever its resolution. It is divided into blocks of 128 units,
so that every tile of a 4 x 4 grid has at least four of them, and each block holds something:

    ┌────┬────┬────┬────┐
    │ ◯  │▭▭▭ │ ┌┴┴┴┴┐  │   screw hole, passives, a large chip over four blocks
    ├────┼────┤ ┤    ├  │
    │ ●  │┤▓▓├│ └┬┬┬┬┘  │   can, chip
    └────┴────┴────┴────┘
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.random import Generator

    from anomalib_tiled.grid import Size


SHORTER_SIDE = 1024
BLOCK = 128
PIN_PITCH = 16

PartKind = Literal["chip", "resistor", "capacitor", "can", "header", "crystal"]
BlockKind = Literal["quad", "dual", "passives", "can", "header", "crystal"]

_BLOCK_SHARES: dict[BlockKind, float] = {
    "quad": 0.12,
    "dual": 0.20,
    "passives": 0.42,
    "can": 0.09,
    "header": 0.10,
    "crystal": 0.07,
}


class Point(NamedTuple):
    """A place on the board in units, from the top left."""

    x: float
    y: float


class Box(NamedTuple):
    """An upright rectangle on the board in units."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, centre: Point, width: float, height: float) -> Box:
        """Make a box of this width and height in units."""
        return cls(centre.x - width / 2, centre.y - height / 2, centre.x + width / 2, centre.y + height / 2)

    @property
    def width(self) -> float:
        """Width in units."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Height in units."""
        return self.bottom - self.top

    @property
    def centre(self) -> Point:
        """The middle."""
        return Point((self.left + self.right) / 2, (self.top + self.bottom) / 2)

    def grown(self, margin: float) -> Box:
        """Move every side outwards by a margin in units."""
        return Box(self.left - margin, self.top - margin, self.right + margin, self.bottom + margin)

    def moved(self, x: float, y: float) -> Box:
        """Move the box by units to the right and down."""
        return Box(self.left + x, self.top + y, self.right + x, self.bottom + y)


class Pad(NamedTuple):
    """Metal that a pin is soldered to, and the direction (x, y) in which its trace leaves."""

    box: Box
    outwards: Point


@dataclass(frozen=True)
class Part:
    """A component.

    Args:
        kind: Kind of component.
        body: Area that the part covers, without its pins.
        pads: Pads that it is soldered to; neighbours on a chip's side follow each other.
        label: Text printed on or beside it.
    """

    kind: PartKind
    body: Box
    pads: tuple[Pad, ...]
    label: str


@dataclass(frozen=True)
class Layout:
    """Everything that lies at the same place in all images.

    Args:
        width: Width of the board in units.
        height: Height of the board in units.
        parts: The components; they do not overlap.
        holes: Centres of the screw holes.
    """

    width: float
    height: float
    parts: tuple[Part, ...]
    holes: tuple[Point, ...]

    @property
    def frame(self) -> Box:
        """The whole board."""
        return Box(0, 0, self.width, self.height)


def lay_out(image_size: Size, random: Generator) -> Layout:
    """Fill a board of the image's proportions with parts.

    Args:
        image_size: Height and width of the images in pixels; only their ratio matters.
        random: Makes the choices.
    """
    unit = min(image_size) / SHORTER_SIDE
    width, height = image_size.width / unit, image_size.height / unit
    blocks = _blocks(width, height)
    holes = _corners(blocks)
    free = set(blocks) - holes
    parts = [*_large_chips(blocks, free, random)]
    for block in sorted(free):
        parts.extend(_block_parts(blocks[block], len(parts), random))
    return Layout(width, height, tuple(parts), tuple(blocks[hole] for hole in sorted(holes)))


def _blocks(width: float, height: float) -> dict[tuple[int, int], Point]:
    """Centres of the blocks by (row, column); the margin is a whole number of half pin pitches."""
    rows, columns = int(height // BLOCK), int(width // BLOCK)
    half = PIN_PITCH / 2
    left = (width - columns * BLOCK) // 2 // half * half + BLOCK / 2
    top = (height - rows * BLOCK) // 2 // half * half + BLOCK / 2
    return {
        (row, column): Point(left + column * BLOCK, top + row * BLOCK)
        for row, column in product(range(rows), range(columns))
    }


def _corners(blocks: dict[tuple[int, int], Point]) -> set[tuple[int, int]]:
    last_row, last_column = max(blocks)
    return {(0, 0), (0, last_column), (last_row, 0), (last_row, last_column)}


def _large_chips(blocks: dict[tuple[int, int], Point], free: set[tuple[int, int]], random: Generator) -> Iterator[Part]:
    """Put chips over 2 x 2 free blocks, about one for every twenty blocks, and take those blocks out of the free."""
    candidates = sorted(free)
    random.shuffle(candidates)
    wanted = len(blocks) // 20
    for row, column in candidates:
        quarter = {(row + down, column + right) for down, right in product(range(2), repeat=2)}
        if wanted and quarter <= free:
            free -= quarter
            wanted -= 1
            corner = blocks[row, column]
            yield _chip(Point(corner.x + BLOCK / 2, corner.y + BLOCK / 2), random, width=168, height=168)


def _block_parts(centre: Point, number: int, random: Generator) -> list[Part]:
    kind = random.choice(list(_BLOCK_SHARES), p=list(_BLOCK_SHARES.values()))
    if kind == "passives":
        return _passives(centre, random)
    if kind == "quad":
        return [_chip(centre, random, width=72, height=72)]
    if kind == "dual":
        return [_dual(centre, random)]
    if kind == "can":
        label = str(random.choice(["47", "100", "220", "470"]))
        return [Part("can", Box.around(centre, 84, 84), _lying_pads(centre, 44, width=24, height=14), label)]
    if kind == "crystal":
        label = str(random.choice(["8.000", "16.00", "25.00"]))
        return [Part("crystal", Box.around(centre, 88, 40), _lying_pads(centre, 48, width=24, height=16), label)]
    return [_header(centre, number)]


def _passives(centre: Point, random: Generator) -> list[Part]:
    """Four to six resistors and capacitors in two columns or, standing, in two rows."""
    places = [(x, y) for x in (-32, 32) for y in (-40, 0, 40)]
    chosen = sorted(random.choice(len(places), size=random.integers(4, 7), replace=False))
    standing = bool(random.integers(2))
    return [_passive(centre, places[place], standing=standing, random=random) for place in chosen]


def _passive(centre: Point, place: tuple[int, int], *, standing: bool, random: Generator) -> Part:
    kind: PartKind = "resistor" if random.random() < 0.55 else "capacitor"  # noqa: PLR2004
    label = str(random.choice(["103", "472", "220", "101", "R10", "331"])) if kind == "resistor" else ""
    if standing:
        middle = Point(centre.x + place[1], centre.y + place[0])
        pads = [Pad(Box.around(Point(middle.x, middle.y + 16 * end), 22, 16), Point(0, end)) for end in (-1, 1)]
        return Part(kind, Box.around(middle, 20, 40), tuple(pads), label)
    middle = Point(centre.x + place[0], centre.y + place[1])
    return Part(kind, Box.around(middle, 40, 20), _lying_pads(middle, 16, width=16, height=22), label)


def _lying_pads(centre: Point, distance: float, *, width: float, height: float) -> tuple[Pad, ...]:
    """Put a pad at this distance to the left and another to the right."""
    return tuple(Pad(Box.around(Point(centre.x + distance * x, centre.y), width, height), Point(x, 0)) for x in (-1, 1))


def _dual(centre: Point, random: Generator) -> Part:
    """Make a chip with pins on two opposite sides."""
    if random.integers(2):
        return _chip(centre, random, width=48, height=88, sides=((-1, 0), (1, 0)))
    return _chip(centre, random, width=88, height=48, sides=((0, -1), (0, 1)))


def _chip(
    centre: Point,
    random: Generator,
    *,
    width: float,
    height: float,
    sides: tuple[tuple[int, int], ...] = ((-1, 0), (0, -1), (1, 0), (0, 1)),
) -> Part:
    """Make a chip with pins on the sides that lie in these directions, (x, y)."""
    label = f"U{random.choice(list('ACDLNSTX'))}{random.integers(1000, 9999)}"
    pads: list[Pad] = []
    for x, y in sides:
        length = height if x else width
        count = int((length - 4) // PIN_PITCH)
        for place in range(count):
            along = (place - (count - 1) / 2) * PIN_PITCH
            middle = Point(
                centre.x + x * (width / 2 + 8) + along * abs(y), centre.y + y * (height / 2 + 8) + along * abs(x)
            )
            pads.append(Pad(Box.around(middle, 16 if x else 8, 8 if x else 16), Point(x, y)))
    return Part("chip", Box.around(centre, width, height), tuple(pads), label)


def _header(centre: Point, number: int) -> Part:
    """Make a plug of 2 x 6 pins."""
    pads = tuple(
        Pad(Box.around(Point(centre.x + (place - 2.5) * PIN_PITCH, centre.y + row * 8), 10, 10), Point(0, row))
        for row in (-1, 1)
        for place in range(6)
    )
    return Part("header", Box.around(centre, 104, 36), pads, f"J{number}")
