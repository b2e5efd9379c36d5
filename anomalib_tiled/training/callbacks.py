"""Giving back freed memory between the parts of the work on one tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalib.models.components import AnomalibModule, MemoryBankMixin
from lightning.pytorch import Callback, LightningModule, Trainer

from anomalib_tiled.system.allocation import give_back_freed_memory

if TYPE_CHECKING:
    from anomalib_tiled.config.settings import Settings


class GivesBackMemory(Callback):
    """Gives back what was freed before a model learns from all features that it has seen, and after that.

    Each needs blocks of other sizes than the other, so what one leaves behind would lie idle while the other works.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called before the model learns."""
        del trainer, pl_module
        give_back_freed_memory()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called when it has learned."""
        del trainer, pl_module
        give_back_freed_memory()


def giving_back(model: AnomalibModule, settings: Settings) -> list[Callback]:
    """Give what a trainer needs to get along with less memory, where that is worth the time of fetching it again.

    That is where memory has a budget, and where the model learns at the end of its only epoch.

    Args:
        model: The model.
        settings: The configuration of the run.
    """
    scarce = settings.memory_bytes is not None and isinstance(model, MemoryBankMixin)
    return [GivesBackMemory()] if scarce else []
