"""Traces between the parts of a board: lines on a lattice that never cross."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anomalib_tiled.data.board_layout import Box, Layout, Point

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

LATTICE = 8
"""Distance of neighbouring traces in units: half a pin pitch."""

SCREW_CLEARANCE = 52

_HEADINGS = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))
_SHORTEST = 3

Node = tuple[int, int]
Trace = tuple[Point, ...]


def route(layout: Layout, random: Generator) -> tuple[Trace, ...]:
    """Lead a trace out of every pad that has room for one, then fill the free area with more.

    Args:
        layout: Places of the parts.
        random: Decides the turns.

    Returns:
        One sequence of points per trace, neighbouring points one lattice step apart.
    """
    free = _free_nodes(layout)
    traces = [
        walked
        for part in layout.parts
        for pad in part.pads
        if (walked := _from_pad(free, pad.box, (int(pad.outwards.x), int(pad.outwards.y)), random))
    ]
    for _ in range(free.size // 40):
        start = (int(random.integers(free.shape[0])), int(random.integers(free.shape[1])))
        if free[start]:
            traces.append(_walk(free, start, int(random.integers(8)), random))
    return tuple(tuple(Point(x * LATTICE, y * LATTICE) for x, y in trace) for trace in traces if len(trace) > _SHORTEST)


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


def _from_pad(free: NDArray[np.bool_], pad: Box, outwards: Node, random: Generator) -> list[Node]:
    """Start at the first node beyond the pad; the trace begins under the pad."""
    inside = (round(pad.centre.x / LATTICE), round(pad.centre.y / LATTICE))
    node = inside
    for _ in range(2):
        node = (node[0] + outwards[0], node[1] + outwards[1])
        if free[node]:
            return [inside, *_walk(free, node, _HEADINGS.index(outwards), random)]
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
