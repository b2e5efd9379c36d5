"""Predicting images with all tile models: the workers share the tiles, so that each model is loaded once.

Raw tile predictions are stored on the disk and used again: if the validation images are also the test images, they are
predicted once, and a new calibration needs no new predictions.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from typing import TYPE_CHECKING, cast, get_args

from anomalib_tiled.data.split import image_names
from anomalib_tiled.data.tile_dataset import Images
from anomalib_tiled.ensemble.stored_images import LazyPrediction, Shard, StoredImages, images_of_a_shard
from anomalib_tiled.ensemble.tile_batches import TILE_PIXELS_AT_ONCE
from anomalib_tiled.ensemble.tile_job import Purpose
from anomalib_tiled.ensemble.tile_model import predict_tile
from anomalib_tiled.ensemble.tile_predictions import TilePredictions
from anomalib_tiled.errors import StageError
from anomalib_tiled.runs.checkpoints import tensors_of
from anomalib_tiled.runs.file_names import RunFiles
from anomalib_tiled.stages.contracts import untrained
from anomalib_tiled.system.files import refresh
from anomalib_tiled.system.logs import log_to
from anomalib_tiled.system.os_errors import is_full, storage_errors
from anomalib_tiled.system.out_of_memory import out_of_memory
from anomalib_tiled.system.packages import code_of
from anomalib_tiled.system.progress import track
from anomalib_tiled.system.temporary import working_folder
from anomalib_tiled.training.in_order import LESS_MEMORY, value_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import torch
    from anomalib.models.components import AnomalibModule

    from anomalib_tiled.ensemble.ensemble import EnsembleModel
    from anomalib_tiled.ensemble.loaded_models import TileModels
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.ensemble.tile_job import TileJob
    from anomalib_tiled.grid import Tile, TileGrid

logger = logging.getLogger(__name__)

KEPT = 2 * 10**9
"""Bytes of predictions that are kept on the disk for later commands, however little space is free."""

LAYOUT = 2
"""Number of the form in which predictions are stored. Those of another form are predicted anew."""

SHARE_THAT_STAYS = 0.1
"""Larger predictions are kept if they take up at most this share of the free space on the disk."""

KEPT_SET = re.compile(r"[0-9a-f]{16}")
"""Name of a folder of kept predictions."""

SHARE_OF_DISK = 0.5
"""Share of the free disk space that predictions may take up; if they need more, images are predicted in parts."""


@dataclass(frozen=True)
class PredictionJob:
    """Predicts images of a run, tile by tile. Like a `TileJob`, it is small enough to be sent to any process.

    Args:
        job: Tiles and their models.
        purpose: Which images of the run.
        folder: Folder for kept predictions.
        first: Position of the first image.
        number: How many images; ``None`` for all that follow.
    """

    job: TileJob
    purpose: Purpose
    folder: Path
    first: int = 0
    number: int | None = None

    @property
    def images(self) -> Images:
        """The images."""
        end = None if self.number is None else self.first + self.number
        samples = self.job.data.samples(self.purpose)[self.first : end]
        augmentations = self.job.data.augmentations(self.purpose)
        return Images(self.job.data.source, samples, self.job.grid, batch_size=1, augmentations=augmentations)

    @property
    def is_tile_by_tile(self) -> bool:
        """Whether a tile can be read without the rest of its image."""
        return self.images.augmentations is None and self.images.source.fingerprint is not None

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the cached images, of the code that predicts them, and of the files it reads."""
        job, images = self.job, self.images
        code = [code_of(job.settings.model.class_path), job.settings.training_hash, job.folder.shared_checksums()]
        content = [LAYOUT, images.source.fingerprint, image_names(images.samples), *code]
        return sha256(json.dumps(content).encode()).hexdigest()

    @property
    def kept(self) -> TilePredictions:
        """Predictions that are kept for later commands."""
        return TilePredictions(self.folder / self.fingerprint[:16], self.job.grid, self.fingerprint)

    @property
    def stays(self) -> bool:
        """Whether predictions are kept on the disk; if some are there already, the others follow."""
        needed = TilePredictions.bytes_for(self.job.grid, len(self.images.samples))
        return needed <= KEPT or self.kept.folder.exists() or needed <= SHARE_THAT_STAYS * self._free_disk

    @property
    def room(self) -> int:
        """Number of images whose predictions fit on the disk."""
        return int(SHARE_OF_DISK * self._free_disk // TilePredictions.bytes_for(self.job.grid, 1))

    @property
    def _free_disk(self) -> int:
        with storage_errors(self.folder):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            return shutil.disk_usage(self.folder.parent).free

    def log(self, tile: Tile) -> Path:
        """Log of a tile, beside the predictions: several processes must not write into the log of the command."""
        return RunFiles(self.folder.parent).tile_log(tile)

    def missing(self, predictions: TilePredictions, *, compare: bool = True) -> list[Tile]:
        """List the tiles without predictions of their present checkpoint, those of one model together."""
        grid = self.job.grid
        found = predictions.find_all(self.job.folder.checksums_of(grid), compare=compare)
        return [tile for model in grid.models for tile in grid.members(model) if tile.name not in found]

    def predict(self, tile: Tile, model: AnomalibModule, predictions: TilePredictions) -> None:
        """Predict one tile of all images, in batches, and store the predictions.

        Raises:
            NotFiniteError: The model predicts infinities or NaN.
            StorageError: The disk is full.
        """
        batches = self.images.tile(tile, self.job.at_once(self.job.grid.tile_size, TILE_PIXELS_AT_ONCE))
        predicted = (predict_tile(model, tiles.to(model.device)) for tiles in batches)
        predictions.write(tile, self.job.folder.checksum_of(self.job.grid.model_of(tile)), predicted)


def predict_trained(job: TileJob, tile: Tile, model: AnomalibModule, device: torch.device) -> None:
    """Predict the validation images with a model right after its training, so that it need not be loaded again.

    Does nothing if predictions are not kept, or do not fit on the disk. After an error the tile is predicted again
    before calibration, which raises the error: the tile is stored by now. Only a full disk stops the training, because
    other tiles could not be stored either.

    Args:
        job: The job of the tile.
        tile: The tile, which is done; those that share its model are predicted, too.
        model: Its model, as it was trained.
        device: Where to predict.

    Raises:
        StorageError: The disk is full.
    """
    prediction = PredictionJob(job, "calibration", job.folder.predictions)
    with log_to(job.folder.tile_log(tile)):
        try:
            if prediction.is_tile_by_tile and prediction.stays and prediction.room >= len(prediction.images.samples):
                for _, tensor in tensors_of(model):
                    tensor.data = tensor.data.contiguous()  # as loaded: last digits of products depend on the layout
                model = model.to(device).eval()
                for each in job.grid.members(tile):
                    prediction.predict(each, model, prediction.kept)
        except Exception as error:
            if is_full(error.__cause__):
                raise
            logger.exception(
                "Tile %s could not be predicted yet. It is predicted again when all tiles are trained.", tile.name
            )


@dataclass(frozen=True)
class PredictTile:
    """Predicts one tile of all images with its saved model. Uses one model object for all its tiles.

    Args:
        prediction: Which images.
        predictions: Where predictions are stored.
    """

    prediction: PredictionJob
    predictions: TilePredictions

    def __call__(self, tile: Tile, *, device: int | None = None) -> None:
        """Predict a tile.

        Args:
            tile: The tile.
            device: Index of the GPU to predict on; ``None`` for the device of the configuration.

        Raises:
            TiledError: The checkpoint cannot be loaded, its predictions cannot be used, or the disk is full.
        """
        with log_to(self.prediction.log(tile)):
            try:
                where = self._device if device is None else self.prediction.job.device(device)
                model = self._models.model(self.prediction.job.grid.model_of(tile), where)
                self.prediction.predict(tile, model, self.predictions)
            except Exception as error:
                logger.exception("Predicting tile %s failed.", tile.name)
                if (known := out_of_memory(error, LESS_MEMORY)) is not None:
                    raise known from None
                raise

    @cached_property
    def _models(self) -> TileModels:
        return self.prediction.job.tile_models(one_at_a_time=not self.prediction.job.grid.groups)

    @cached_property
    def _device(self) -> torch.device:
        return self.prediction.job.device()

    def __reduce__(self) -> tuple[type[PredictTile], tuple[PredictionJob, TilePredictions]]:
        """Pickle without models."""
        return PredictTile, (self.prediction, self.predictions)


def lazy_predictions(
    run: Run, ensemble: EnsembleModel, purpose: Purpose, folder: Path, description: str
) -> Iterator[LazyPrediction]:
    """Yield images with their raw predictions, batch by batch.

    Augmented images and images that are not in the cache are predicted whole, when ``predict`` is called.

    Args:
        run: The run.
        ensemble: Its stages; and its models, where images are predicted whole.
        purpose: Which images of the run.
        folder: Folder for kept predictions.
        description: Text of the progress bar.

    Raises:
        TiledError: A tile cannot be predicted.
    """
    if not is_tile_by_tile(run, purpose):
        images = run.images(purpose)
        for batch, hidden in zip(track(images, description), images.hidden(), strict=True):
            predict = partial(ensemble.predict_raw, cast("torch.Tensor", batch.image), hidden=hidden)
            yield LazyPrediction(batch, predict)
        return
    for stored in stored_images(run, purpose, folder):
        total = len(run.images(purpose).part(stored.first, stored.number))
        yield from track(stored.batches(ensemble, Shard(0, stored.number)), description, total)


def is_tile_by_tile(run: Run, purpose: Purpose) -> bool:
    """Whether images of a run can be predicted tile by tile, and their predictions be stored.

    Args:
        run: The run.
        purpose: Which images of the run.
    """
    return PredictionJob(run.job, purpose, run.folder.predictions).is_tile_by_tile


def stored_images(run: Run, purpose: Purpose, folder: Path) -> Iterator[StoredImages]:
    """Predict the tiles that have no stored predictions, and yield the images; in parts if the disk is small.

    Args:
        run: The run.
        purpose: Which images of the run; they can be predicted tile by tile.
        folder: Folder for kept predictions.

    Raises:
        TiledError: A tile cannot be predicted.
    """
    prediction, batch_size = PredictionJob(run.job, purpose, folder), run.batch_size
    number, kept, room = len(prediction.images.samples), prediction.kept, prediction.room
    if prediction.stays and (room >= number or not prediction.missing(kept)):
        _predict_missing(run, prediction, kept)
        yield StoredImages(run.job, purpose, kept, 0, number, batch_size, stay=True)
        return
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
    with working_folder(folder) as work:
        most = _whole_shards(room, run.grid)
        for first in range(0, number, most):
            some = replace(prediction, first=first, number=(here := min(most, number - first)))
            predictions = TilePredictions(work / "part", run.grid, some.fingerprint)
            _predict_missing(run, some, predictions)
            yield StoredImages(run.job, purpose, predictions, first, here, batch_size, stay=False)
            shutil.rmtree(predictions.folder)


def _whole_shards(room: int, grid: TileGrid) -> int:
    """Give the number of images of a part: whole shards if one fits, so that parts do not cut shards."""
    in_shard = images_of_a_shard(grid.image_size)
    return max(1, room) if room < in_shard else room - room % in_shard


def _predict_missing(run: Run, prediction: PredictionJob, predictions: TilePredictions) -> None:
    if tiles := prediction.missing(predictions):
        _predict_tiles(run, prediction, predictions, tiles)
        refresh(predictions.folder)
        if left := prediction.missing(predictions, compare=False):
            raise StageError(untrained(run.scheduler.workers, left))
    predictions.write_index()


def _predict_tiles(run: Run, prediction: PredictionJob, predictions: TilePredictions, tiles: Sequence[Tile]) -> None:
    with closing(run.on_places(PredictTile(prediction, predictions), tiles)) as outcomes:
        for outcome in track(outcomes, "Predicting tiles", len(tiles), run.scheduler.describe_places):
            tile = outcome.item
            value_of(outcome, f"Tile {tile.name} could not be predicted", prediction.log(tile))


def remove_outdated(run: Run) -> None:
    """Remove predictions of images that the run no longer uses, and predictions of another version of the code.

    Args:
        run: The run.
    """
    folder, purposes = run.folder.predictions, get_args(Purpose)
    jobs = [PredictionJob(run.job, purpose, folder) for purpose in purposes]
    used = {each.kept.folder for each in jobs if each.is_tile_by_tile}
    for kept in folder.glob("*"):
        if KEPT_SET.fullmatch(kept.name) and kept not in used:
            shutil.rmtree(kept, ignore_errors=True)
