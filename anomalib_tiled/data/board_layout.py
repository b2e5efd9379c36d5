"""Places on a circuit board: blocks, parts, pads, screw holes and traces, in units instead of pixels.

A board measures 1024 units along its shorter side, whatever its resolution. It is divided into blocks of 128 units,
so that every tile of a 4 x 4 grid has at least four of them, and each block holds something:

    ┌────┬────┬────┬────┐
    │ ◯  │▭▭▭ │ ┌┴┴┴┴┐  │   screw hole, passives, a large chip over four blocks
    ├────┼────┤ ┤    ├  │
    │ ●  │┤▓▓├│ └┬┬┬┬┘  │   can, chip
    └────┴────┴────┴────┘

Traces are lines on a lattice of 8 units that never cross.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from anomalib_tiled.grid import Size

SHORTER_SIDE = 1024
BLOCK = 128
PIN_PITCH = 16
LATTICE = 8
SCREW_CLEARANCE = 52

_BLOCK_SHARES = {"quad": 0.12, "dual": 0.20, "passives": 0.42, "can": 0.09, "header": 0.10, "crystal": 0.07}
_BETWEEN_TWO_PADS = {
    "can": (84, 84, 44, 14, ["47", "100", "220", "470"]),
    "crystal": (88, 40, 48, 16, ["8.000", "16.00", "25.00"]),
}
_SIDES = ((-1, 0), (0, -1), (1, 0), (0, 1))
_HEADINGS = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))
_SHORTEST_TRACE = 3


class Point(NamedTuple):
    """A place on the board in units, from the top left."""

    x: float
    y: float

    def moved(self, x: float, y: float) -> Point:
        """Move the point by units to the right and down."""
        return Point(self.x + x, self.y + y)


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


class Part(NamedTuple):
    """A component.

    Args:
        kind: ``chip``, ``resistor``, ``capacitor``, ``can``, ``header`` or ``crystal``.
        body: Area that the part covers, without its pins.
        pads: Pads that it is soldered to; neighbours on a chip's side follow each other.
        label: Text printed on or beside it.
    """

    kind: str
    body: Box
    pads: tuple[Pad, ...]
    label: str


Node = tuple[int, int]
Trace = tuple[Point, ...]


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
    last_row, last_column = max(blocks)
    holes = [(0, 0), (0, last_column), (last_row, 0), (last_row, last_column)]
    free = set(blocks) - set(holes)
    parts = [*_large_chips(blocks, free, random)]
    for block in sorted(free):
        parts.extend(_block_parts(blocks[block], len(parts), random))
    return Layout(width, height, tuple(parts), tuple(blocks[hole] for hole in holes))


def _blocks(width: float, height: float) -> dict[Node, Point]:
    """Centres of the blocks by (row, column); the margin is a whole number of half pin pitches."""
    rows, columns = int(height // BLOCK), int(width // BLOCK)
    half = PIN_PITCH / 2
    left = (width - columns * BLOCK) // 2 // half * half + BLOCK / 2
    top = (height - rows * BLOCK) // 2 // half * half + BLOCK / 2
    places = product(range(rows), range(columns))
    return {(row, column): Point(left + column * BLOCK, top + row * BLOCK) for row, column in places}


def _large_chips(blocks: dict[Node, Point], free: set[Node], random: Generator) -> Iterator[Part]:
    """Put chips over 2 x 2 free blocks, about one for every twenty blocks, and take those blocks out of the free."""
    candidates = sorted(free)
    random.shuffle(candidates)
    wanted = len(blocks) // 20
    for row, column in candidates:
        quarter = {(row + down, column + right) for down, right in product(range(2), repeat=2)}
        if wanted and quarter <= free:
            free -= quarter
            wanted -= 1
            yield _chip(blocks[row, column].moved(BLOCK / 2, BLOCK / 2), random, width=168, height=168)


def _block_parts(centre: Point, number: int, random: Generator) -> list[Part]:
    kind = str(random.choice(list(_BLOCK_SHARES), p=list(_BLOCK_SHARES.values())))
    if kind == "passives":
        return _passives(centre, random)
    if kind == "quad":
        return [_chip(centre, random, width=72, height=72)]
    if kind == "dual":
        if random.integers(2):
            return [_chip(centre, random, width=48, height=88, sides=_SIDES[::2])]
        return [_chip(centre, random, width=88, height=48, sides=_SIDES[1::2])]
    if kind in _BETWEEN_TWO_PADS:
        width, height, distance, pad_height, labels = _BETWEEN_TWO_PADS[kind]
        pads = _lying_pads(centre, distance, width=24, height=pad_height)
        return [Part(kind, Box.around(centre, width, height), pads, str(random.choice(labels)))]
    return [_header(centre, number)]


def _passives(centre: Point, random: Generator) -> list[Part]:
    """Four to six resistors and capacitors in two columns or, standing, in two rows."""
    places = [(x, y) for x in (-32, 32) for y in (-40, 0, 40)]
    chosen = sorted(random.choice(len(places), size=random.integers(4, 7), replace=False))
    standing = bool(random.integers(2))
    along = -1 if standing else 1
    return [_passive(centre.moved(*places[place][::along]), random, standing=standing) for place in chosen]


def _passive(centre: Point, random: Generator, *, standing: bool) -> Part:
    kind = "resistor" if random.random() < 0.55 else "capacitor"  # noqa: PLR2004
    label = str(random.choice(["103", "472", "220", "101", "R10", "331"])) if kind == "resistor" else ""
    if standing:
        pads = tuple(Pad(Box.around(centre.moved(0, 16 * end), 22, 16), Point(0, end)) for end in (-1, 1))
        return Part(kind, Box.around(centre, 20, 40), pads, label)
    return Part(kind, Box.around(centre, 40, 20), _lying_pads(centre, 16, width=16, height=22), label)


def _lying_pads(centre: Point, distance: float, *, width: float, height: float) -> tuple[Pad, ...]:
    """Put a pad at this distance to the left and another to the right."""
    return tuple(Pad(Box.around(centre.moved(distance * x, 0), width, height), Point(x, 0)) for x in (-1, 1))


def _chip(centre: Point, random: Generator, *, width: float, height: float, sides: tuple[Node, ...] = _SIDES) -> Part:
    """Make a chip with pins on the sides that lie in these directions, (x, y)."""
    label = f"U{random.choice(list('ACDLNSTX'))}{random.integers(1000, 9999)}"
    pads: list[Pad] = []
    for x, y in sides:
        count = int(((height if x else width) - 4) // PIN_PITCH)
        side = centre.moved(x * (width / 2 + 8), y * (height / 2 + 8))
        for place in range(count):
            along = (place - (count - 1) / 2) * PIN_PITCH
            middle = side.moved(along * abs(y), along * abs(x))
            pads.append(Pad(Box.around(middle, 16 if x else 8, 8 if x else 16), Point(x, y)))
    return Part("chip", Box.around(centre, width, height), tuple(pads), label)


def _header(centre: Point, number: int) -> Part:
    """Make a plug of 2 x 6 pins."""
    pads = tuple(
        Pad(Box.around(centre.moved((place - 2.5) * PIN_PITCH, row * 8), 10, 10), Point(0, row))
        for row in (-1, 1)
        for place in range(6)
    )
    return Part("header", Box.around(centre, 104, 36), pads, f"J{number}")


def route(layout: Layout, random: Generator) -> tuple[Trace, ...]:
    """Lead a trace out of every pad that has room for one, then fill the free area with more.

    Args:
        layout: Places of the parts.
        random: Decides the turns.

    Returns:
        One sequence of points per trace, neighbouring points one lattice step apart.
    """
    free = _free_nodes(layout)
    traces = [_from_pad(free, pad, random) for part in layout.parts for pad in part.pads]
    for _ in range(free.size // 40):
        start = (int(random.integers(free.shape[0])), int(random.integers(free.shape[1])))
        if free[start]:
            traces.append(_walk(free, start, int(random.integers(8)), random))
    long = (trace for trace in traces if len(trace) > _SHORTEST_TRACE)
    return tuple(tuple(Point(x * LATTICE, y * LATTICE) for x, y in trace) for trace in long)


def _free_nodes(layout: Layout) -> NDArray[np.bool_]:
    """Nodes, by (x, y), that lie inside the board and outside every part, pad and screw hole."""
    free = np.zeros((int(layout.width // LATTICE) + 1, int(layout.height // LATTICE) + 1), dtype=np.bool_)
    free[2:-2, 2:-2] = True
    screws = [Box.around(hole, 2 * SCREW_CLEARANCE, 2 * SCREW_CLEARANCE) for hole in layout.holes]
    bodies = [part.body.grown(4) for part in layout.parts]
    pads = [pad.box.grown(3) for part in layout.parts for pad in part.pads]
    for box in (*screws, *bodies, *pads):
        left, top = int(np.ceil(box.left / LATTICE)), int(np.ceil(box.top / LATTICE))
        free[left : int(box.right // LATTICE) + 1, top : int(box.bottom // LATTICE) + 1] = False
    return free


def _from_pad(free: NDArray[np.bool_], pad: Pad, random: Generator) -> list[Node]:
    """Start at the first node beyond the pad; the trace begins under the pad."""
    x, y = int(pad.outwards.x), int(pad.outwards.y)
    inside = round(pad.box.centre.x / LATTICE), round(pad.box.centre.y / LATTICE)
    for step in (1, 2):
        node = inside[0] + step * x, inside[1] + step * y
        if free[node]:
            return [inside, *_walk(free, node, _HEADINGS.index((x, y)), random)]
    return []


def _walk(free: NDArray[np.bool_], start: Node, heading: int, random: Generator) -> list[Node]:
    """Extend a trace to a random length or a dead end, with turns by 45 degrees now and then; occupy its nodes."""
    free[start] = False
    nodes = [start]
    for turns in random.random(size=int(random.integers(8, 45))):
        turn = -1 if turns < 0.05 else 1 if turns > 0.95 else 0  # noqa: PLR2004
        ways = [(heading + change) % 8 for change in (turn, 0, 1, -1) if _is_open(free, nodes[-1], heading + change)]
        if not ways:
            break
        heading = ways[0]
        nodes.append((nodes[-1][0] + _HEADINGS[heading][0], nodes[-1][1] + _HEADINGS[heading][1]))
        free[nodes[-1]] = False
    return nodes


def _is_open(free: NDArray[np.bool_], node: Node, heading: int) -> bool:
    """Say whether the next node is free and no other trace passes between the two."""
    x, y = _HEADINGS[heading % 8]
    crossed = not free[node[0] + x, node[1]] and not free[node[0], node[1] + y]
    return bool(free[node[0] + x, node[1] + y]) and not (x and y and crossed)
