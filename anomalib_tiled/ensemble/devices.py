"""The device that models predict on, and the precision and device of new tensors meanwhile."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from threading import Lock

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from anomalib_tiled.config.settings import Plain
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.system.hardware import processor_name
from anomalib_tiled.system.out_of_memory import out_of_memory

USUAL = torch.float32
"""Precision in which models are made and predict."""


def device_of(trainer: Mapping[str, Plain]) -> torch.device:
    """Give the device that Lightning picks for the arguments of a trainer.

    Raises:
        ConfigurationError: This machine has no such device.
    """
    devices, accelerator = trainer.get("devices", "auto"), trainer.get("accelerator", "auto")
    try:
        with _unheard():
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


@contextmanager
def _unheard() -> Iterator[None]:
    """Keep hints of Lightning from a screen that has no use for them."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def described(device: torch.device) -> str:
    """Name a device so that a reader knows how fast it is, such as ``cuda:0 NVIDIA H100``; a CPU by its own name."""
    if device.type == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)}"
    return processor_name() if device.type == "cpu" else str(device)


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
        if device.type == "meta" or (device.type == "cpu" and device.index):
            message = "PyTorch cannot compute there"
            raise RuntimeError(message)  # noqa: TRY301  # as PyTorch does for the others
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


class _DefaultPrecision:
    """Sets PyTorch's default precision, which all threads share: the first thread sets it, the last one resets it."""

    def __init__(self) -> None:
        self._lock, self._inside, self._before = Lock(), 0, USUAL

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = torch.get_default_dtype()
                torch.set_default_dtype(USUAL)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                torch.set_default_dtype(self._before)


_PRECISION = _DefaultPrecision()


@contextmanager
def usual_defaults() -> Iterator[None]:
    """Make new tensors on the CPU and in single precision, as models expect; also a decorator."""
    elsewhere = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
    with _PRECISION, elsewhere:
        yield
