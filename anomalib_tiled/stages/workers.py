"""Workers: the contract of the stage that decides where tiles are trained, and how many at a time.

Workers supply places, such as processes or jobs of a cluster. A scheduler gives each place one task after the other:

    supply ──▶ place ──▶ proof ──▶ ready ──▶ task ──▶ ready ──▶ task ──▶ ... ──▶ end
                           │                   │
                           ▼                   ▼
                  excluded, with reason     the place has ended: another one is supplied, its task is tried elsewhere
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

Result = TypeVar("Result")

MEMORY_SETTINGS = "data.init_args.train_batch_size or tiling.tile_size"
"""Settings that decide how much memory a training needs."""


class PlaceError(RuntimeError):
    """A place has ended. The message says why; its task is tried elsewhere."""


class KilledError(PlaceError):
    """The place was killed, as the system does when memory is short."""


class PreemptedError(PlaceError):
    """The cluster has taken the place back, or its time is over: no fault of its task."""


class Place(ABC):
    """Where one task at a time is done: a process, an actor or a job of a cluster, a thread.

    A place that has just been supplied may still be starting, or wait in the queue of a cluster.
    """

    name: str
    """Name in messages, such as ``process 2`` or ``actor 3 on 10.0.0.7``."""

    threads: int | None = None
    """Processor threads that a task may use; ``None`` for as many as PyTorch takes by itself."""

    device: int | None = None
    """Index of the GPU that tasks work on; ``None`` for the device of the configuration."""

    advice: str = ""
    """What helps if memory runs out here, such as ``Lower workers.init_args.processes``; "" if nothing does."""

    is_over: bool = False
    """Whether it takes no further task, such as a job whose time is nearly over; then another one is supplied."""

    @abstractmethod
    def submit(self, task: Callable[[], Result]) -> Future[Result]:
        """Begin a task, as soon as the place has started; the scheduler submits the next one when it is done.

        Args:
            task: Does all the work. It can be pickled, in a few kilobytes, for any process of any machine that sees the
                run folder. It returns a small value, and raises no exception of its own.

        Returns:
            The value that the task returns. An exception means that the place has ended before that: `KilledError`,
            `PreemptedError`, `PlaceError`, or any other one.
        """

    @abstractmethod
    def end(self) -> None:
        """End the place within seconds, even while it works on a task; what is finished is on the disk."""


@dataclass(frozen=True)
class Conditions:
    """Settings of a run that workers may use.

    Args:
        accelerator: ``trainer.accelerator`` of the configuration.
        devices: ``trainer.devices`` of the configuration.
        threads: Number of processor threads that the tiles that are done were trained with; ``None`` if none is done.
            With another number of threads, weights differ in their last digits.
        folder: Folder for files that workers exchange, visible from every place; it need not exist yet. ``None`` while
            there is no run folder.
    """

    accelerator: object = "auto"
    devices: object = "auto"
    threads: int | None = None
    folder: Path | None = None

    @property
    def any_gpu(self) -> bool:
        """Whether a tile may be trained on any CUDA device that there is."""
        return self.accelerator in ("auto", "gpu", "cuda") and self.devices == "auto"


class Workers(ABC):
    """Supplies the places where tiles are trained and images are predicted; one object for each command."""

    elsewhere: ClassVar[bool] = False
    """Whether places are on other machines, which may have GPUs that this one lacks, and files that it does not see."""

    def adapt(self, conditions: Conditions) -> None:  # noqa: B027  # most do not depend on the run
        """Adapt to settings of the run; called before all other methods. Does nothing, unless overridden."""

    def start(self) -> None:  # noqa: B027  # most need no preparation
        """Start preparing: tiles are trained once the images are read. Does nothing, unless overridden."""

    @abstractmethod
    def supply(self, wanted: int) -> Sequence[Place]:
        """Give new places; called at the beginning, after places have ended, and every few seconds while tasks wait.

        Args:
            wanted: Most places that can be used in addition to those that there are.

        Returns:
            The new places, at most as many. None, if there cannot be more for now. If there is no place at all any
            more, none ends the command.
        """

    def exclude(self, place: Place, reason: str) -> None:  # noqa: B027  # most have only one machine
        """Supply no more places where this one is, such as on the same node. Does nothing, unless overridden.

        Args:
            place: A place that cannot do the work; it is ended.
            reason: Why, as a sentence.
        """

    def close(self) -> None:  # noqa: B027  # most hold nothing beside their places
        """End everything that was started, within seconds; all places are ended before. Also called after errors."""
