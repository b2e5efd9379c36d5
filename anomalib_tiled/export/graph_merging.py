"""Joining tiles by cutting and laying side by side, for graphs: nothing is written into a tensor that exists.

In a graph, writing into a part of an image copies the whole image. With a copy for each tile the work would grow with
the square of the image's area. Here each pixel is copied twice, for any number of tiles:

    tiles of a row of the grid      ├──────┤            between two cuts, the tiles that cover the place are joined;
                                        ├──────┤        what lies between cuts is laid side by side to a strip
    strip                           ├──────────┤        strips are joined to the image in the same way
"""

from __future__ import annotations

from functools import reduce
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import torch

from anomalib_tiled.stages.merging import Max, Merger, WindowMerger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anomalib_tiled.grid import Tile, TileGrid

    Join = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    Piece = tuple[slice, torch.Tensor]

IN_PLACE = ("start", "add", "finish")
"""Methods of built-in mergers that this module replaces, unless a subclass overrides them."""


def assembled(grid: TileGrid, tiles: Mapping[str, torch.Tensor], join: Join, nothing: float = 0) -> torch.Tensor:
    """Join tiles to images.

    Args:
        grid: Where the tiles lie.
        tiles: Values of each tile, by its name, shape (..., tile height, tile width).
        join: Joins the values of two tiles where they overlap; the order must not matter.
        nothing: Value of locations without a tile: joined with another value, it gives that value.

    Returns:
        Shape (..., image height, image width).
    """
    if without := grid.left_out | grid.ignored:
        tiles = {**tiles, **dict.fromkeys(without, torch.full_like(next(iter(tiles.values())), nothing))}
    strips: list[Piece] = []
    for _, row in groupby(grid.positions, key=lambda tile: tile.row):
        of_row = list(row)
        strip = _joined([(tile.columns, tiles[tile.name]) for tile in of_row], -1, join)
        strips.append((of_row[0].rows, strip))
    return _joined(strips, -2, join)


def _joined(pieces: list[Piece], dim: int, join: Join) -> torch.Tensor:
    cuts = sorted({edge for place, _ in pieces for edge in (place.start, place.stop)})
    parts = []
    for start, stop in pairwise(cuts):
        covering = [
            values.narrow(dim, start - place.start, stop - start)
            for place, values in pieces
            if place.start <= start and stop <= place.stop
        ]
        parts.append(reduce(join, covering))
    return torch.cat(parts, dim)


class _Assembled(Merger):
    """Keeps the maps until all are there."""

    def start(self, grid: TileGrid, batch: int, *, device: torch.device | None = None) -> None:
        """Begin without tiles."""
        del batch, device
        self._grid = grid
        self._tiles: dict[str, torch.Tensor] = {}

    def add(self, tile: Tile, maps: torch.Tensor) -> None:
        """Keep the maps."""
        self._tiles[tile.name] = maps


class AssembledMean(_Assembled):
    """Gives the same result as a merger with a window.

    Args:
        merger: The merger.
        grid: Where the tiles lie.
    """

    def __init__(self, merger: WindowMerger, grid: TileGrid) -> None:
        self.window = merger.window(grid.tile_size)
        weights = assembled(grid, {tile.name: self.window for tile in grid.tiles}, torch.add)
        self.weights = weights.masked_fill(weights == 0, 1)  # where no tile lies

    def finish(self) -> torch.Tensor:
        """Join the weighted maps, and divide by the weights."""
        weighted = {name: maps * self.window for name, maps in self._tiles.items()}
        return assembled(self._grid, weighted, torch.add) / self.weights


class AssembledMax(_Assembled):
    """Gives the same result as ``Max``."""

    def finish(self) -> torch.Tensor:
        """Join the maps by the higher score."""
        return assembled(self._grid, self._tiles, torch.maximum, -torch.inf)


def for_graphs(merger: Merger, grid: TileGrid) -> Merger:
    """Give a merger with the same results but a small graph; a merger of another package is not replaced."""
    if isinstance(merger, WindowMerger) and _unchanged(merger, WindowMerger):
        return AssembledMean(merger, grid)
    if isinstance(merger, Max) and _unchanged(merger, Max):
        return AssembledMax()
    return merger


def _unchanged(merger: Merger, known: type[Merger]) -> bool:
    return all(getattr(type(merger), name) is getattr(known, name) for name in IN_PLACE)
