"""Assignment: which tile locations share a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from anomalib_tiled.errors import ConfigurationError, allowed_names
from anomalib_tiled.grid import Tile, TileGrid

Look = Callable[[Tile], Iterable[NDArray[np.uint8]]]
"""Gives the tiles of one location of all normal training images, one by one, each of shape (height, width, 3)."""

MOST_SEEN = 32
"""Most tiles of a location that `Clusters` looks at."""

STARTS = 10
"""Random starts of k-means, of which the best is taken."""

CELLS = 8
"""Cells along each side of a tile that `Clusters` describes by mean and contrast."""


class Assignment(ABC):
    """Which tile locations share a model.

    Attributes:
        tiles_per_image: How many tiles of each training image the model of a group learns from; ``None`` for all of
            the group.
    """

    tiles_per_image: int | None = None

    @abstractmethod
    def groups(self, grid: TileGrid, look: Look) -> Sequence[Sequence[str]]:
        """Divide the locations into groups; those of a group share one model.

        Args:
            grid: The grid; its ``tiles`` are to be divided.
            look: Gives the training tiles of a location, for assignments that depend on what they show.

        Returns:
            Names of tiles, each exactly once.
        """


class PerTile(Assignment):
    """Each tile location has a model of its own."""

    def groups(self, grid: TileGrid, look: Look) -> Sequence[Sequence[str]]:
        """Give a group for each tile."""
        del look
        return [[tile.name] for tile in grid.tiles]


class _Sharing(Assignment):
    """An assignment whose models may learn from some tiles of each image."""

    def __init__(self, tiles_per_image: int | None = None) -> None:
        if tiles_per_image is not None and tiles_per_image < 1:
            message = (
                f"{type(self).__name__} needs at least 1 tile of each training image, got tiles_per_image = "
                f"{tiles_per_image}."
            )
            raise ValueError(message)
        self.tiles_per_image = tiles_per_image


class Shared(_Sharing):
    """All tile locations share one model: for fabric, sheet, and parts that lie anywhere.

    Args:
        tiles_per_image: How many tiles of each training image the model learns from; ``None`` for all.
    """

    def groups(self, grid: TileGrid, look: Look) -> Sequence[Sequence[str]]:
        """Give one group."""
        del look
        return [[tile.name for tile in grid.tiles]]


class Grid(_Sharing):
    """Divides the image into neighbourhoods of about the same number of tiles; those of one share a model.

    Args:
        rows: Number of neighbourhoods from top to bottom.
        columns: Number of neighbourhoods from left to right.
        tiles_per_image: How many tiles of each training image the model of a group learns from; ``None`` for all.
    """

    def __init__(self, rows: int = 2, columns: int = 2, tiles_per_image: int | None = None) -> None:
        super().__init__(tiles_per_image)
        for side, number in {"rows": rows, "columns": columns}.items():
            if number < 1:
                message = f"Grid needs at least 1 neighbourhood along each side, got {side} = {number}."
                raise ValueError(message)
        self.rows, self.columns = rows, columns

    def groups(self, grid: TileGrid, look: Look) -> Sequence[Sequence[str]]:
        """Give a group for each neighbourhood with tiles.

        Raises:
            ConfigurationError: There are more neighbourhoods than tiles along a side.
        """
        del look
        for side, number, tiles in zip(("rows", "columns"), (self.rows, self.columns), grid.shape, strict=True):
            if number > tiles:
                message = (
                    f"assignment Grid must have at most as many {side} of neighbourhoods as there are {side} of tiles, "
                    f"but has {number} for {tiles}. Lower assignment.init_args.{side}."
                )
                raise ConfigurationError(message)
        height, width = grid.shape
        places = [(tile.row * self.rows // height, tile.column * self.columns // width) for tile in grid.tiles]
        return _grouped(grid.tiles, places)


class Groups(_Sharing):
    """Takes the groups that the configuration lists; the tiles of a group share a model.

    Args:
        groups: Names of tiles for each group, such as ``r00_c03``, or patterns of names, such as ``r00_*``; each tile
            exactly once.
        tiles_per_image: How many tiles of each training image the model of a group learns from; ``None`` for all.
    """

    def __init__(self, groups: list[list[str]], tiles_per_image: int | None = None) -> None:
        super().__init__(tiles_per_image)
        if not all(groups):
            message = f"Groups needs names of tiles in each group, but group {groups.index([]) + 1} is empty."
            raise ValueError(message)
        self._groups = groups

    def groups(self, grid: TileGrid, look: Look) -> Sequence[Sequence[str]]:
        """Give the groups that are listed, without locations that have no model.

        Raises:
            ConfigurationError: A name or pattern is that of no tile, or a tile is listed twice or not at all.
        """
        del look
        names = [tile.name for tile in grid.locations]
        found = [[name for text in group for name in _matching(text, names)] for group in self._groups]
        _check_each_once([name for group in found for name in group], [tile.name for tile in grid.tiles])
        with_model = {tile.name for tile in grid.tiles}
        return [here for group in found if (here := [name for name in group if name in with_model])]


class Clusters(_Sharing):
    """Groups tile locations that look alike in the training images, by k-means; those of a group share a model.

    Args:
        number: Number of groups; fewer, if fewer locations differ from each other.
        seed: Seed of the random starts of k-means.
        tiles_per_image: How many tiles of each training image the model of a group learns from; ``None`` for all.
    """

    def __init__(self, number: int = 4, seed: int = 0, tiles_per_image: int | None = None) -> None:
        super().__init__(tiles_per_image)
        if number < 1:
            message = f"Clusters needs a number of groups of at least 1, got {number}."
            raise ValueError(message)
        self.number, self.seed = number, seed

    def groups(self, grid: TileGrid, look: Look) -> Sequence[Sequence[str]]:
        """Give the clusters.

        Raises:
            ConfigurationError: There are more clusters than tiles.
        """
        if self.number > len(grid.tiles):
            message = (
                f"assignment Clusters must have at most as many groups as there are tiles, but has {self.number} for "
                f"{len(grid.tiles)}. Lower assignment.init_args.number."
            )
            raise ConfigurationError(message)
        labels = _k_means(np.stack([_description(look(tile)) for tile in grid.tiles]), self.number, self.seed)
        return _grouped(grid.tiles, labels)


def _grouped(tiles: Sequence[Tile], keys: Sequence[Hashable]) -> list[list[str]]:
    """Give the names of the tiles that have the same key, for each key."""
    groups: dict[Hashable, list[str]] = {}
    for tile, key in zip(tiles, keys, strict=True):
        groups.setdefault(key, []).append(tile.name)
    return list(groups.values())


def _matching(text: str, names: Sequence[str]) -> list[str]:
    """Give the names that a name or pattern of a configuration means."""
    if found := [name for name in names if fnmatchcase(name, text)]:
        return found
    message = f"assignment Groups must name tiles of the grid, but names {text!r}. {allowed_names(text, names)}"
    raise ConfigurationError(message)


def _check_each_once(found: Sequence[str], tiles: Sequence[str]) -> None:
    """Check that groups name each tile exactly once; others may be named."""
    times = Counter(found)
    twice, lacking = [name for name in times if times[name] > 1], [name for name in tiles if not times[name]]
    for names, how in ((twice, "more than once"), (lacking, "not at all")):
        if names:
            message = (
                f"Groups must name each of the {len(tiles)} tiles exactly once, but name {len(names)} {how}: "
                f"{', '.join(names)}. Change assignment.init_args.groups."
            )
            raise ConfigurationError(message)


def _description(tiles: Iterable[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Describe what the tiles of a location show: mean and contrast of the colours in the cells of the mean tile."""
    return np.asarray(np.mean([_cells(tile) for tile in islice(tiles, MOST_SEEN)], axis=0))


def _cells(tile: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Give mean and standard deviation of each colour in each cell, in levels from 0 to 255."""
    rows, columns = (np.array_split(np.arange(side), min(CELLS, side)) for side in tile.shape[:2])
    cells = [tile[np.ix_(row, column)].reshape(-1, tile.shape[2]) for row in rows for column in columns]
    return np.concatenate([[cell.mean(axis=0), cell.std(axis=0)] for cell in cells]).ravel()


def _k_means(described: NDArray[np.float64], number: int, seed: int) -> list[int]:
    """Give the cluster of each row; in one thread, because the order of additions decides last digits."""
    from sklearn.cluster import KMeans  # takes a second to import, and most runs need none
    from threadpoolctl import threadpool_limits

    number = min(number, len(np.unique(described, axis=0)))
    with threadpool_limits(1):
        labels = KMeans(number, n_init=STARTS, random_state=seed).fit_predict(described)
    return [int(label) for label in labels]
