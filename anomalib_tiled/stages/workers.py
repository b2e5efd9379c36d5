"""Workers: the contract of the stage that trains the tiles."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from anomalib_tiled.errors import StorageError
from anomalib_tiled.system.out_of_memory import out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from anomalib_tiled.grid import Tile


MEMORY_SETTINGS = "data.init_args.train_batch_size or tiling.tile_size"
"""Settings that decide how much memory a training needs."""


class TrainTile(Protocol):
    """Trains one tile, or predicts it for all images.

    It may be pickled and called in another process, on any machine that sees the run folder.
    """

    def __call__(self, tile: Tile, *, device: int | None = None) -> None:
        """Train a tile.

        Args:
            tile: The tile.
            device: Index of the GPU to train on; ``None`` for the device of the configuration.
        """


@dataclass(frozen=True)
class Outcome:
    """How the training of a tile ended.

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
        """Train tiles in any order and report each as it ends.

        Args:
            tiles: Tiles to train.
            train_tile: Trains one tile.

        Raises:
            StorageError: The disk is full; no other tile could be stored either.
        """


def attempt(tile: Tile, train_tile: Callable[[Tile], None], *, processes: int = 1) -> Outcome:
    """Train a tile, and return its outcome.

    Args:
        tile: The tile.
        train_tile: Trains it.
        processes: How many tiles are trained at the same time on this machine.

    Raises:
        StorageError: The disk is full.
    """
    try:
        train_tile(tile)
    except StorageError:
        raise
    except Exception as error:  # noqa: BLE001  # reported with the tile's name once all tiles were tried
        fewer = "Lower workers.init_args.processes in the config.yaml of the run and resume it, or fit"
        advice = f"{fewer if processes > 1 else 'Fit'} a new run with a smaller {MEMORY_SETTINGS}."
        outcome = Outcome(tile, out_of_memory(error, advice) or _without_traceback(error))
    else:
        return Outcome(tile, None)
    gc.collect()  # failed models refer to themselves, and would keep memory from the next tile
    return outcome


def _without_traceback(error: Exception) -> Exception:
    """Remove tracebacks, which keep the failed model in memory; the log of the tile has them."""
    parts: list[BaseException] = [error]
    for part in parts:
        part.__traceback__ = None
        parts += [each for each in (part.__cause__, part.__context__) if each is not None and each not in parts]
    return error
