from __future__ import annotations

from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from anomalib.models import Fastflow, Padim
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.training import callbacks as module
from anomalib_tiled.training.callbacks import ReleaseMemory, memory_callbacks


def test_memory_is_given_back_only_where_it_has_a_budget(settings: Settings) -> None:
    padim = Mock(spec=Padim)
    assert memory_callbacks(padim, replace(settings, memory_budget=None)) == []
    [callback] = memory_callbacks(padim, replace(settings, memory_budget="1GB"))
    assert isinstance(callback, ReleaseMemory)


def test_models_of_many_epochs_keep_what_they_need_in_the_next(settings: Settings) -> None:
    assert memory_callbacks(Mock(spec=Fastflow), replace(settings, memory_budget="1GB")) == []


def test_it_is_given_back_before_the_model_learns_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    monkeypatch.setattr(module, "give_back_freed_memory", lambda: steps.append("given back"))

    class Model(LightningModule):
        def training_step(self, batch: torch.Tensor) -> None:
            assert batch == 1
            steps.append("looks")

        def on_train_epoch_end(self) -> None:
            steps.append("learns")

        def configure_optimizers(self) -> None:
            """Nothing is to be optimized."""

    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(max_epochs=1, accelerator="cpu", callbacks=[ReleaseMemory()], **quiet)
    trainer.fit(Model(), train_dataloaders=DataLoader([1]))
    assert steps == ["looks", "given back", "learns", "given back"]
