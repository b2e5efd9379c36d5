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
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import torch
from anomalib.data import ImageBatch

from anomalib_tiled.data.cache import ImageCache
from anomalib_tiled.ensemble.tile_model import predict_tile
from anomalib_tiled.ensemble.tile_predictions import TilePredictions
from anomalib_tiled.errors import ConfigurationError, StageError, TiledError, TrainingError
from anomalib_tiled.stages.contracts import checked_outcomes, untrained
from anomalib_tiled.system.logs import log_to
from anomalib_tiled.system.os_errors import storage_errors
from anomalib_tiled.system.out_of_memory import LOWER_THE_BUDGET, out_of_memory
from anomalib_tiled.system.packages import code_of
from anomalib_tiled.system.progress import track
from anomalib_tiled.system.temporary import working_folder
from anomalib_tiled.training.workers import workers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anomalib.models.components import AnomalibModule

    from anomalib_tiled.data.tile_dataset import Images
    from anomalib_tiled.ensemble.ensemble import EnsembleModel, RawPrediction
    from anomalib_tiled.ensemble.loaded_models import TileModels
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.ensemble.tile_model import TilePrediction
    from anomalib_tiled.grid import Tile

logger = logging.getLogger(__name__)

KEPT = 2 * 10**9
"""Bytes of predictions that are kept on the disk for later commands, however little space is free."""

SHARE_THAT_STAYS = 0.1
"""Larger predictions are kept if they take up at most this share of the free space on the disk."""

KEPT_SET = re.compile(r"[0-9a-f]{16}")
"""Name of a folder of kept predictions."""

SHARE_OF_DISK = 0.5
"""Share of the free disk space that predictions may take up; if they need more, images are predicted in parts."""

TILE_PIXELS_AT_ONCE = 2**20
"""Most pixels in a batch of tiles: it bounds the memory even if the batch size of the data module is large."""

LESS_MEMORY = f"{LOWER_THE_BUDGET} or workers.init_args.processes."
"""Advice if there is too little memory to predict the images of a run."""


class Predict(Protocol):
    """Returns the raw predictions of a batch of images."""

    def __call__(self, on_tile: Callable[[Tile, TilePrediction], None] | None = None) -> RawPrediction:
        """Predict.

        Args:
            on_tile: Receives the raw prediction of each tile.
        """


class LazyPrediction(NamedTuple):
    """A batch of images, and a function that predicts them when it is called.

    Args:
        images: The images.
        predict: Returns the raw predictions.
    """

    images: ImageBatch
    predict: Predict


def lazy_predictions(
    run: Run, ensemble: EnsembleModel, images: Images, folder: Path, description: str
) -> Iterator[LazyPrediction]:
    """Yield images with their raw predictions, batch by batch.

    Augmented images and images that are not in the cache are predicted whole, when ``predict`` is called.

    Args:
        run: The run.
        ensemble: Its stages; and its models, where images are predicted whole.
        images: The images.
        folder: Folder for kept predictions.
        description: Text of the progress bar.

    Raises:
        TiledError: A tile cannot be predicted.
    """
    if not _tile_by_tile(images):
        for batch in track(images, description):
            yield LazyPrediction(batch, partial(ensemble.predict_raw, cast("torch.Tensor", batch.image)))
        return
    for part, predictions in _predicted(run, images, folder):
        first = 0
        for batch in track(part, description):
            number = len(cast("torch.Tensor", batch.image))
            read = partial(_read, predictions, first, number)
            yield LazyPrediction(batch, partial(ensemble.join, number, read))
            first += number


def remove_outdated(run: Run) -> None:
    """Remove predictions of images that the run no longer uses, and predictions of another version of the code.

    Args:
        run: The run.
    """
    folder = run.folder.predictions
    used = {
        _kept(run, each, folder).folder
        for each in (run.calibration_images(), run.images("test"))
        if _tile_by_tile(each)
    }
    for kept in folder.glob("*"):
        if KEPT_SET.fullmatch(kept.name) and kept not in used:
            shutil.rmtree(kept, ignore_errors=True)


def predict_trained(run: Run, tile: Tile, model: AnomalibModule) -> None:
    """Predict the validation images with a model right after its training, so that it need not be loaded again.

    Does nothing if predictions are not kept, or do not fit on the disk.

    Args:
        run: The run.
        tile: The tile, which is done.
        model: Its model, on the device where it predicts.

    Raises:
        TiledError: Its predictions cannot be used, or the disk is full.
    """
    images, folder = run.calibration_images(), run.folder.predictions
    if _tile_by_tile(images) and _stays(run, images, folder) and _room(images, folder) >= len(images.samples):
        _kept(run, images, folder).write(tile, run.folder.checksum_of(tile), _predicted_tiles(run, tile, model, images))


@dataclass(frozen=True)
class PredictTile:
    """Predicts one tile of all images. Can be sent to other processes, and uses one model object for all its tiles.

    Args:
        run: The run.
        images: The images.
        predictions: Where predictions are stored.
        log: Log file.
    """

    run: Run
    images: Images
    predictions: TilePredictions
    log: Path

    def __call__(self, tile: Tile, *, device: int | None = None) -> None:
        """Predict a tile.

        Args:
            tile: The tile.
            device: Index of the GPU to predict on; ``None`` for the device of the configuration.

        Raises:
            TiledError: The checkpoint cannot be loaded, its predictions cannot be used, or the disk is full.
        """
        with log_to(self.log):
            try:
                model = self._models.model(tile, self._device_of(device))
                predicted = _predicted_tiles(self.run, tile, model, self.images)
                self.predictions.write(tile, self.run.folder.checksum_of(tile), predicted)
            except Exception as error:
                logger.exception("Predicting tile %s failed.", tile.name)
                if (known := out_of_memory(error, LESS_MEMORY)) is not None:
                    raise known from None
                raise

    def _device_of(self, index: int | None) -> torch.device:
        """Give the GPU of this index, or the device of the configuration if this machine has fewer GPUs."""
        if index is None:
            return self._device
        try:
            return self.run.device(index)
        except ConfigurationError as error:
            logger.warning("%s Predicting on %s.", error, self._device)
            return self._device

    @cached_property
    def _models(self) -> TileModels:
        return self.run.tile_models(one_at_a_time=True)

    @cached_property
    def _device(self) -> torch.device:
        return self.run.device()

    def __getstate__(self) -> dict[str, object]:
        """Pickle the fields only, without models."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def _predicted_tiles(run: Run, tile: Tile, model: AnomalibModule, images: Images) -> Iterator[TilePrediction]:
    """Predict one tile of all images, in batches."""
    for tiles in images.tile(tile, run.at_once(run.grid.tile_size, TILE_PIXELS_AT_ONCE)):
        yield predict_tile(model, tiles.to(model.device))


def _tile_by_tile(images: Images) -> bool:
    """Whether a tile can be read without the rest of its image."""
    return images.augmentations is None and isinstance(images.source, ImageCache)


def _stays(run: Run, images: Images, folder: Path) -> bool:
    """Whether predictions of the images are kept on the disk; if some are there already, the others follow."""
    needed = TilePredictions.bytes_for(images.grid, len(images.samples))
    return (
        needed <= KEPT or _kept(run, images, folder).folder.exists() or needed <= SHARE_THAT_STAYS * _free_disk(folder)
    )


def _room(images: Images, folder: Path) -> int:
    """Count the images whose predictions fit on the disk."""
    return int(SHARE_OF_DISK * _free_disk(folder) // TilePredictions.bytes_for(images.grid, 1))


def _free_disk(folder: Path) -> int:
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(folder.parent).free


def _read(predictions: TilePredictions, first: int, number: int, tile: Tile) -> TilePrediction:
    return predictions.read(tile, first, number)


def _kept(run: Run, images: Images, folder: Path) -> TilePredictions:
    """Give the predictions of images that are kept."""
    fingerprint = _fingerprint(run, images)
    return TilePredictions(folder / fingerprint[:16], images.grid, fingerprint)


def _fingerprint(run: Run, images: Images) -> str:
    """Give a fingerprint of the cached images, of the code that predicts them, and of the files it reads."""
    cache = cast("ImageCache", images.source).folder.name  # a fingerprint of the files, and of how they are cut
    code = [code_of(run.settings.model.class_path), run.settings.training_hash, run.folder.shared_checksums()]
    content = [cache, [str(sample.image_path) for sample in images.samples], *code]
    return sha256(json.dumps(content).encode()).hexdigest()


def _predicted(run: Run, images: Images, folder: Path) -> Iterator[tuple[Images, TilePredictions]]:
    """Predict the tiles that have no stored predictions, in parts if the disk is small."""
    log, kept, room = folder.parent / "logs" / "run.log", _kept(run, images, folder), _room(images, folder)
    if _stays(run, images, folder) and (room >= len(images.samples) or not _missing(run, kept)):
        _predict_missing(run, images, kept, log)
        yield images, kept
        return
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
    with working_folder(folder) as work:
        for part in images.parts(max(1, room)):
            predictions = TilePredictions(work / "part", part.grid, _fingerprint(run, part))
            _predict_missing(run, part, predictions, log)
            yield part, predictions
            shutil.rmtree(predictions.folder)


def _missing(run: Run, predictions: TilePredictions, *, compare: bool = True) -> list[Tile]:
    """List the tiles without predictions of their present checkpoint."""
    return [
        tile for tile in run.grid.tiles if not predictions.find(tile, run.folder.checksum_of(tile), compare=compare)
    ]


def _predict_missing(run: Run, images: Images, predictions: TilePredictions, log: Path) -> None:
    if not (tiles := _missing(run, predictions)):
        return
    workers = workers_of(run.settings, threads=run.folder.threads(run.grid))
    with closing(checked_outcomes(workers, tiles, PredictTile(run, images, predictions, log))) as outcomes:
        for outcome in track(outcomes, "Predicting tiles", len(tiles)):
            if isinstance(outcome.error, TiledError):
                raise outcome.error
            if outcome.error is not None:
                reason = f"{type(outcome.error).__name__}: {outcome.error}"
                message = f"Tile {outcome.tile.name} could not be predicted: {reason} (log: {log})"
                raise TrainingError(message) from outcome.error
    if left := _missing(run, predictions, compare=False):
        raise StageError(untrained(workers, left))
