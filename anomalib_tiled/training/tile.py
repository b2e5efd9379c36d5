"""Training the model of one tile location."""

from __future__ import annotations

import inspect
import logging
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from anomalib.callbacks.checkpoint import ModelCheckpoint
from anomalib.engine import Engine
from anomalib.metrics import AUPR, AUROC, Evaluator, F1Max
from anomalib.models.components import AnomalibModule, MemoryBankMixin
from jsonargparse import ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint as LightningCheckpoint

from anomalib_tiled.data.tile_dataset import TileDataModule
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.files import replacing, storage_errors
from anomalib_tiled.results.logs import log_to
from anomalib_tiled.run_folder import TileRecord
from anomalib_tiled.tile_model import build_tile_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anomalib.data import AnomalibDataModule

    from anomalib_tiled.config import Plain
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.run import Run

logger = logging.getLogger(__name__)

VALIDATION_HOOKS = ("on_validation_start", "on_validation_epoch_start", "on_validation_epoch_end")


def train_tile(run: Run, tile: Tile) -> None:
    """Train one tile and store its checkpoint, then the note that it is done.

    Every tile starts from the same seed, so that its weights depend neither on the order nor on who trains it.

    Args:
        run: The run.
        tile: The tile location.

    Raises:
        StorageError: The disk is full.
    """
    started = time.monotonic()
    workspace = run.folder.path / "tiles" / f".{tile.name}"
    try:
        with log_to(run.folder.tile_log(tile)), storage_errors(workspace), _interrupts():
            epochs = _fit(run, tile, workspace)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    seconds = round(time.monotonic() - started, 3)
    run.folder.write_record(tile, TileRecord(seconds, epochs, run.settings.training_hash))


def _fit(run: Run, tile: Tile, workspace: Path) -> int:
    """Fit a fresh model, store it, and give the number of epochs."""
    seed_everything(run.settings.seed_everything, workers=True, verbose=False)
    data = TileDataModule(run.source, run.split, grid=run.grid, tile=tile, datamodule=run.datamodule)
    model = build_tile_model(run.settings.model, run.grid.tile_size)
    arguments = trainer_arguments(run.settings.trainer)
    callbacks = arguments.pop("callbacks")
    if monitors := _monitored(callbacks):
        logger.info("Validation metrics are computed, because %s is monitored.", ", ".join(sorted(monitors)))
        model.evaluator = _validation_evaluator()
    elif not _needs_validation(model):
        arguments["limit_val_batches"] = 0
    engine = Engine(callbacks=[*callbacks, _no_checkpoints()], default_root_dir=workspace, **arguments)
    engine.fit(model, datamodule=cast("AnomalibDataModule", data))
    with replacing(run.folder.checkpoint(tile)) as temporary:
        _save(engine, callbacks, temporary)
    return int(engine.trainer.current_epoch)


@contextmanager
def _interrupts() -> Iterator[None]:
    """Pass Ctrl-C on, which Lightning turns into an exit of the process."""
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise


def trainer_arguments(trainer: Mapping[str, Plain]) -> dict[str, Plain]:
    """Build the arguments of a Trainer for one tile, callbacks and other objects made anew.

    Args:
        trainer: What the configuration says.

    Raises:
        ConfigurationError: An argument is refused.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False, instantiate=False)
    try:
        arguments = parser.instantiate_classes(parser.parse_object({"trainer": dict(trainer)})).trainer.as_dict()
    except (TypeError, ValueError) as error:
        message = f"The trainer refuses its arguments: {error}"
        raise ConfigurationError(message) from error
    callbacks = arguments.pop("callbacks") or []
    del arguments["default_root_dir"]
    silent = {"logger": arguments["logger"] or False, "enable_progress_bar": False, "enable_model_summary": False}
    return {**arguments, **silent, "callbacks": callbacks if isinstance(callbacks, list) else [callbacks]}


def check_trainer(trainer: Mapping[str, Plain]) -> None:
    """Make a Trainer, so that what it refuses is known before there is anything to train.

    Raises:
        ConfigurationError: An argument is refused.
    """
    try:
        Trainer(**trainer_arguments(trainer))
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        message = f"The trainer refuses its arguments: {error}"
        raise ConfigurationError(message) from error


def _monitored(callbacks: list[Callback]) -> set[str]:
    return {monitor for callback in callbacks if (monitor := getattr(callback, "monitor", None))}


def _validation_evaluator() -> Evaluator:
    """Give the metrics that a callback may monitor, under anomalib's names."""
    metrics = [
        metric(fields=fields, prefix=prefix, strict=False)
        for metric in (AUROC, AUPR, F1Max)
        for prefix, fields in (("image_", ("pred_score", "gt_label")), ("pixel_", ("anomaly_map", "gt_mask")))
    ]
    return Evaluator(val_metrics=metrics)


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


def _save(engine: Engine, callbacks: list[Callback], path: Path) -> None:
    """Store the best weights if a checkpoint callback of the user monitors something, else the last ones."""
    for callback in callbacks:
        if isinstance(callback, LightningCheckpoint) and callback.monitor and Path(callback.best_model_path).is_file():
            shutil.copyfile(callback.best_model_path, path)
            return
    engine.trainer.save_checkpoint(path, weights_only=True)
