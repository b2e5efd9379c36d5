"""Assignment: which tile locations share a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from anomalib_tiled.grid import Tile, TileGrid

Look = Callable[[Tile], Iterable[NDArray[np.uint8]]]
"""Gives the tiles of one location of all normal training images, one by one, each of shape (height, width, 3)."""


class Assignment(ABC):
    """Which tile locations share a model."""

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
