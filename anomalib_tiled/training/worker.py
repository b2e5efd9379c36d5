"""A process that trains tiles, and its counterpart in the command."""

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
    from anomalib_tiled.stages.workers import TrainTile

FAILED_GPU = re.compile(r"(CUDA|HIP|cuDNN|MIOpen) error", re.IGNORECASE)
"""Beginning of messages about GPU errors for which PyTorch has no class."""


class WorkerError(RuntimeError):
    """A process ended while it was training a tile."""


class KilledError(WorkerError):
    """The process was killed, as the system does when memory is short."""


class UnsentError(WorkerError):
    """Replaces an error that cannot be sent from one process to another."""


@dataclass(frozen=True)
class Place:
    """Threads and device of a process.

    Args:
        threads: Processor threads that the process may use.
        device: Index of the GPU that the process works on; ``None`` for the device of the configuration.
        processes: Number of processes on this machine.
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
    """Set the number of threads of PyTorch, and set it back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Answer(NamedTuple):
    """The report of a worker about a tile.

    Args:
        error: Why the training failed; ``None`` if it succeeded.
        lost: Whether the GPU has failed for the process, so that every further tile would fail too.
    """

    error: Exception | None
    lost: bool


@dataclass(eq=False)
class Worker:
    """A process, and the tile that it is training.

    Args:
        place: Threads and device of the process.
        process: The process.
        connection: Sends tiles to the process, and receives answers.
        tile: The tile in training; ``None`` if the process is idle.
    """

    place: Place
    process: BaseProcess
    connection: Connection
    tile: Tile | None = None

    @classmethod
    def start(cls, place: Place, work: bytes, context: BaseContext) -> Worker:
        """Start a process.

        Args:
            place: Threads and device of the process.
            work: Function that trains a tile, pickled.
            context: Context of ``multiprocessing`` that starts the process.
        """
        ours, theirs = context.Pipe()
        process = start_process(context, _work, theirs, place, work)
        theirs.close()  # so that the end of the process is an end of file here
        return cls(place, process, ours)

    def give(self, tile: Tile) -> None:
        """Send a tile to the process; if it has ended meanwhile, ``answer`` will raise EOFError."""
        self.tile = tile
        with suppress(BrokenPipeError):
            self.connection.send(tile)

    def answer(self) -> Answer:
        """Read the report about its tile.

        Raises:
            EOFError: The process has ended.
        """
        try:
            answer: Answer = self.connection.recv()
        except ConnectionResetError as reset:
            raise EOFError from reset
        return answer

    def exit_report(self, *, again: bool) -> WorkerError:
        """Say how the process ended.

        Args:
            again: Whether an earlier process also ended while it was training this tile.
        """
        self.process.join(timeout=5)
        code, more = self.process.exitcode, " more than once" if again else ""
        if code == -signal.SIGKILL:
            return KilledError(
                f"the process was killed{more}, as the system does when memory is short. "
                "Lower workers.init_args.processes, or the data module's train_batch_size."
            )
        return WorkerError(f"the process ended{more} with exit code {code}")

    def stop(self) -> None:
        """Kill the process; finished tiles are on the disk."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def _work(connection: Connection, place: Place, work: bytes) -> None:
    """Train tiles from the connection until it is closed. Runs in the worker's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which stops its workers
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(place.threads)
    train_tile = _unpacked(work)
    with suppress(EOFError):
        while True:
            error = _error(place, connection.recv(), train_tile)
            connection.send(Answer(_sendable(error), gpu_has_failed(error)))


def _unpacked(work: bytes) -> TrainTile:
    """Unpickle the function that trains a tile; if that fails, return one that raises the error for each tile."""
    try:
        with without_known_warnings():  # imports everything, unless this process is a fork of one that has
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
    except StorageError as error:  # the command raises it and ends
        return error


def gpu_has_failed(error: BaseException | None) -> bool:
    """Whether a GPU refuses all further work of the process after this error.

    Such errors are, for example, invalid memory accesses, and assertions that fail on the device.
    """
    if error is None or isinstance(error, OutOfMemoryError):
        return False
    if isinstance(error, torch.AcceleratorError) or FAILED_GPU.match(str(error)):
        return True
    return gpu_has_failed(error.__cause__)


def _end_with_parent() -> None:
    """End when the command ends, even if it is killed: two processes must not work on one tile."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _sendable(error: Exception | None) -> Exception | None:
    """Return an error that can be pickled; of an error that cannot, only its message is kept."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # was pickled on the same line
    except Exception:  # noqa: BLE001  # pickling errors of other packages may raise anything
        return UnsentError(f"{type(error).__name__}: {error}")
    return error
