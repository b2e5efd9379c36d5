"""Processes that train tiles side by side."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import TYPE_CHECKING

from anomalib_tiled.copied_process import start_process, working_context
from anomalib_tiled.errors import StorageError
from anomalib_tiled.workers import Outcome, attempt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess

    from anomalib_tiled.grid import Tile
    from anomalib_tiled.workers import TrainTile


class WorkerError(RuntimeError):
    """A process ended in the middle of a tile."""


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
        return attempt(tile, work, processes=self.processes)


@dataclass
class Worker:
    """A process, and the tile that it is working on.

    Args:
        place: Where it works.
        process: The process.
        connection: Takes tiles to it, and errors back.
        tile: What it is working on; ``None`` if it is idle.
    """

    place: Place
    process: BaseProcess
    connection: Connection
    tile: Tile | None = None

    def give(self, tile: Tile) -> None:
        """Have it train a tile; one that has died meanwhile is found out when its answer is read."""
        self.tile = tile
        with suppress(BrokenPipeError):
            self.connection.send(tile)

    def dismiss(self) -> None:
        """End it at once; what it has finished is on the disk."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def train_side_by_side(tiles: Sequence[Tile], train_tile: TrainTile, places: Sequence[Place]) -> Iterator[Outcome]:
    """Train tiles in as many processes as there are places, each tile by the first that is free.

    A process that dies costs its tile, which is tried once more by a fresh one, and then reported.

    Args:
        tiles: What is to be trained.
        train_tile: Trains a tile; is pickled.
        places: Where the processes work.

    Raises:
        StorageError: The disk is full.
    """
    context, work = working_context(), pickle.dumps(train_tile)
    crew = [_hire(context, place, work) for place in places[: len(tiles)]]
    waiting, lost = deque(tiles), set[str]()
    try:
        while waiting or any(worker.tile for worker in crew):
            for worker in crew:
                if worker.tile is None and waiting:
                    worker.give(waiting.popleft())
            for number, (worker, tile) in _heard_of(crew):
                try:
                    yield _outcome(worker, tile)
                except EOFError:
                    died = Outcome(tile, WorkerError(_obituary(worker)))
                    worker.dismiss()
                    crew[number] = _hire(context, worker.place, work)
                    if tile.name in lost:
                        yield died
                    else:
                        lost.add(tile.name)
                        waiting.append(tile)
    finally:
        for worker in crew:
            worker.dismiss()


def _hire(context: BaseContext, place: Place, work: bytes) -> Worker:
    ours, theirs = context.Pipe()
    process = start_process(context, _work, theirs, place, work)
    theirs.close()  # so that its death is an end of file here
    return Worker(place, process, ours)


def _heard_of(crew: Sequence[Worker]) -> list[tuple[int, tuple[Worker, Tile]]]:
    """Wait until a busy worker has finished or died, and give all that have."""
    busy = {worker.connection: (number, (worker, worker.tile)) for number, worker in enumerate(crew) if worker.tile}
    return [busy[connection] for connection in wait(list(busy))]  # type: ignore[index]


def _outcome(worker: Worker, tile: Tile) -> Outcome:
    """Read how a tile ended.

    Raises:
        EOFError: The worker died.
        StorageError: The disk is full.
    """
    try:
        error = worker.connection.recv()
    except ConnectionResetError as reset:
        raise EOFError from reset
    worker.tile = None
    if isinstance(error, StorageError):
        raise error
    return Outcome(tile, error)


def _obituary(worker: Worker) -> str:
    worker.process.join(timeout=5)
    code = worker.process.exitcode
    if code == -signal.SIGKILL:
        return (
            "the process was killed twice, as the system does when memory is short. "
            "Lower workers.init_args.processes, or the data module's train_batch_size."
        )
    return f"the process ended twice with exit code {code}"


def _work(connection: Connection, place: Place, work: bytes) -> None:
    """Train what comes until nothing comes any more. Runs in the worker's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which dismisses its workers
    Thread(target=_end_with_parent, daemon=True).start()
    _use_threads(place.threads)
    train_tile = _unpacked(work)
    with suppress(EOFError):
        while True:
            tile = connection.recv()
            connection.send(_sendable(_error(place, tile, train_tile)))


def _unpacked(work: bytes) -> TrainTile:
    """Give what trains a tile; where it cannot be made, that is said of each tile."""
    try:
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


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


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
        return WorkerError(f"{type(error).__name__}: {error}")
    return error
