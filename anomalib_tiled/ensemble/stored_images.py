"""Images whose tiles are predicted: any process that sees the run folder joins some, or reads one tile of all.

    work       item                   reads                                     gives
    tiles      a shard of the tiles   their maps and masks of all images   what each tile location has scored
    images     a shard of the images  the maps of all tiles, the masks     what joined images have scored

Shards depend on the number and the size of images and tiles only, never on who works on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from anomalib_tiled.data.tile_dataset import Images
from anomalib_tiled.ensemble.calibration import Stages
from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.errors import RunFolderError

if TYPE_CHECKING:
    import torch
    from anomalib.data import ImageBatch

    from anomalib_tiled.data.tile_dataset import Annotations
    from anomalib_tiled.ensemble.calibration import Calibration
    from anomalib_tiled.ensemble.ensemble import RawPrediction
    from anomalib_tiled.ensemble.tile_job import Purpose, TileJob
    from anomalib_tiled.ensemble.tile_model import TilePrediction
    from anomalib_tiled.ensemble.tile_predictions import TilePredictions
    from anomalib_tiled.grid import Size, Tile

    Predict = Callable[["Callable[[Tile, TilePrediction], None] | None"], RawPrediction]
    AnyBatch = TypeVar("AnyBatch", ImageBatch, Annotations)

PIXELS_OF_A_SHARD = 2**27
"""Pixels of the images, or of the tiles, that a place works on at a time: ten to twenty seconds of work."""


@dataclass(frozen=True)
class Shard:
    """Images, or tile locations of all images, that one place works on.

    Args:
        first: Position of the first image among those that are predicted together, or of the first tile.
        number: How many.
        what: ``images`` or ``tiles``.
    """

    first: int
    number: int
    what: str = "images"

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"{self.what} {self.first + 1} to {self.first + self.number}"

    @classmethod
    def divide(cls, number: int, pixels: int, what: str) -> list[Shard]:
        """Divide images or tiles, so that a shard has a given number of pixels at most.

        Args:
            number: How many there are.
            pixels: Pixels of one of them.
            what: As for a shard.
        """
        most = max(1, PIXELS_OF_A_SHARD // pixels)
        return [cls(first, min(most, number - first), what) for first in range(0, number, most)]


def images_of_a_shard(size: Size) -> int:
    """Give the number of images of this size that one place joins."""
    return max(1, PIXELS_OF_A_SHARD // (size.height * size.width))


class LazyPrediction(NamedTuple):
    """A batch of images, and a function that predicts them when it is called.

    Args:
        images: The images.
        predict: Returns the raw predictions; takes a function that receives the raw prediction of each tile, or
            ``None``.
    """

    images: ImageBatch
    predict: Predict


@dataclass(frozen=True)
class StoredImages:
    """Images of a run with the stored predictions of all their tiles. Like a `TileJob`, it is small when it is sent.

    Args:
        job: Tiles and their images.
        purpose: Which images of the run.
        predictions: Their predictions.
        first: Position of the first image of the predictions among the images of the run.
        number: How many images are predicted.
        batch_size: Number of images that are joined together. The command sets it, because the last digits of some
            metrics depend on it.
        stay: Whether the predictions stay on the disk; else they are removed when the next images are predicted.
    """

    job: TileJob
    purpose: Purpose
    predictions: TilePredictions
    first: int
    number: int
    batch_size: int
    stay: bool

    def shards(self) -> list[Shard]:
        """Divide the images."""
        height, width = self.job.grid.image_size
        return Shard.divide(self.number, height * width, "images")

    def shards_of_tiles(self) -> list[Shard]:
        """Divide the tiles."""
        height, width = self.job.grid.tile_size
        return Shard.divide(len(self.job.grid.tiles), height * width * self.number, "tiles")

    def tiles(self, shard: Shard) -> tuple[Tile, ...]:
        """Give the tiles of a shard.

        Raises:
            RunFolderError: Their predictions have changed.
        """
        tiles = self.job.grid.tiles[shard.first : shard.first + shard.number]
        self._find(tiles)
        return tiles

    def ensemble(self, calibration: Calibration, device: int | None = None) -> EnsembleModel:
        """Make the model that joins the images; it loads no model of a tile for that.

        Args:
            calibration: What the stages have learned.
            device: Index of the GPU to work on; ``None`` for the device of the configuration.
        """
        job = self.job
        ensemble = EnsembleModel(
            job.grid,
            job.tile_models(),
            stages=Stages.build(job.settings),
            calibration=calibration,
            evaluator=False,
            scope=job.scope,
        )
        return ensemble.naming(job.regions).to(job.device(device)).eval()

    def batches(self, ensemble: EnsembleModel, shard: Shard) -> Iterator[LazyPrediction]:
        """Yield images, each batch with the function that joins its predictions.

        Args:
            ensemble: Joins them.
            shard: Which images.
        """
        self._find(self.job.grid.tiles)
        part = self._part(shard)
        for (first, batch), hidden in zip(_counted(part, shard.first), part.hidden(), strict=True):
            yield LazyPrediction(batch, self._join(ensemble, first, len(batch), hidden))

    def annotated(self, ensemble: EnsembleModel, shard: Shard) -> Iterator[tuple[Annotations, Predict]]:
        """Do the same as ``batches``, without reading the pixels of the images.

        Args:
            ensemble: Joins the predictions.
            shard: Which images.
        """
        self._find(self.job.grid.tiles)
        for first, batch in _counted(self._part(shard).annotations(*self.job.grid.whole), shard.first):
            yield batch, self._join(ensemble, first, len(batch), batch.hidden)

    def tile(self, tile: Tile) -> Iterator[tuple[Annotations, TilePrediction]]:
        """Yield what is known of one tile, with its predictions, batch by batch.

        Args:
            tile: The tile, from ``tiles``.
        """
        everything = Shard(0, self.number)
        for first, batch in _counted(self._part(everything).annotations(tile.rows, tile.columns), 0):
            yield batch, self.predictions.read(tile, first, len(batch)).hiding(batch.hidden)

    def _find(self, tiles: Sequence[Tile]) -> None:
        """Find the predictions of tiles with one look at the folders, unless this process has found them."""
        has_found = self.predictions.has_found
        if not all(map(has_found, tiles)):
            self.predictions.find_all(self.job.folder.checksums_of(self.job.grid), compare=False)
        if lost := [tile.name for tile in tiles if not has_found(tile)]:
            folder = self.predictions.folder
            message = f"The predictions of tile {lost[0]} in {folder} have changed. Run the command once more."
            raise RunFolderError(message)

    def _join(self, ensemble: EnsembleModel, first: int, number: int, hidden: torch.Tensor | None) -> Predict:
        read = partial(self.predictions.read, first=first, number=number)
        return partial(ensemble.join, number, read, hidden=hidden)

    def _part(self, shard: Shard) -> Images:
        """Give the images of a shard; they have no augmentations, or their tiles would not have been predicted."""
        job = self.job
        images = Images(job.data.source, job.data.samples(self.purpose), job.grid, self.batch_size, augmentations=None)
        return images.part(self.first + shard.first, shard.number)


def _counted(batches: Iterable[AnyBatch], first: int) -> Iterator[tuple[int, AnyBatch]]:
    """Give each batch with the position of its first image."""
    for batch in batches:
        yield first, batch
        first += len(batch)
