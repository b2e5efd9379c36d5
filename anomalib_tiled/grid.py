"""The positions of the tiles in an image: integers only, no pixel values.

Image of 11 pixels a side, tiles of 4, stride 3. The last tile is moved back so that it ends at the border:

    pixel     0  1  2  3  4  5  6  7  8  9  10
    column 0  ├───────────┤                       0..4
    column 1           ├───────────┤              3..7
    column 2                    ├───────────┤     6..10
    column 3                       ├───────────┤  7..11
    cuts      0        3  4     6  7        10 11

Between two neighbouring cuts the set of covering tiles is constant. Interior cuts are seams.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from anomalib_tiled.errors import GridError

MOST_PIXELS = 2**30
"""Most pixels of an image: a map of that size takes 4 GB."""

MOST_TILES = 100_000
"""Most tiles of a grid: at a second for each model, training takes more than a day."""


WHOLE = "whole"
"""Name of the whole image among the tiles."""


class Size(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int

    def __str__(self) -> str:
        """Write the size as height x width."""
        return f"{self.height} x {self.width}"


@dataclass(frozen=True)
class Tile:
    """One location of the grid.

    Args:
        row: Row in the grid, counted from 0 at the top.
        column: Column in the grid, counted from 0 at the left.
        rows: Pixel rows that the tile covers.
        columns: Pixel columns that the tile covers.
    """

    row: int
    column: int
    rows: slice
    columns: slice

    @property
    def name(self) -> str:
        """Name in files and messages, such as ``r00_c03``."""
        return f"r{self.row:02d}_c{self.column:02d}"

    @property
    def size(self) -> Size:
        """Height and width of what its model takes, in pixels."""
        return Size(self.rows.stop - self.rows.start, self.columns.stop - self.columns.start)


@dataclass(frozen=True)
class WholeImage(Tile):
    """The whole image, shrunk: the global model is trained on it, and predicts it, like the model of a tile.

    Args:
        row: 0.
        column: 0.
        rows: All rows of the image.
        columns: All columns of the image.
        shrunk: Height and width that the image is shrunk to, in pixels.
    """

    shrunk: Size

    @property
    def name(self) -> str:
        """Name in files and messages."""
        return WHOLE

    @property
    def size(self) -> Size:
        """Height and width of the shrunk image."""
        return self.shrunk


@dataclass(frozen=True)
class Block(Tile):
    """A rectangle between neighbouring cuts; every tile is a union of whole blocks."""


@dataclass(frozen=True)
class TileGrid:
    """All tile locations of an image.

    Args:
        image_size: Height and width of the images in pixels.
        tile_size: Height and width of a tile in pixels.
        stride: Distance between the starts of neighbouring tiles in pixels, (height, width).
        left_out: Names of the locations without a model, because none could be fitted there.
        ignored: Names of the locations without a pixel to be inspected, which are in `positions` alone.
        groups: Names of the locations that share a model, for each group of several; the others have their own.
        shrunk: Height and width in pixels of the whole image, as the global model sees it; ``None`` if there is none.

    Raises:
        GridError: A tile is larger than the image, the stride is not between 1 and the tile size, there are more than
            `MOST_TILES` tiles or `MOST_PIXELS` pixels, or the shrunk image is larger than the image.
    """

    image_size: Size
    tile_size: Size
    stride: Size
    left_out: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset()
    groups: tuple[tuple[str, ...], ...] = ()
    shrunk: Size | None = None

    def __post_init__(self) -> None:
        """Check that the three sizes fit together."""
        for side, image, tile, stride in zip(
            ("height", "width"), self.image_size, self.tile_size, self.stride, strict=True
        ):
            _check_side(side, image, tile, stride)
        rows, columns = (_number(*sides) for sides in zip(self.image_size, self.tile_size, self.stride, strict=True))
        if rows * columns > MOST_TILES:
            message = (
                f"A grid may have at most {MOST_TILES} tiles, but would have {rows} x {columns}. "
                "Raise tiling.tile_size or tiling.stride, or lower tiling.image_size."
            )
            raise GridError(message)
        if self.image_size.height * self.image_size.width > MOST_PIXELS:
            size = self.image_size
            message = f"An image may have at most {MOST_PIXELS} pixels, but has {size}. Lower tiling.image_size."
            raise GridError(message)
        if self.shrunk is not None:
            _check_shrunk(self.image_size, self.shrunk)

    def __reduce__(self) -> tuple[type[TileGrid], tuple[object, ...]]:
        """Pickle sizes and names only, not the locations that were listed from them."""
        names = self.left_out, self.ignored, self.groups
        return TileGrid, (self.image_size, self.tile_size, self.stride, *names, self.shrunk)

    def without(self, names: Iterable[str]) -> TileGrid:
        """Give the same grid with exactly these locations left out.

        Args:
            names: Names such as ``r00_c03``.
        """
        return replace(self, left_out=frozenset(names))

    def ignoring(self, names: Iterable[str]) -> TileGrid:
        """Give the same grid with exactly these locations ignored.

        Args:
            names: Names such as ``r00_c03``.
        """
        return replace(self, ignored=frozenset(names))

    def grouped(self, groups: Iterable[Iterable[str]]) -> TileGrid:
        """Give the same grid with locations that share a model.

        Args:
            groups: Names of locations, none of them twice; a location that no group names has a model of its own.
        """
        position = {tile.name: number for number, tile in enumerate(self.locations)}
        several = (sorted(group, key=position.__getitem__) for group in map(list, groups) if len(group) > 1)
        return replace(self, groups=tuple(sorted(map(tuple, several), key=lambda group: position[group[0]])))

    @property
    def whole(self) -> tuple[slice, slice]:
        """Rows and columns of the whole image."""
        return slice(0, self.image_size.height), slice(0, self.image_size.width)

    @cached_property
    def whole_image(self) -> WholeImage | None:
        """What the global model sees; ``None`` if there is none."""
        return None if self.shrunk is None else WholeImage(0, 0, *self.whole, self.shrunk)

    @property
    def predicted(self) -> tuple[Tile, ...]:
        """All that is predicted: the tiles with a model, and the whole image if there is a global model."""
        return self._with_whole_image(self.tiles)

    @property
    def named(self) -> tuple[Tile, ...]:
        """All locations with a pixel to be inspected, and the whole image if there is a global model."""
        return self._with_whole_image(self.locations)

    @property
    def kinds(self) -> tuple[Tile, ...]:
        """One of each kind of model: a tile, and the whole image if there is a global model."""
        return self._with_whole_image(self.tiles[:1])

    def _with_whole_image(self, tiles: tuple[Tile, ...]) -> tuple[Tile, ...]:
        return tiles if self.whole_image is None else (*tiles, self.whole_image)

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """The locations with a model, row by row from the top left."""
        return tuple(tile for tile in self.locations if tile.name not in self.left_out)

    @property
    def models(self) -> tuple[Tile, ...]:
        """What models are named after: the first tile of each group, and the whole image if there is a global model."""
        return self._with_whole_image(self._firsts_of(self.tiles))

    @property
    def model_locations(self) -> tuple[Tile, ...]:
        """The same, with the locations where no model could be fitted."""
        return self._with_whole_image(self._firsts_of(self.locations))

    def model_of(self, tile: Tile) -> Tile:
        """Give the location that the model of a tile is named after, the first of its group."""
        return self._firsts.get(tile.name, tile)

    def members(self, model: Tile) -> tuple[Tile, ...]:
        """Give the locations that share a model, row by row from the top left.

        Args:
            model: The location that the model is named after.
        """
        return self._members.get(model.name, (model,))

    def _firsts_of(self, tiles: tuple[Tile, ...]) -> tuple[Tile, ...]:
        return tuple(tile for tile in tiles if self.model_of(tile) == tile) if self.groups else tiles

    @cached_property
    def _members(self) -> dict[str, tuple[Tile, ...]]:
        named = {tile.name: tile for tile in self.locations} if self.groups else {}
        return {group[0]: tuple(named[name] for name in group) for group in self.groups}

    @cached_property
    def _firsts(self) -> dict[str, Tile]:
        return {tile.name: members[0] for members in self._members.values() for tile in members}

    @cached_property
    def locations(self) -> tuple[Tile, ...]:
        """The locations with a pixel to be inspected, row by row from the top left."""
        return tuple(tile for tile in self.positions if tile.name not in self.ignored)

    @cached_property
    def positions(self) -> tuple[Tile, ...]:
        """All locations, the ignored ones as well, row by row from the top left."""
        rows = _starts(self.image_size.height, self.tile_size.height, self.stride.height)
        columns = _starts(self.image_size.width, self.tile_size.width, self.stride.width)
        return tuple(
            Tile(row, column, slice(top, top + self.tile_size.height), slice(left, left + self.tile_size.width))
            for row, top in enumerate(rows)
            for column, left in enumerate(columns)
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Number of tile rows and tile columns."""
        return self.positions[-1].row + 1, self.positions[-1].column + 1

    @cached_property
    def row_cuts(self) -> tuple[int, ...]:
        """Pixel rows at which a tile begins or ends, the image's borders included."""
        return _cuts(self.image_size.height, self.tile_size.height, self.stride.height)

    @cached_property
    def column_cuts(self) -> tuple[int, ...]:
        """Pixel columns at which a tile begins or ends, the image's borders included."""
        return _cuts(self.image_size.width, self.tile_size.width, self.stride.width)

    @cached_property
    def row_seams(self) -> tuple[int, ...]:
        """Interior row cuts: the set of covering tiles changes at each. Beside ignored ones there is none."""
        return self._seams(self.row_cuts, 1, 0) if self.ignored else self.row_cuts[1:-1]

    @cached_property
    def column_seams(self) -> tuple[int, ...]:
        """Interior column cuts: the set of covering tiles changes at each. Beside ignored ones there is none."""
        return self._seams(self.column_cuts, 0, 1) if self.ignored else self.column_cuts[1:-1]

    def _seams(self, cuts: tuple[int, ...], down: int, right: int) -> tuple[int, ...]:
        """Give the cuts at which the locations that cover a block and its upper or left neighbour differ."""
        covering: dict[tuple[int, int], set[str]] = {}
        for tile in self.locations:
            for _, block in self.blocks_in(tile.rows, tile.columns):
                covering.setdefault((block.row, block.column), set()).add(tile.name)
        return tuple(
            sorted(
                {
                    cuts[row * down + column * right]
                    for (row, column), names in covering.items()
                    if covering.get((row - down, column - right), names) != names
                }
            )
        )

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The rectangles between neighbouring cuts, row by row; they cover every pixel exactly once."""
        return tuple(
            Block(row, column, slice(*rows), slice(*columns))
            for row, rows in enumerate(pairwise(self.row_cuts))
            for column, columns in enumerate(pairwise(self.column_cuts))
        )

    def blocks_in(self, rows: slice, columns: slice) -> Iterator[tuple[int, Block]]:
        """Give the blocks that lie in an area, each with its position in `blocks`, without listing the others.

        Args:
            rows: Pixel rows of the area.
            columns: Pixel columns of the area.
        """
        across = len(self.column_cuts) - 1
        for row in _between(self.row_cuts, rows):
            for column in _between(self.column_cuts, columns):
                area = slice(*self.row_cuts[row : row + 2]), slice(*self.column_cuts[column : column + 2])
                yield row * across + column, Block(row, column, *area)

    def to_json(self) -> dict[str, list[int]]:
        """Give the three sizes as lists [height, width]."""
        return {"image_size": [*self.image_size], "tile_size": [*self.tile_size], "stride": [*self.stride]}

    def tile(self, name: str) -> Tile:
        """Find a tile by its name.

        Args:
            name: Name such as ``r00_c03``, or ``whole`` if there is a global model.

        Raises:
            GridError: The grid has no such tile.
        """
        for tile in self.named:
            if tile.name == name:
                return tile
        message = f"There is no tile {name!r} in this grid: it has {self.shape[0]} rows and {self.shape[1]} columns."
        raise GridError(message)

    def __str__(self) -> str:
        """Describe the grid in one line."""
        rows, columns = self.shape
        ignored = f", {len(self.ignored)} of {len(self.positions)} tiles ignored" if self.ignored else ""
        whole = "" if self.shrunk is None else f"; the whole image shrunk to {self.shrunk}"
        return (
            f"{rows} x {columns} tiles of {self.tile_size} pixels, "
            f"stride {self.stride}, in images of {self.image_size} pixels{ignored}{whole}"
        )


def _check_side(side: str, image: int, tile: int, stride: int) -> None:
    if min(image, tile) < 1:
        message = f"Image and tile {side} must be at least 1 pixel: image {image}, tile {tile}. Change tiling."
        raise GridError(message)
    if tile > image:
        message = (
            f"A tile must fit into the image: tile {side} is {tile} pixels, image {side} is {image} pixels. "
            "Lower tiling.tile_size or raise tiling.image_size."
        )
        raise GridError(message)
    if not 1 <= stride <= tile:
        message = (
            f"The stride must be between 1 and the tile {side}, or tiles would not cover every pixel: "
            f"stride is {stride}, tile {side} is {tile} pixels. Change tiling.stride."
        )
        raise GridError(message)


def _check_shrunk(image: Size, shrunk: Size) -> None:
    if min(shrunk) < 1 or shrunk.height > image.height or shrunk.width > image.width:
        message = (
            f"The global model must see the image shrunk, or as it is: global_model.image_size is {shrunk}, the image "
            f"has {image} pixels. Change global_model.image_size."
        )
        raise GridError(message)


def _number(image: int, tile: int, stride: int) -> int:
    """Count the starts that `_starts` lists."""
    return -(-(image - tile) // stride) + 1


def _cuts(image: int, tile: int, stride: int) -> tuple[int, ...]:
    """Give where tiles begin or end along one side."""
    return tuple(sorted({edge for start in _starts(image, tile, stride) for edge in (start, start + tile)}))


def _between(cuts: Sequence[int], area: slice) -> range:
    """Give the positions of the gaps between neighbouring cuts that lie in an area."""
    return range(bisect_left(cuts, area.start), bisect_right(cuts, area.stop) - 1)


def _starts(image: int, tile: int, stride: int) -> list[int]:
    regular = list(range(0, image - tile + 1, stride))
    if regular[-1] + tile < image:
        regular.append(image - tile)
    return regular
