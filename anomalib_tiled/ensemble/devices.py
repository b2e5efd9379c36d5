"""The device that models predict on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.system.out_of_memory import out_of_memory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomalib_tiled.config.settings import Plain


def device_of(trainer: Mapping[str, Plain]) -> torch.device:
    """Give the device that Lightning picks for the arguments of a trainer.

    Args:
        trainer: Its arguments.

    Raises:
        ConfigurationError: This machine has no such device.
    """
    devices, accelerator = trainer.get("devices", "auto"), trainer.get("accelerator", "auto")
    try:
        made = Trainer(
            accelerator=accelerator,
            devices=1 if devices == "auto" else devices,
            logger=False,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
    except (MisconfigurationException, RuntimeError, TypeError, ValueError, ImportError) as error:
        message = (
            f"The run needs trainer.accelerator {accelerator}, devices {devices}, which this machine does not have: "
            f"{error}. `predict` and TiledEnsemble.load accept another device, such as cpu."
        )
        raise ConfigurationError(message) from error
    return made.strategy.root_device


def cpu_advice(accelerator: Plain) -> str:
    """Say how to train without a missing accelerator; "" if the accelerator is never missing."""
    return "" if accelerator in ("auto", "cpu") else " To train on the CPU, set --trainer.accelerator cpu."


def device_named(name: str) -> torch.device:
    """Give the device of a name such as ``cpu`` or ``cuda:1``.

    Raises:
        ConfigurationError: There is no such device.
        OutOfMemoryError: Other programs use all memory of the device.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        _check_kind(device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        if known := out_of_memory(
            error, "Other programs use it: wait for them, or predict on another device, such as cpu."
        ):
            raise known from None
        message = (
            f"The device must be auto, cpu, or an accelerator of this machine, such as cuda:0, but is {name!r}: {error}"
        )
        raise ConfigurationError(message) from error
    return device


def _check_kind(device: torch.device) -> None:
    """Refuse device names that PyTorch accepts, but that name no device.

    Raises:
        RuntimeError: The device computes nothing, or is a second CPU.
    """
    if device.type == "meta":
        message = "it computes nothing"
        raise RuntimeError(message)
    if device.type == "cpu" and device.index:
        message = "there is one cpu, which has no number"
        raise RuntimeError(message)
