"""Workers: the contract of what trains the tiles."""

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


SMALLER = "data.init_args.train_batch_size or tiling.tile_size"
"""Settings that the memory of a training depends on."""


class TrainTile(Protocol):
    """Trains one tile, or predicts it for all images.

    It may be pickled and called in another process, on any machine that sees the run folder.
    """

    def __call__(self, tile: Tile, *, device: int | None = None) -> None:
        """Train a tile.

        Args:
            tile: The tile.
            device: Index of the GPU to train on; ``None`` for what the configuration says.
        """


@dataclass(frozen=True)
class Outcome:
    """How the training of a tile ended.

    Args:
        tile: The tile.
        error: Why it failed; ``None`` if it did not.
    """

    tile: Tile
    error: Exception | None


@dataclass(frozen=True)
class Conditions:
    """What workers can go by.

    Args:
        accelerator: ``trainer.accelerator`` of the configuration.
        devices: ``trainer.devices`` of the configuration.
        threads: With how many processor threads the tiles that are done were trained; ``None`` if there are none yet.
            With another number, others end in other numbers, in their last digits.
    """

    accelerator: object = "auto"
    devices: object = "auto"
    threads: int | None = None

    @property
    def any_gpu(self) -> bool:
        """Whether a tile may be trained on any CUDA device that there is."""
        return self.accelerator in ("auto", "gpu", "cuda") and self.devices == "auto"


class Workers(ABC):
    """Who trains the tiles, and how many at a time. A tile that fails does not stop the others."""

    def adapt(self, conditions: Conditions) -> None:  # noqa: B027  # most do not care
        """Look at what the run says, before anything else is asked for. Nothing, unless overridden."""

    def start(self) -> None:  # noqa: B027  # most have nothing to get ready
        """Begin to get ready: there will be tiles to train once the images are read. Nothing, unless overridden."""

    @abstractmethod
    def train(self, tiles: Sequence[Tile], train_tile: TrainTile) -> Iterator[Outcome]:
        """Train tiles in any order and report each as it ends.

        Args:
            tiles: What is to be trained.
            train_tile: Trains one tile.

        Raises:
            StorageError: The disk is full; no other tile could be stored either.
        """


def attempt(tile: Tile, train_tile: Callable[[Tile], None], *, processes: int = 1) -> Outcome:
    """Train a tile, and say how it ended.

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
        fewer = "Lower workers.init_args.processes in the config.yaml of the run and go on, or fit"
        advice = f"{fewer if processes > 1 else 'Fit'} a new run with a smaller {SMALLER}."
        outcome = Outcome(tile, out_of_memory(error, advice) or _without_traceback(error))
    else:
        return Outcome(tile, None)
    gc.collect()  # what failed holds itself, and is in the way of the next tile
    return outcome


def _without_traceback(error: Exception) -> Exception:
    """Let go of what failed; the log of the tile has the traceback."""
    parts: list[BaseException] = [error]
    for part in parts:
        part.__traceback__ = None
        parts += [each for each in (part.__cause__, part.__context__) if each is not None and each not in parts]
    return error
