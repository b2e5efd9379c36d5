"""A process that trains tiles: what it does, and what the command knows of it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import signal
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

import torch

from anomalib_tiled.errors import OutOfMemoryError, StorageError
from anomalib_tiled.stages.workers import Outcome, attempt
from anomalib_tiled.system.fork_server import start_process
from anomalib_tiled.system.import_warnings import without_known_warnings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess

    from anomalib_tiled.grid import Tile
    from anomalib_tiled.system.import_warnings import without_known_warnings
from anomalib_tiled.stages.workers import TrainTile

FAILED_GPU = re.compile(r"(CUDA|HIP|cuDNN|MIOpen) error", re.IGNORECASE)
"""How messages begin where PyTorch has no class for it."""


class WorkerError(RuntimeError):
    """A process ended in the middle of a tile."""


class KilledError(WorkerError):
    """It was killed, as the system does when memory is short."""


class UnsentError(WorkerError):
    """Stands for an error that cannot be sent from one process to another."""


@dataclass(frozen=True)
class Place:
    """Where a process works.

    Args:
        threads: Processor threads that it may use.
        device: Index of the GPU that it works on; ``None`` to leave the choice to the configuration.
        processes: How many there are on this machine.
    """

    threads: int
    device: int | None = None
    processes: int = 1

    def attempt(self, tile: Tile, train_tile: TrainTile) -> Outcome:
        """Train a tile here.

        Raises:
            StorageError: The disk is full.
        """
        work = train_tile if self.device is None else partial(train_tile, device=self.device)
        with _threads(self.threads):
            return attempt(tile, work, processes=self.processes)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Have PyTorch use so many threads; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Answer(NamedTuple):
    """How a tile ended.

    Args:
        error: Why it failed; ``None`` if it did not.
        lost: Whether the GPU does nothing for the process any more, whichever tile it is given.
    """

    error: Exception | None
    lost: bool


@dataclass(eq=False)
class Worker:
    """A process, and the tile that it is working on.

    Args:
        place: Where it works.
        process: The process.
        connection: Takes tiles to it, and answers back.
        tile: What it is working on; ``None`` if it is idle.
    """

    place: Place
    process: BaseProcess
    connection: Connection
    tile: Tile | None = None

    @classmethod
    def hire(cls, place: Place, work: bytes, context: BaseContext) -> Worker:
        """Start a process.

        Args:
            place: Where it works.
            work: What trains a tile, pickled.
            context: How processes start.
        """
        ours, theirs = context.Pipe()
        process = start_process(context, _work, theirs, place, work)
        theirs.close()  # so that its death is an end of file here
        return cls(place, process, ours)

    def give(self, tile: Tile) -> None:
        """Have it train a tile; one that has died meanwhile is found out when its answer is read."""
        self.tile = tile
        with suppress(BrokenPipeError):
            self.connection.send(tile)

    def answer(self) -> Answer:
        """Read how its tile ended.

        Raises:
            EOFError: It died.
        """
        try:
            answer: Answer = self.connection.recv()
        except ConnectionResetError as reset:
            raise EOFError from reset
        return answer

    def obituary(self, *, again: bool) -> WorkerError:
        """Say how it died.

        Args:
            again: Whether its tile has cost a process before.
        """
        self.process.join(timeout=5)
        code, more = self.process.exitcode, " more than once" if again else ""
        if code == -signal.SIGKILL:
            return KilledError(
                f"the process was killed{more}, as the system does when memory is short. "
                "Lower workers.init_args.processes, or the data module's train_batch_size."
            )
        return WorkerError(f"the process ended{more} with exit code {code}")

    def dismiss(self) -> None:
        """End it at once; what it has finished is on the disk."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def _work(connection: Connection, place: Place, work: bytes) -> None:
    """Train what comes until nothing comes any more. Runs in the worker's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which dismisses its workers
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(place.threads)
    train_tile = _unpacked(work)
    with suppress(EOFError):
        while True:
            error = _error(place, connection.recv(), train_tile)
            connection.send(Answer(_sendable(error), has_failed_for_good(error)))


def _unpacked(work: bytes) -> TrainTile:
    """Give what trains a tile; where it cannot be made, that is said of each tile."""
    try:
        with without_known_warnings():  # it imports everything, unless this process is a copy of one that has
            train_tile: TrainTile = pickle.loads(work)  # noqa: S301  # made by the process that started this one
    except Exception as error:  # noqa: BLE001  # reported with the tile's name
        failure = error

        def train_tile(tile: Tile, *, device: int | None = None) -> None:
            del tile, device
            raise failure

    return train_tile


def _error(place: Place, tile: Tile, train_tile: TrainTile) -> Exception | None:
    try:
        return place.attempt(tile, train_tile).error
    except StorageError as error:  # ends the whole command, and is raised there
        return error


def has_failed_for_good(error: BaseException | None) -> bool:
    """Whether an error is one of those after which a GPU does nothing for the process any more.

    Among them are accesses to memory that is not there, and assertions that do not hold on the device.
    """
    if error is None or isinstance(error, OutOfMemoryError):
        return False
    if isinstance(error, torch.AcceleratorError) or FAILED_GPU.match(str(error)):
        return True
    return has_failed_for_good(error.__cause__)


def _end_with_parent() -> None:
    """End when the command does, however it ends: two must not work on one tile."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _sendable(error: Exception | None) -> Exception | None:
    """Give an error that can be sent; one of a class that cannot keeps its words."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # was pickled on the same line
    except Exception:  # noqa: BLE001  # classes of others fail in any way when they are copied
        return UnsentError(f"{type(error).__name__}: {error}")
    return error
