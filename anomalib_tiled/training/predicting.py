"""Predicting images with all tile models: the workers share the tiles, so that each model is loaded once.

What tile models say goes to the disk, where it is found again: validation images that are the test images are
predicted once, and so are images whose stages learn anew.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import torch
from anomalib.data import ImageBatch

from anomalib_tiled.contracts import checked_outcomes, untrained
from anomalib_tiled.data.cache import ImageCache
from anomalib_tiled.errors import StageError
from anomalib_tiled.files import storage_errors
from anomalib_tiled.progress import track
from anomalib_tiled.results.logs import log_to
from anomalib_tiled.tile_model import predict_tile
from anomalib_tiled.tile_predictions import TilePredictions
from anomalib_tiled.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anomalib.models.components import AnomalibModule

    from anomalib_tiled.data.tile_dataset import Images
    from anomalib_tiled.ensemble import RawPrediction, TiledEnsemble
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.run import Run
    from anomalib_tiled.seals import Seal
    from anomalib_tiled.tile_model import TilePrediction
    from anomalib_tiled.tile_models import TileModels

KEPT = 2 * 10**9
"""Bytes of predictions that stay on the disk, to be used again."""

SHARE_OF_DISK = 0.5
"""Share of what is free on the disk that predictions may take up; if they need more, images are predicted in parts."""

PIXELS_AT_ONCE = 2**20
"""Pixels of the tiles that are predicted together: memory is bounded whatever batch size the data module has."""


class Predict(Protocol):
    """Gives the raw predictions of a batch of images."""

    def __call__(self, on_tile: Callable[[Tile, TilePrediction], None] | None = None) -> RawPrediction:
        """Predict.

        Args:
            on_tile: Told the raw prediction of each tile.
        """


class Predictable(NamedTuple):
    """A batch of images, and how to get their raw predictions.

    Args:
        images: The images.
        predict: Gives the predictions.
    """

    images: ImageBatch
    predict: Predict


def predictable(
    run: Run, ensemble: TiledEnsemble, images: Images, folder: Path, description: str
) -> Iterator[Predictable]:
    """Yield images with their raw predictions, batch by batch.

    Augmented images and those that are not in the cache are predicted whole, when their predictions are asked for.

    Args:
        run: The run.
        ensemble: Its stages; and its models, where images are predicted whole.
        images: The images.
        folder: Folder that predictions are kept in.
        description: What is done with them, for the progress bar.
    """
    if not _tile_by_tile(images):
        for batch in track(images, description):
            yield Predictable(batch, partial(ensemble.predict_raw, cast("torch.Tensor", batch.image)))
        return
    for part in _parts(images, folder):
        with _predicted(run, part, folder) as predictions:
            first = 0
            for batch in track(part, description):
                number = len(cast("torch.Tensor", batch.image))
                read = partial(_read, predictions, first, number)
                yield Predictable(batch, partial(ensemble.join, number, read))
                first += number


def predict_trained(run: Run, tile: Tile, model: AnomalibModule, checkpoint: Seal) -> None:
    """Predict the validation images with a model that has just been trained, so that it need not be loaded for that.

    Args:
        run: The run.
        tile: The tile.
        model: Its model.
        checkpoint: What the model was stored as.
    """
    images = run.calibration_images()
    if _tile_by_tile(images) and _is_small(images):
        predictions = TilePredictions(run.folder.predictions, images.grid, images.samples)
        predictions.folder /= predictions.name
        predictions.write(tile, checkpoint, _predicted_tiles(run, tile, model, images))


@dataclass(frozen=True)
class PredictTile:
    """Predicts one tile of all images. Travels to other processes, and uses one model object for all its tiles.

    Args:
        run: The run.
        images: The images.
        predictions: Where predictions go.
        log: File for what other packages say.
    """

    run: Run
    images: Images
    predictions: TilePredictions
    log: Path

    def __call__(self, tile: Tile, *, device: int | None = None) -> None:
        """Predict a tile.

        Args:
            tile: The tile.
            device: Index of the GPU to predict on; ``None`` for what the configuration says.
        """
        with log_to(self.log):
            place = self._device if device is None else torch.device("cuda", device)
            model = self._models.model(tile, place)
            checkpoint = self.run.folder.record(tile).checkpoint
            self.predictions.write(tile, checkpoint, _predicted_tiles(self.run, tile, model, self.images))

    @cached_property
    def _models(self) -> TileModels:
        return self.run.tile_models(one_at_a_time=True)

    @cached_property
    def _device(self) -> torch.device:
        return self.run.device()

    def __getstate__(self) -> dict[str, object]:
        """Leave models behind."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def _predicted_tiles(run: Run, tile: Tile, model: AnomalibModule, images: Images) -> Iterator[TilePrediction]:
    """Predict one tile of all images, some at a time."""
    height, width = run.grid.tile_size
    batch = max(1, min(run.datamodule.eval_batch_size, PIXELS_AT_ONCE // (height * width)))
    for tiles in images.tile(tile, batch):
        yield predict_tile(model, tiles.to(model.device))


def _tile_by_tile(images: Images) -> bool:
    """Whether a tile can be read without the rest of its image."""
    return images.augmentations is None and isinstance(images.source, ImageCache)


def _is_small(images: Images) -> bool:
    """Whether predictions of the images are kept on the disk."""
    return TilePredictions.bytes_for(images.grid, len(images.samples)) <= KEPT


def _read(predictions: TilePredictions, first: int, number: int, tile: Tile) -> TilePrediction:
    return predictions.read(tile, first, number)


def _parts(images: Images, folder: Path) -> Iterator[Images]:
    """Give the images in parts whose predictions have room on the disk; mostly there is one part."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    room = shutil.disk_usage(folder).free * SHARE_OF_DISK
    number = max(1, int(room // TilePredictions.bytes_for(images.grid, 1)))
    for first in range(0, len(images.samples), number):
        yield replace(images, samples=images.samples[first : first + number])


@contextmanager
def _predicted(run: Run, images: Images, folder: Path) -> Iterator[TilePredictions]:
    """Predict what is not predicted yet; remove it in the end if it is too much to be kept."""
    predictions = TilePredictions(folder, images.grid, images.samples)
    kept = _is_small(images) and not run.folder.allow_altered  # otherwise checkpoints are not what their seals say
    predictions.folder = folder / (predictions.name if kept else f".{os.getpid()}")
    try:
        _predict_missing(run, images, predictions, folder.parent / "logs" / "run.log")
        yield predictions
    finally:
        if not kept:
            shutil.rmtree(predictions.folder, ignore_errors=True)


def _predict_missing(run: Run, images: Images, predictions: TilePredictions, log: Path) -> None:
    def missing() -> list[Tile]:
        return [tile for tile in run.grid.tiles if not predictions.has(tile, run.folder.record(tile).checkpoint)]

    if not (tiles := missing()):
        return
    workers = run.settings.workers.build(Workers)
    outcomes = checked_outcomes(workers, tiles, PredictTile(run, images, predictions, log))
    for outcome in track(outcomes, "Predicting tiles", len(tiles)):
        if outcome.error is not None:
            raise outcome.error
    if left := missing():
        raise StageError(untrained(workers, left))
