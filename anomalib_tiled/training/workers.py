"""Workers on this machine."""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING, Literal

import torch

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.contracts import errors_naming_stage
from anomalib_tiled.stages.workers import Conditions, Workers
from anomalib_tiled.system.fork_server import room_for_workers, worker_context
from anomalib_tiled.system.limits import cores
from anomalib_tiled.training.worker_pool import Slot, train_side_by_side

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anomalib_tiled.config.settings import Settings
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.stages.workers import Outcome, TrainTile

MOST_PROCESSES = 1_000
"""More than any machine has cores for."""


class LocalWorkers(Workers):
    """Trains tiles on this machine, one or several at a time.

    Args:
        processes: Number of tiles that are trained at the same time, each in a process of its own with a share of the
            cores; ``auto`` for one per device, or, without a GPU, one per core as far as tiles and memory allow.
        devices: Indices of the GPUs that the processes use in turn; null for all GPUs, or the one that ``trainer``
            names.
    """

    def __init__(self, processes: int | Literal["auto"] = "auto", devices: Sequence[int] | None = None) -> None:
        if processes != "auto" and not 1 <= processes <= MOST_PROCESSES:
            message = (
                f"workers.init_args.processes must be at least 1 or auto, and at most {MOST_PROCESSES}, "
                f"but is {processes!r}."
            )
            raise ConfigurationError(message)
        if devices is not None and (not devices or min(devices) < 0):
            message = f"workers.init_args.devices must be indices of GPUs, such as [0, 1], or null, but is {devices!r}."
            raise ConfigurationError(message)
        self.processes = processes
        self.devices = devices
        self._conditions = Conditions()

    def adapt(self, conditions: Conditions) -> None:
        """Use the devices that the trainer may use, and as many threads per tile as for the tiles that are done."""
        self._conditions = conditions

    def start(self) -> None:
        """Start the process that imports all packages for the workers, while this process reads images.

        Raises:
            ConfigurationError: This machine lacks one of the devices.
        """
        if lacking := [device for device in self.devices or () if device >= torch.accelerator.device_count()]:
            there = torch.accelerator.device_count()
            message = (
                f"workers.init_args.devices names {', '.join(map(str, lacking))}, but this machine has {there} GPUs. "
                "Change it; to resume a run, change its config.yaml."
            )
            raise ConfigurationError(message)
        if len(self._slots()) > 1:
            worker_context()  # starts the fork server

    def train(self, tiles: Sequence[Tile], train_tile: TrainTile) -> Iterator[Outcome]:
        """Train the tiles, each as soon as a process is free."""
        slots = self._slots(len(tiles))
        if len(slots) > 1:
            yield from train_side_by_side(tiles, train_tile, slots)
        else:
            for tile in tiles:
                yield slots[0].attempt(tile, train_tile)

    def _slots(self, tiles: int | None = None) -> list[Slot]:
        """Give threads and device of each process for this number of tiles."""
        devices = self._devices()
        number = self._number(devices, tiles) if self.processes == "auto" else self.processes
        most = min(cores(), torch.get_num_threads())  # the latter respects OMP_NUM_THREADS
        threads = min(most, self._conditions.threads or max(1, cores() // number))
        return [Slot(threads, device, number) for device in islice(cycle(devices), number)]

    def _devices(self) -> list[int | None]:
        """Give the GPUs that processes use in turn; ``None`` for the one that the trainer picks."""
        there = torch.accelerator.device_count()
        if known := [device for device in self.devices or () if device < there]:  # a test may have fewer GPUs
            return [*known]
        if self.devices is None and self._conditions.any_gpu and (visible := torch.cuda.device_count()) > 1:
            return [*range(visible)]
        return [None]

    def _number(self, devices: Sequence[int | None], tiles: int | None) -> int:
        """Give the fastest number of processes: two tiles with one thread each beat one tile with two threads."""
        if devices != [None] or (self._conditions.accelerator != "cpu" and torch.accelerator.is_available()):
            number = len(devices)
        else:
            number = room_for_workers(self._conditions.threads or 1)
        return max(1, number if tiles is None else min(number, tiles))


def workers_of(settings: Settings, *, threads: int | None = None) -> Workers:
    """Make the workers of a run.

    Args:
        settings: The configuration.
        threads: Number of threads that the tiles that are done were trained with; ``None`` if none is done.

    Raises:
        StageError: The workers raised an error.
    """
    workers = settings.stages["workers"].build(Workers)
    accelerator, devices = (settings.trainer.get(name, "auto") for name in ("accelerator", "devices"))
    with errors_naming_stage(workers):
        workers.adapt(Conditions(accelerator, devices, threads))
    return workers
