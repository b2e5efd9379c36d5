"""The arguments of a trainer, its callbacks, and the check of them before training."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from anomalib.models import Fastflow, Padim
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.training import trainer as module
from anomalib_tiled.training.trainer import ReleaseMemory, check_trainer, memory_callbacks, trainer_arguments


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


def stopping(**arguments: object) -> dict[str, object]:
    return {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": arguments}


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_without_a_gpu_the_setting_to_give_is_named(accelerator: str) -> None:
    message = r"The trainer refuses its arguments: .* To train on the CPU, set --trainer\.accelerator cpu\."
    with pytest.raises(ConfigurationError, match=message):
        check_trainer({"accelerator": accelerator})


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"accelerator": "warp"}, "The trainer refuses its arguments: You selected an invalid accelerator name"),
        ({"max_epoch": 1}, r"The trainer refuses its arguments: .*max_epoch"),
        ({"max_epochs": "many"}, r"The trainer refuses its arguments: (?s:.*)many"),
        ({"devices": 2}, r"A tile is trained on one device, but trainer\.devices is 2\. Give 1, or one index"),
        ({"callbacks": [stopping(monitor="pixel_AUROC", mode="best")]}, "The trainer refuses its arguments: "),
        ({"fast_dev_run": True, "barebones": True, "profiler": "simple"}, "The trainer refuses its arguments: "),
    ],
)
def test_what_a_trainer_refuses_is_known_beforehand(trainer: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_trainer(trainer)


def test_what_a_trainer_takes_passes_and_stays_as_it_is() -> None:
    callbacks = [stopping(monitor="image_AUROC", patience=3)]
    trainer = {"accelerator": "cpu", "max_epochs": 2, "callbacks": callbacks}
    before = deepcopy(trainer)
    check_trainer(trainer)
    assert trainer == before
    assert [type(each).__name__ for each in trainer_arguments(trainer)["callbacks"]] == ["EarlyStopping"]


def test_the_screen_belongs_to_the_command() -> None:
    arguments = trainer_arguments({"enable_progress_bar": True, "enable_model_summary": True})
    assert (arguments["enable_progress_bar"], arguments["enable_model_summary"]) == (False, False)
    assert arguments["logger"] is False
    assert arguments["callbacks"] == []
    assert "default_root_dir" not in arguments
