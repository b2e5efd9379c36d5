"""Workers on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from anomalib_tiled.errors import ConfigurationError, StorageError
from anomalib_tiled.workers import Outcome, Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from anomalib_tiled.grid import Tile


class LocalWorkers(Workers):
    """Trains tiles on this machine, one after the other.

    Args:
        processes: Number of tiles that are trained at the same time; ``auto`` takes what is best, which is 1 for now.
    """

    def __init__(self, processes: int | Literal["auto"] = "auto") -> None:
        if processes not in {1, "auto"}:
            message = (
                f"workers.init_args.processes must be 1 or auto: one tile is trained at a time, got {processes!r}."
            )
            raise ConfigurationError(message)
        self.processes = processes

    def train(self, tiles: Sequence[Tile], train_tile: Callable[[Tile], None]) -> Iterator[Outcome]:
        """Train the tiles in their order."""
        for tile in tiles:
            yield _attempt(tile, train_tile)


def _attempt(tile: Tile, train_tile: Callable[[Tile], None]) -> Outcome:
    try:
        train_tile(tile)
    except StorageError:
        raise
    except Exception as error:  # noqa: BLE001  # reported with the tile's name once all tiles were tried
        return Outcome(tile, error)
    return Outcome(tile, None)
