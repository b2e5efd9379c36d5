"""Workers on this machine."""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING, Literal

import torch

from anomalib_tiled.copied_process import start_copied_process
from anomalib_tiled.cores import cores
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.free_memory import available_memory
from anomalib_tiled.training.crew import Place, train_side_by_side
from anomalib_tiled.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anomalib_tiled.grid import Tile
    from anomalib_tiled.workers import Outcome, TrainTile


MEMORY_OF_A_PROCESS = 4 * 10**9
"""Bytes of free memory for which one more process is started; it needs less, but how much depends on the model."""


class LocalWorkers(Workers):
    """Trains tiles on this machine, one or several at a time.

    Args:
        processes: Number of tiles that are trained at the same time, each in a process of its own with a share of the
            cores; ``auto`` for one for each of the devices, or, without a GPU, for each of the cores as far as the
            memory goes.
        devices: Indices of the GPUs that the processes are shared out to in turn; null for what ``trainer`` says.
    """

    def __init__(self, processes: int | Literal["auto"] = "auto", devices: Sequence[int] | None = None) -> None:
        if processes != "auto" and processes < 1:
            message = f"workers.init_args.processes must be at least 1 or auto, but is {processes!r}."
            raise ConfigurationError(message)
        if devices is not None and (not devices or min(devices) < 0):
            message = f"workers.init_args.devices must be indices of GPUs, such as [0, 1], or null, but is {devices!r}."
            raise ConfigurationError(message)
        self.processes = processes
        self.devices = devices

    def start(self) -> None:
        """Have processes import what they need, while images are read here.

        Raises:
            ConfigurationError: This machine lacks one of the devices.
        """
        if lacking := [device for device in self.devices or () if device >= torch.accelerator.device_count()]:
            there = torch.accelerator.device_count()
            message = (
                f"workers.init_args.devices names {', '.join(map(str, lacking))}, but this machine has {there} GPUs. "
                "Change it; in a run that goes on, in its config.yaml."
            )
            raise ConfigurationError(message)
        if len(self._places()) > 1:
            start_copied_process()

    def train(self, tiles: Sequence[Tile], train_tile: TrainTile) -> Iterator[Outcome]:
        """Train the tiles, each as soon as a process is free."""
        places = self._places()
        if len(places) > 1:
            yield from train_side_by_side(tiles, train_tile, places)
        else:
            for tile in tiles:
                yield places[0].attempt(tile, train_tile)

    def _places(self) -> list[Place]:
        """Say where each process works."""
        there = torch.accelerator.device_count()
        known = [device for device in self.devices or () if device < there]  # where a run is only tested, some may lack
        devices: list[int | None] = [*known] if known else [None]
        number = self._number(devices) if self.processes == "auto" else self.processes
        threads = max(1, cores() // number)
        return [Place(threads, device, number) for device in islice(cycle(devices), number)]

    @staticmethod
    def _number(devices: Sequence[int | None]) -> int:
        """Say how many processes are the fastest: one thread for each of two tiles beats two threads for one."""
        if devices != [None] or torch.accelerator.is_available():
            return len(devices)
        return max(1, min(cores(), available_memory() // MEMORY_OF_A_PROCESS))
