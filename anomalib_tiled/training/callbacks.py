"""A callback that returns freed memory to the system between the steps of training a tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalib.models.components import AnomalibModule, MemoryBankMixin
from lightning.pytorch import Callback, LightningModule, Trainer

from anomalib_tiled.system.allocation import give_back_freed_memory

if TYPE_CHECKING:
    from anomalib_tiled.config.settings import Settings


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
