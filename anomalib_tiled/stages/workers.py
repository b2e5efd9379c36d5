"""Workers: the contract of the stage that trains the tiles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anomalib_tiled.grid import Tile


MEMORY_SETTINGS = "data.init_args.train_batch_size or tiling.tile_size"
"""Settings that decide how much memory a training needs."""


class TrainTile(Protocol):
    """Trains one tile, or predicts it for all images: workers need not know which.

    It may be pickled and called in another process, on any machine that sees the run folder. A process must not call it
    in two threads at a time: it redirects logs and prints of the whole process into the log of the tile.
    """

    def __call__(self, tile: Tile, *, device: int | None = None) -> None:
        """Train or predict a tile; an error says why that failed.

        Args:
            tile: The tile.
            device: Index of the GPU to work on; ``None`` for the device of the configuration.
        """


@dataclass(frozen=True)
class Outcome:
    """How the training or prediction of a tile ended.

    Args:
        tile: The tile.
        error: Why it failed; ``None`` if it succeeded.
    """

    tile: Tile
    error: Exception | None


@dataclass(frozen=True)
class Conditions:
    """Settings of a run that workers may use.

    Args:
        accelerator: ``trainer.accelerator`` of the configuration.
        devices: ``trainer.devices`` of the configuration.
        threads: Number of processor threads that the tiles that are done were trained with; ``None`` if none is done.
            With another number of threads, weights differ in their last digits.
    """

    accelerator: object = "auto"
    devices: object = "auto"
    threads: int | None = None

    @property
    def any_gpu(self) -> bool:
        """Whether a tile may be trained on any CUDA device that there is."""
        return self.accelerator in ("auto", "gpu", "cuda") and self.devices == "auto"


class Workers(ABC):
    """How the tiles are trained, and how many at a time. A tile that fails does not stop the others."""

    def adapt(self, conditions: Conditions) -> None:  # noqa: B027  # most do not depend on the run
        """Adapt to settings of the run; called before all other methods. Does nothing, unless overridden."""

    def start(self) -> None:  # noqa: B027  # most need no preparation
        """Start preparing: tiles are trained once the images are read. Does nothing, unless overridden."""

    @abstractmethod
    def train(self, tiles: Sequence[Tile], train_tile: TrainTile) -> Iterator[Outcome]:
        """Train tiles in any order and report each as it ends; also called to predict them.

        With as many processor threads for each tile as `Conditions.threads`, if it is given, weights are the same to
        the last digit.

        Args:
            tiles: The tiles.
            train_tile: Trains or predicts one tile; must not run in two threads of one process.

        Raises:
            StorageError: The disk is full; no other tile could be stored either.
        """
