"""Training the model of one tile location."""

from __future__ import annotations

import gc
import inspect
import logging
import shutil
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
from anomalib_tiled.ensemble.devices import instead_of
from anomalib_tiled.ensemble.tile_model import predict_tile
from anomalib_tiled.ensemble.tile_predictions import check_finite
from anomalib_tiled.errors import ConfigurationError, NotFiniteError, TiledError
from anomalib_tiled.runs.checkpoints import Sharing, checkpoint_of, read_checkpoint, write_tensors
from anomalib_tiled.runs.tile_states import TileRecord
from anomalib_tiled.stages.workers import SMALLER
from anomalib_tiled.system.files import replacing
from anomalib_tiled.system.logs import log_to
from anomalib_tiled.system.os_errors import full_disk, is_full
from anomalib_tiled.system.out_of_memory import advising_on_memory
from anomalib_tiled.training.callbacks import giving_back
from anomalib_tiled.training.monitors import (
    TileEvaluator,
    check_monitors,
    measured_for,
    monitors_of,
    without_undefined,
)
from anomalib_tiled.training.stored_predictions import predict_trained
from anomalib_tiled.training.training_images import noted_fingerprint
from anomalib_tiled.training.unfit import naming_unfit_locations, unfit_location

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anomalib.data import AnomalibDataModule

    from anomalib_tiled.config.settings import Plain
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.runs.checkpoints import Checkpoint

logger = logging.getLogger(__name__)

ONLY_TO_GO_ON = ("optimizer_states", "lr_schedulers", "loops", "callbacks")
"""Parts of Lightning's checkpoints that are of use in the middle of a training only, and as large as the weights."""

LESS_TO_TRAIN = f"Fit a new run with a smaller {SMALLER}."
"""What to do if there is too little memory to train a tile."""

VALIDATION_HOOKS = ("on_validation_start", "on_validation_epoch_start", "on_validation_epoch_end")


def train_tile(run: Run, tile: Tile, *, device: int | None = None) -> None:
    """Train one tile and store its checkpoint, then the note that it is done; one that is done stays as it is.

    Every tile starts from the same seed, so that its weights depend neither on the order nor on who trains it.

    Args:
        run: The run.
        tile: The tile location.
        device: Index of the GPU to train on; ``None`` for what the configuration says.

    Raises:
        StorageError: The disk is full.
    """
    if not run.folder.is_to_train(tile, run.settings.training_hash):  # trained by a process that died after it
        return
    trainer = dict(run.settings.trainer) | ({} if device is None else {"devices": [device]})
    folder = run.folder.checkpoint(tile).parent
    workspace = folder / f".{tile.name}"
    try:
        with log_to(run.folder.tile_log(tile)), _logged(tile), full_disk(folder / tile.name), _interrupts():
            _fit(run, tile, workspace, trainer_arguments(trainer))
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
        gc.collect()  # model and trainer hold each other, so their memory comes back only now


def _fit(run: Run, tile: Tile, workspace: Path, arguments: dict[str, Plain]) -> None:
    """Fit a fresh model, store it, note that the tile is done, and predict the validation images while it is there."""
    started, images = time.monotonic(), noted_fingerprint(run.folder)
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
    ours = [*giving_back(model, run.settings), _no_checkpoints()]
    engine = Engine(callbacks=[*callbacks, *ours], default_root_dir=workspace, **arguments)
    sharing = Sharing(run.folder.checkpoint(tile).parent, model)
    with naming_unfit_locations(run, tile):
        with _own_precision(model, str(arguments.get("precision"))):
            engine.fit(model, datamodule=cast("AnomalibDataModule", data))
        _try_out(run, tile, model, data)
    checkpoint = sharing.stripped(_trained(engine.trainer, model, callbacks))
    with replacing(path := run.folder.checkpoint(tile)) as temporary:
        checksum = write_tensors(checkpoint, temporary)
        run.folder.forget(tile)  # what it was before, if it is trained again
    epochs = int(engine.trainer.current_epoch)
    seconds = round(time.monotonic() - started, 3)
    facts = seconds, epochs, run.settings.training_hash, checksum, path.stat().st_mtime_ns, images
    run.folder.write_record(tile, TileRecord(*facts, torch.get_num_threads()))
    if run.keeps_to_its_state and not any(map(_has_chosen, callbacks)):
        _predict(run, tile, model, engine.trainer.strategy.root_device)


@contextmanager
def _own_precision(model: AnomalibModule, trained_with: str) -> Iterator[None]:
    """Give a model back the precision that it is loaded with, where the trainer has changed that of its weights."""
    precisions = {name: value.dtype for name, value in model.state_dict().items()}
    yield
    if trained_with.endswith("-true"):
        for name, tensor in chain(model.named_parameters(), model.named_buffers()):
            tensor.data = tensor.data.to(precisions.get(name, tensor.dtype))


def _predict(run: Run, tile: Tile, model: AnomalibModule, device: torch.device) -> None:
    """Predict the validation images; what goes wrong is raised when they are predicted again, before stages learn.

    The tile is stored by now. Only a full disk stops the others too, because they could not be stored either.
    """
    try:
        predict_trained(run, tile, model.to(device).eval())
    except Exception as error:
        if is_full(error.__cause__):
            raise
        logger.exception("Tile %s could not be predicted yet. That is tried again when all are trained.", tile.name)


def _try_out(run: Run, tile: Tile, model: AnomalibModule, data: TileDataModule) -> None:
    """Predict a tile, of the first location two, so that a model that cannot is known after it, not after the last.

    Raises:
        ConfigurationError: The predictions cannot be used.
        UnfitLocationError: They cannot on this location.
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
        # Lightning gives a model without an optimizer one that does nothing, and has no learning rate.
        has_rate = any("lr" in group for each in model.trainer.optimizers for group in each.param_groups)
        advice = "other settings, for example a lower learning rate" if has_rate else "more images"
        message = (
            f"{type(model).__name__} predicts infinities or NaN after it was trained on {tile.name}, the first tile, "
            f"so no other is trained. Training images: {data.train_images}. Fit with {advice}."
        )
        raise ConfigurationError(message) from error


@contextmanager
def _logged(tile: Tile) -> Iterator[None]:
    """Write what goes wrong into the log of the tile."""
    try:
        yield
    except Exception:
        logger.exception("Training tile %s failed.", tile.name)
        raise


@contextmanager
def _interrupts() -> Iterator[None]:
    """Pass Ctrl-C and SIGTERM on, which Lightning turns into an exit of the process."""
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise type(error.__context__) from error
        raise


def trainer_arguments(trainer: Mapping[str, Plain]) -> dict[str, Plain]:
    """Build the arguments of a Trainer for one tile, callbacks and other objects made anew.

    Args:
        trainer: What the configuration says.

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
    # Tiles have folders of their own, and their checkpoints are stored by us; both are anomalib's to arrange.
    for name in ("default_root_dir", "enable_checkpointing"):
        del arguments[name]
    arguments["devices"] = _one_device(arguments["devices"])
    silent = {"logger": arguments["logger"] or False, "enable_progress_bar": False, "enable_model_summary": False}
    return {**arguments, **silent, "callbacks": callbacks if isinstance(callbacks, list) else [callbacks]}


@lru_cache(maxsize=1)
def _trainer_parser() -> ArgumentParser:
    """Make what reads the arguments of a Trainer, which takes as long as loading a model."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False, instantiate=False)
    return parser


def _one_device(devices: Plain) -> Plain:
    """Give the one device that a tile is trained on.

    Raises:
        ConfigurationError: Several devices are asked for; Lightning would start the whole command once more for each.
    """
    if devices in ("auto", "1", 1):  # a list of devices cannot be looked for in a set
        return 1
    if isinstance(devices, list) and len(devices) == 1:
        return devices
    message = f"A tile is trained on one device, but trainer.devices is {devices}. Give 1, or one index such as [1]."
    raise ConfigurationError(message)


def check_trainer(trainer: Mapping[str, Plain]) -> None:
    """Make a Trainer, so that what it refuses is known before there is anything to train.

    Raises:
        ConfigurationError: An argument is refused.
    """
    try:
        arguments = trainer_arguments(trainer)
        Trainer(**{**arguments, "callbacks": [*arguments["callbacks"], _no_checkpoints()]})
    except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
        message = f"The trainer refuses its arguments: {error}{instead_of(trainer.get('accelerator', 'auto'))}"
        raise ConfigurationError(message) from error


def check_monitored(run: Run) -> None:
    """Check that what callbacks monitor will be there, so that no tile is trained without what was asked for.

    Where a monitor is no metric, one batch of one tile is trained, to see what the model logs.

    Raises:
        ConfigurationError: Nothing gives what a callback monitors.
    """
    callbacks = trainer_arguments(run.settings.trainer)["callbacks"]
    if monitored := monitors_of(callbacks):
        check_monitors(run.settings, run.split, monitored, partial(_logged_names, run))


def _logged_names(run: Run) -> set[str]:
    """Train and validate with one batch of a tile, and give the names that the model logs.

    Raises:
        ConfigurationError: It cannot be trained.
    """
    tile = run.grid.tiles[0]
    data = TileDataModule(run.source, run.split, grid=run.grid, tile=tile, datamodule=run.datamodule)
    arguments = {**trainer_arguments(run.settings.trainer), "callbacks": [], "logger": False, "fast_dev_run": True}
    try:
        with TemporaryDirectory() as workspace, _interrupts(), advising_on_memory(LESS_TO_TRAIN):
            engine = Engine(default_root_dir=workspace, **arguments)
            engine.fit(run.fresh_models.model(), datamodule=cast("AnomalibDataModule", data))
    except TiledError:
        raise
    except Exception as error:  # a model may fail in any way
        message = (
            f"One batch was to show what {run.settings.model.name} logs, because callbacks monitor something that is "
            f"no metric, but its training failed: {type(error).__name__}: {error}"
        )
        raise ConfigurationError(message) from error
    return set(engine.trainer.callback_metrics)


def _needs_validation(model: AnomalibModule) -> bool:
    """Whether the model does something of its own around validation, such as learning quantiles.

    A validation that only measures is left out where nothing reads the measurement.
    """
    neutral = (LightningModule, AnomalibModule, MemoryBankMixin)
    return any(
        inspect.getattr_static(type(model), hook) not in [inspect.getattr_static(base, hook, None) for base in neutral]
        for hook in VALIDATION_HOOKS
    )


def _no_checkpoints() -> ModelCheckpoint:
    """Keep anomalib from storing checkpoints of its own beside those that the user asked for."""
    # Lightning tells callbacks of one class apart by their arguments; nobody maximizes nothing, so this one is ours.
    return ModelCheckpoint(save_top_k=0, mode="max")


def _has_chosen(callback: Callback) -> bool:
    """Whether a callback has kept the best weights, by something that it monitors."""
    monitors = isinstance(callback, LightningCheckpoint) and callback.monitor is not None
    return monitors and Path(cast("LightningCheckpoint", callback).best_model_path).is_file()


def _trained(trainer: Trainer, model: AnomalibModule, callbacks: list[Callback]) -> Checkpoint:
    """Give the best weights if a checkpoint callback of the user monitors something, else the last ones."""
    for callback in filter(_has_chosen, callbacks):
        best = read_checkpoint(Path(cast("LightningCheckpoint", callback).best_model_path), type(model))
        return {name: value for name, value in best.items() if name not in ONLY_TO_GO_ON}
    return checkpoint_of(model, epoch=trainer.current_epoch, global_step=trainer.global_step)
