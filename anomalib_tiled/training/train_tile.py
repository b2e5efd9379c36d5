"""Training the model of one tile location."""

from __future__ import annotations

import gc
import inspect
import logging
import time
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

import torch
from anomalib.callbacks.checkpoint import ModelCheckpoint
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule, MemoryBankMixin
from jsonargparse import ArgumentError, ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint as LightningCheckpoint
from lightning.pytorch.loggers import CSVLogger

from anomalib_tiled.config.allowed_classes import check_classes
from anomalib_tiled.data.tile_dataset import TileDataModule
from anomalib_tiled.ensemble.devices import cpu_advice
from anomalib_tiled.ensemble.tile_model import predict_tile
from anomalib_tiled.ensemble.tile_predictions import check_finite
from anomalib_tiled.errors import ConfigurationError, NotFiniteError, TiledError
from anomalib_tiled.runs.checkpoints import Sharing, checkpoint_of, read_checkpoint, write_tensors
from anomalib_tiled.runs.tile_states import TileRecord
from anomalib_tiled.stages.workers import MEMORY_SETTINGS
from anomalib_tiled.system.files import replacing
from anomalib_tiled.system.logs import log_to
from anomalib_tiled.system.os_errors import full_disk, is_full
from anomalib_tiled.system.out_of_memory import advising_on_memory
from anomalib_tiled.system.temporary import working_folder
from anomalib_tiled.training.callbacks import memory_callbacks
from anomalib_tiled.training.monitors import (
    TileEvaluator,
    check_monitors,
    measured_for,
    monitors_of,
    without_undefined,
)
from anomalib_tiled.training.stored_predictions import predict_trained
from anomalib_tiled.training.training_images import recorded_fingerprint
from anomalib_tiled.training.unfit import errors_naming_unfit_locations, unfit_location

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anomalib.data import AnomalibDataModule

    from anomalib_tiled.config.settings import Plain
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.runs.checkpoints import Checkpoint

logger = logging.getLogger(__name__)

ONLY_TO_RESUME = ("optimizer_states", "lr_schedulers", "loops", "callbacks")
"""Parts of Lightning's checkpoints that only serve to resume a training, and are as large as the weights."""

TRAINING_MEMORY_ADVICE = f"Fit a new run with a smaller {MEMORY_SETTINGS}."
"""Advice if there is too little memory to train a tile."""

VALIDATION_HOOKS = ("on_validation_start", "on_validation_epoch_start", "on_validation_epoch_end")


def train_tile(run: Run, tile: Tile, *, device: int | None = None) -> None:
    """Train one tile, store its checkpoint, then the record that it is done; a tile that is done is skipped.

    Every tile starts from the same seed, so that its weights depend neither on the order nor on the process.

    Args:
        run: The run.
        tile: The tile location.
        device: Index of the GPU to train on; ``None`` for the device of the configuration.

    Raises:
        StorageError: The disk is full.
    """
    if not run.folder.is_to_train(tile, run.settings.training_hash):  # a process trained it and then crashed
        return
    trainer = dict(run.settings.trainer) | ({} if device is None else {"devices": [device]})
    folder = run.folder.checkpoint(tile).parent
    try:
        with (
            log_to(run.folder.tile_log(tile)),
            _logged(tile),
            full_disk(folder / tile.name),
            _interrupts(),
            working_folder(folder, tile.name) as workspace,
        ):
            _fit(run, tile, workspace, trainer_arguments(trainer))
    finally:
        gc.collect()  # model and trainer refer to each other, so only this frees their memory


def _fit(run: Run, tile: Tile, workspace: Path, arguments: dict[str, Plain]) -> None:
    """Fit a fresh model, store it, record that the tile is done, and predict the validation images with it."""
    started, images = time.monotonic(), recorded_fingerprint(run.folder)
    data = TileDataModule(run.source, run.split, grid=run.grid, tile=tile, datamodule=run.datamodule)
    model = run.fresh_models.model()
    callbacks = without_undefined(arguments.pop("callbacks"), data, run.settings.metrics)
    if arguments["logger"] is True:
        arguments["logger"] = CSVLogger(run.folder.log_file.parent, name=tile.name)
    monitored = monitors_of(callbacks)
    if (measured := measured_for(callbacks, run.settings.metrics)) is not None:
        model.evaluator = TileEvaluator(measured, monitored)
    if not monitored and not _needs_validation(model):
        arguments["limit_val_batches"] = 0
    ours = [*memory_callbacks(model, run.settings), _no_checkpoints()]
    engine = Engine(callbacks=[*callbacks, *ours], default_root_dir=workspace, **arguments)
    sharing = Sharing(run.folder.checkpoint(tile).parent, model)
    with errors_naming_unfit_locations(run, tile):
        with _own_precision(model, str(arguments.get("precision"))):
            engine.fit(model, datamodule=cast("AnomalibDataModule", data))
        _try_out(run, tile, model, data)
    checkpoint = sharing.stripped(_trained_checkpoint(engine.trainer, model, callbacks))
    with replacing(path := run.folder.checkpoint(tile)) as temporary:
        checksum = write_tensors(checkpoint, temporary)
        run.folder.forget(tile)  # the earlier record, if the tile is trained again
    epochs = int(engine.trainer.current_epoch)
    seconds = round(time.monotonic() - started, 3)
    facts = seconds, epochs, run.settings.training_hash, checksum, path.stat().st_mtime_ns, images
    run.folder.write_record(tile, TileRecord(*facts, torch.get_num_threads()))
    if run.checkpoint_is_complete and not any(map(_has_chosen, callbacks)):
        _predict(run, tile, model, engine.trainer.strategy.root_device)


@contextmanager
def _own_precision(model: AnomalibModule, trained_with: str) -> Iterator[None]:
    """Give a model the precision that it is loaded with, if the trainer has changed the precision of its weights."""
    precisions = {name: value.dtype for name, value in model.state_dict().items()}
    yield
    if trained_with.endswith("-true"):
        for name, tensor in chain(model.named_parameters(), model.named_buffers()):
            tensor.data = tensor.data.to(precisions.get(name, tensor.dtype))


def _predict(run: Run, tile: Tile, model: AnomalibModule, device: torch.device) -> None:
    """Predict the validation images; after an error they are predicted again before calibration, which raises it.

    The tile is stored by now. Only a full disk stops the training, because other tiles could not be stored either.
    """
    try:
        predict_trained(run, tile, model.to(device).eval())
    except Exception as error:
        if is_full(error.__cause__):
            raise
        logger.exception(
            "Tile %s could not be predicted yet. It is predicted again when all tiles are trained.", tile.name
        )


def _try_out(run: Run, tile: Tile, model: AnomalibModule, data: TileDataModule) -> None:
    """Predict a tile, two for the first location, so that a model that cannot predict fails now, not after the last.

    Raises:
        ConfigurationError: The predictions cannot be used.
        UnfitLocationError: The predictions cannot be used at this location.
    """
    training, is_first = model.training, not any(map(run.folder.has_record, run.grid.locations))
    prediction = predict_tile(model.eval(), data.example(2 if is_first else 1).to(model.device))
    model.train(training)
    try:
        check_finite(tile, prediction)
    except NotFiniteError as error:
        unfit = unfit_location(run, tile, "its predictions are infinities or NaN")
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


@contextmanager
def _interrupts() -> Iterator[None]:
    """Raise Ctrl-C and SIGTERM again, which Lightning turns into an exit of the process."""
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise type(error.__context__) from error
        raise


def trainer_arguments(trainer: Mapping[str, Plain]) -> dict[str, Plain]:
    """Build the arguments of a Trainer for one tile, with new callbacks and other objects.

    Args:
        trainer: Arguments of the configuration.

    Raises:
        ConfigurationError: An argument is refused.
    """
    parser = _trainer_parser()
    try:
        parsed = parser.parse_object({"trainer": deepcopy(dict(trainer))})
        check_classes(parsed)
        arguments = parser.instantiate_classes(parsed).trainer.as_dict()
    except (ArgumentError, TypeError, ValueError) as error:
        message = f"The trainer refuses its arguments: {error}"
        raise ConfigurationError(message) from error
    # Whether jsonargparse takes 1 (a batch) for 1.0 (all of them) depends on what was imported before Lightning.
    arguments |= {name: value for name, value in trainer.items() if isinstance(value, int)}
    callbacks = arguments.pop("callbacks") or []
    # anomalib's Engine sets both itself; tiles have folders of their own, and `_fit` stores their checkpoints.
    for name in ("default_root_dir", "enable_checkpointing"):
        del arguments[name]
    arguments["devices"] = _one_device(arguments["devices"])
    silent = {"logger": arguments["logger"] or False, "enable_progress_bar": False, "enable_model_summary": False}
    return {**arguments, **silent, "callbacks": callbacks if isinstance(callbacks, list) else [callbacks]}


@lru_cache(maxsize=1)
def _trainer_parser() -> ArgumentParser:
    """Make the parser of the arguments of a Trainer, which takes as long as loading a model."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False, instantiate=False)
    return parser


def _one_device(devices: Plain) -> Plain:
    """Give the one device that a tile is trained on.

    Raises:
        ConfigurationError: Several devices are given; Lightning would start the whole command once more for each.
    """
    if devices in ("auto", "1", 1):  # not a set: a list of devices has no hash
        return 1
    if isinstance(devices, list) and len(devices) == 1:
        return devices
    message = f"A tile is trained on one device, but trainer.devices is {devices}. Give 1, or one index such as [1]."
    raise ConfigurationError(message)


def check_trainer(trainer: Mapping[str, Plain]) -> None:
    """Make a Trainer, so that it refuses wrong arguments before the training.

    Raises:
        ConfigurationError: An argument is refused.
    """
    try:
        arguments = trainer_arguments(trainer)
        Trainer(**{**arguments, "callbacks": [*arguments["callbacks"], _no_checkpoints()]})
    except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
        message = f"The trainer refuses its arguments: {error}{cpu_advice(trainer.get('accelerator', 'auto'))}"
        raise ConfigurationError(message) from error


def check_monitored(run: Run) -> None:
    """Check that the values which callbacks monitor will exist.

    If a monitored value is no metric, one batch of one tile is trained, to see which values the model logs.

    Raises:
        ConfigurationError: Nothing measures or logs a monitored value.
    """
    callbacks = trainer_arguments(run.settings.trainer)["callbacks"]
    if monitored := monitors_of(callbacks):
        check_monitors(run.settings, run.split, monitored, partial(_logged_names, run))


def _logged_names(run: Run) -> set[str]:
    """Train and validate with one batch of a tile, and give the names that the model logs.

    Raises:
        ConfigurationError: The training failed.
    """
    tile = run.grid.tiles[0]
    data = TileDataModule(run.source, run.split, grid=run.grid, tile=tile, datamodule=run.datamodule)
    arguments = {**trainer_arguments(run.settings.trainer), "callbacks": [], "logger": False, "fast_dev_run": True}
    try:
        with TemporaryDirectory() as workspace, _interrupts(), advising_on_memory(TRAINING_MEMORY_ADVICE):
            engine = Engine(default_root_dir=workspace, **arguments)
            engine.fit(run.fresh_models.model(), datamodule=cast("AnomalibDataModule", data))
    except TiledError:
        raise
    except Exception as error:  # a model may raise anything
        message = (
            f"Callbacks monitor a value that is no metric, so {run.settings.model.name} was trained on one batch to "
            f"list the values that it logs. That failed: {type(error).__name__}: {error}"
        )
        raise ConfigurationError(message) from error
    return set(engine.trainer.callback_metrics)


def _needs_validation(model: AnomalibModule) -> bool:
    """Whether the model itself does something around validation, such as learning quantiles.

    A validation that only measures is skipped if nothing reads its result.
    """
    neutral = (LightningModule, AnomalibModule, MemoryBankMixin)
    return any(
        inspect.getattr_static(type(model), hook) not in [inspect.getattr_static(base, hook, None) for base in neutral]
        for hook in VALIDATION_HOOKS
    )


def _no_checkpoints() -> ModelCheckpoint:
    """Keep anomalib from storing its own checkpoints beside those of the user."""
    # Lightning tells callbacks of one class apart by their arguments; no user combines mode and save_top_k like this.
    return ModelCheckpoint(save_top_k=0, mode="max")


def _has_chosen(callback: Callback) -> bool:
    """Whether a callback has stored the best weights by a monitored value."""
    monitors = isinstance(callback, LightningCheckpoint) and callback.monitor is not None
    return monitors and Path(cast("LightningCheckpoint", callback).best_model_path).is_file()


def _trained_checkpoint(trainer: Trainer, model: AnomalibModule, callbacks: list[Callback]) -> Checkpoint:
    """Give the best weights if a checkpoint callback of the user monitors a value, else the last weights."""
    for callback in filter(_has_chosen, callbacks):
        best = read_checkpoint(Path(cast("LightningCheckpoint", callback).best_model_path), type(model))
        return {name: value for name, value in best.items() if name not in ONLY_TO_RESUME}
    return checkpoint_of(model, epoch=trainer.current_epoch, global_step=trainer.global_step)
