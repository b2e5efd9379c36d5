"""Workers: the contract of what trains the tiles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from anomalib_tiled.grid import Tile


@dataclass(frozen=True)
class Outcome:
    """How the training of a tile ended.

    Args:
        tile: The tile.
        error: Why it failed; ``None`` if it did not.
    """

    tile: Tile
    error: Exception | None


class Workers(ABC):
    """Who trains the tiles, and how many at a time. A tile that fails does not stop the others."""

    @abstractmethod
    def train(self, tiles: Sequence[Tile], train_tile: Callable[[Tile], None]) -> Iterator[Outcome]:
        """Train tiles in any order and report each as it ends.

        Args:
            tiles: What is to be trained.
            train_tile: Trains one tile.

        Raises:
            StorageError: The disk is full; no other tile could be stored either.
        """
