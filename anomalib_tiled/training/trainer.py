"""The trainer of a tile: its arguments and callbacks, made anew for each tile, and a check of them before training."""

from __future__ import annotations

from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from typing import TYPE_CHECKING

from anomalib.callbacks.checkpoint import ModelCheckpoint
from anomalib.models.components import AnomalibModule, MemoryBankMixin
from jsonargparse import ArgumentError, ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer

from anomalib_tiled.config.allowed_classes import check_classes
from anomalib_tiled.ensemble.devices import cpu_advice
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.system.allocation import give_back_freed_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anomalib_tiled.config.settings import Plain, Settings


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
    # anomalib's Engine sets both itself; tiles have folders of their own, and `train_tile` stores their checkpoints.
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


def check_trainer(trainer: Mapping[str, Plain], *, device_is_here: bool = True) -> None:
    """Make a Trainer, so that it refuses wrong arguments before the training.

    Args:
        trainer: Arguments of the configuration.
        device_is_here: Whether tiles are trained on this machine, so that it must have their device.

    Raises:
        ConfigurationError: An argument is refused.
    """
    try:
        arguments = trainer_arguments(trainer)
        here = {} if device_is_here else {"accelerator": "cpu", "devices": 1}
        Trainer(**{**arguments, **here, "callbacks": [*arguments["callbacks"], no_checkpoints()]})
    except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
        message = f"The trainer refuses its arguments: {error}{cpu_advice(trainer.get('accelerator', 'auto'))}"
        raise ConfigurationError(message) from error


class ReleaseMemory(Callback):
    """Returns freed memory to the system before a model fits its memory bank, and after that.

    Collecting features and fitting need blocks of different sizes, so freed blocks of one would lie idle in the other.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Return memory before the model fits its memory bank."""
        del trainer, pl_module
        give_back_freed_memory()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Return memory after the model has fitted it."""
        del trainer, pl_module
        give_back_freed_memory()


def memory_callbacks(model: AnomalibModule, settings: Settings) -> list[Callback]:
    """List the callbacks that save memory where memory is limited: allocating it again takes time.

    That is if the run has a memory budget and the model fits a memory bank at the end of its only epoch.

    Args:
        model: The model.
        settings: The configuration of the run.
    """
    scarce = settings.memory_bytes is not None and isinstance(model, MemoryBankMixin)
    return [ReleaseMemory()] if scarce else []


def no_checkpoints() -> ModelCheckpoint:
    """Keep anomalib from storing its own checkpoints beside those of the user."""
    # Lightning tells callbacks of one class apart by their arguments; no user combines mode and save_top_k like this.
    return ModelCheckpoint(save_top_k=0, mode="max")


@contextmanager
def interrupts_raised() -> Iterator[None]:
    """Raise Ctrl-C and SIGTERM again, which Lightning turns into an exit of the process."""
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise type(error.__context__) from error
        raise
