"""Training the model of one tile location, and what workers do with a tile: train it, then predict with its model."""

from __future__ import annotations

import gc
import inspect
import logging
import platform
import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule, MemoryBankMixin
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from anomalib_tiled.ensemble.devices import described
from anomalib_tiled.ensemble.half_precision import precision_of_trainer
from anomalib_tiled.ensemble.tile_job import is_complete
from anomalib_tiled.ensemble.tile_model import predict_tile
from anomalib_tiled.ensemble.tile_predictions import check_finite
from anomalib_tiled.errors import ConfigurationError, NotFiniteError
from anomalib_tiled.grid import WholeImage
from anomalib_tiled.runs.checkpoints import Sharing, checkpoint_of, read_checkpoint, write_tensors
from anomalib_tiled.runs.claims import ClaimedTile, check_claim
from anomalib_tiled.runs.tile_record import TileRecord
from anomalib_tiled.system.files import replacing
from anomalib_tiled.system.logs import log_to
from anomalib_tiled.system.os_errors import full_disk
from anomalib_tiled.system.temporary import working_folder
from anomalib_tiled.training.coreset import picked_faster
from anomalib_tiled.training.monitors import TileEvaluator, measured_for, monitors_of, without_undefined
from anomalib_tiled.training.stored_predictions import predict_trained
from anomalib_tiled.training.trainer import interrupts_raised, memory_callbacks, no_checkpoints, trainer_arguments
from anomalib_tiled.training.training_images import recorded_fingerprint
from anomalib_tiled.training.unfit import errors_naming_unfit_locations, unfit_location

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomalib.data import AnomalibDataModule

    from anomalib_tiled.config.settings import Plain
    from anomalib_tiled.data.tile_dataset import TileDataModule
    from anomalib_tiled.ensemble.tile_job import TileJob
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.runs.checkpoints import Checkpoint

logger = logging.getLogger(__name__)

ONLY_TO_RESUME = ("optimizer_states", "lr_schedulers", "loops", "callbacks")
"""Parts of Lightning's checkpoints that only serve to resume a training, and are as large as the weights."""

VALIDATION_HOOKS = ("on_validation_start", "on_validation_epoch_start", "on_validation_epoch_end")


@dataclass(frozen=True)
class TrainAndPredict:
    """Trains a tile, then predicts the validation images with its model, which need not be loaded again for that.

    Args:
        job: What both need.
    """

    job: TileJob

    def __call__(self, tile: Tile | ClaimedTile, *, device: int | None = None) -> None:
        """Train and predict; arguments and errors are those of `train_tile`.

        Args:
            tile: The tile; claimed, if several processes may get it.
            device: As for `train_tile`.
        """
        tile, claim = (tile.tile, tile) if isinstance(tile, ClaimedTile) else (tile, None)
        model = train_tile(self.job, tile, device=device, claim=claim)
        if model is not None:
            predict_trained(self.job, tile, model, model.trainer.strategy.root_device)
        del model
        gc.collect()  # model and trainer refer to each other, so only this frees their memory


def train_tile(
    job: TileJob, tile: Tile, *, device: int | None = None, claim: ClaimedTile | None = None
) -> AnomalibModule | None:
    """Train one tile, store its checkpoint, then the record that it is done; a tile that is done is skipped.

    Every tile starts from the same seed, so that its weights depend neither on the order nor on the process.

    Args:
        job: What training any tile of the run needs.
        tile: The tile location.
        device: Index of the GPU to train on; ``None`` for the device of the configuration.
        claim: What allows this try to store the tile; ``None`` if no other process can be at work on it.

    Returns:
        The trained model; ``None`` if the tile was done, or the model differs from its checkpoint.

    Raises:
        StorageError: The disk is full.
        RunFolderError: The tile was given to another try meanwhile. Nothing is changed.
    """
    check_claim(claim)
    if not job.folder.is_to_train(tile, job.settings):  # a process trained it and then crashed
        return None
    trainer = dict(job.settings.trainer) | ({} if device is None else {"devices": [device]})
    folder = job.folder.checkpoint(tile).parent
    with (
        log_to(job.folder.tile_log(tile)),
        _logged(tile),
        full_disk(folder / tile.name),
        interrupts_raised(),
        working_folder(folder, tile.name) as workspace,
    ):
        return _fit(job, tile, workspace, trainer_arguments(trainer), claim)


def _fit(
    job: TileJob, tile: Tile, workspace: Path, arguments: dict[str, Plain], claim: ClaimedTile | None
) -> AnomalibModule | None:
    """Fit a fresh model, store it, and record that the tile is done."""
    started, images, folder = time.monotonic(), recorded_fingerprint(job.folder), job.folder
    data, model = job.tile_data(tile), job.fresh_models_of(tile).model()
    arguments["precision"] = arguments["precision"] or precision_of_trainer(model)
    callbacks = without_undefined(arguments.pop("callbacks"), data, job.settings.metrics)
    if arguments["logger"] is True:
        arguments["logger"] = CSVLogger(folder.log_file.parent, name=tile.name)
    monitored = monitors_of(callbacks)
    if (measured := measured_for(callbacks, job.settings.metrics)) is not None:
        model.evaluator = TileEvaluator(measured, monitored)
    if not monitored and not _needs_validation(model):
        arguments["limit_val_batches"] = 0
    ours = [*memory_callbacks(model, job.settings), no_checkpoints()]
    engine = Engine(callbacks=[*callbacks, *ours], default_root_dir=workspace, **arguments)
    sharing = None if isinstance(tile, WholeImage) else Sharing(folder.checkpoint(tile).parent, model)
    with errors_naming_unfit_locations(job, tile):
        with _own_precision(model, str(arguments.get("precision"))), picked_faster():
            engine.fit(model, datamodule=cast("AnomalibDataModule", data))
        _check_prediction(job, tile, model, data)
    checkpoint = _trained_checkpoint(engine.trainer, model, callbacks)
    if sharing is not None:
        checkpoint = sharing.stripped(checkpoint)
    with replacing(path := folder.checkpoint(tile)) as temporary:
        checksum = write_tensors(checkpoint, temporary)
        check_claim(claim)
        folder.forget(tile)  # the earlier record, if the tile is trained again
    epochs = int(engine.trainer.current_epoch)
    seconds = round(time.monotonic() - started, 3)
    facts = seconds, epochs, job.settings.training_hash, checksum, path.stat().st_mtime_ns, images
    check_claim(claim)
    where = platform.node(), described(model.trainer.strategy.root_device)
    folder.write_record(tile, TileRecord(*facts, torch.get_num_threads(), *where))
    return model if is_complete(job.settings.model_of(tile)) and not any(map(_has_chosen, callbacks)) else None


@contextmanager
def _own_precision(model: AnomalibModule, trained_with: str) -> Iterator[None]:
    """Give a model the precision that it is loaded with, if the trainer has changed the precision of its weights."""
    precisions = {name: value.dtype for name, value in model.state_dict().items()}
    yield
    if trained_with.endswith("-true"):
        for name, tensor in chain(model.named_parameters(), model.named_buffers()):
            tensor.data = tensor.data.to(precisions.get(name, tensor.dtype))


def _check_prediction(job: TileJob, tile: Tile, model: AnomalibModule, data: TileDataModule) -> None:
    """Predict a tile, two for the first location, so that a model that cannot predict fails now, not after the last.

    Raises:
        ConfigurationError: The predictions cannot be used.
        UnfitLocationError: The predictions cannot be used at this location.
    """
    training, is_first = model.training, not any(map(job.folder.has_record, job.grid.model_locations))
    prediction = predict_tile(model.eval(), data.example(2 if is_first else 1).to(model.device))
    model.train(training)
    try:
        check_finite(tile, prediction)
    except NotFiniteError as error:
        unfit = unfit_location(job, tile, "its predictions are infinities or NaN")
        if unfit.blank or not is_first:
            raise unfit from error
        # Lightning gives a model without an optimizer a dummy optimizer without a learning rate.
        has_rate = any("lr" in group for each in model.trainer.optimizers for group in each.param_groups)
        advice = "other settings, for example a lower learning rate" if has_rate else "more images"
        message = (
            f"{type(model).__name__} predicts infinities or NaN after it was trained on {tile.name}, the first tile, "
            f"so training stopped. Training images: {data.train_images}. Fit with {advice}."
        )
        raise ConfigurationError(message) from error


@contextmanager
def _logged(tile: Tile) -> Iterator[None]:
    """Log errors in the log of the tile."""
    try:
        yield
    except Exception:
        logger.exception("Training tile %s failed.", tile.name)
        raise


def _needs_validation(model: AnomalibModule) -> bool:
    """Whether the model itself does something around validation, such as learning quantiles.

    A validation that only measures is skipped if nothing reads its result.
    """
    neutral = (LightningModule, AnomalibModule, MemoryBankMixin)
    return any(
        inspect.getattr_static(type(model), hook) not in [inspect.getattr_static(base, hook, None) for base in neutral]
        for hook in VALIDATION_HOOKS
    )


def _has_chosen(callback: Callback) -> bool:
    """Whether a callback has stored the best weights by a monitored value."""
    monitors = isinstance(callback, ModelCheckpoint) and callback.monitor is not None
    return monitors and Path(cast("ModelCheckpoint", callback).best_model_path).is_file()


def _trained_checkpoint(trainer: Trainer, model: AnomalibModule, callbacks: list[Callback]) -> Checkpoint:
    """Give the best weights if a checkpoint callback of the user monitors a value, else the last weights."""
    for callback in filter(_has_chosen, callbacks):
        best = read_checkpoint(Path(cast("ModelCheckpoint", callback).best_model_path), type(model))
        return {name: value for name, value in best.items() if name not in ONLY_TO_RESUME}
    return checkpoint_of(model, epoch=trainer.current_epoch, global_step=trainer.global_step)
