"""Processes that train tiles side by side."""

from __future__ import annotations

import logging
import pickle
import time
from collections import Counter, deque
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

from anomalib_tiled.errors import OutOfMemoryError, StorageError
from anomalib_tiled.stages.workers import Outcome
from anomalib_tiled.system.fork_server import working_context
from anomalib_tiled.training.worker import KilledError, Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from anomalib_tiled.grid import Tile
    from anomalib_tiled.stages.workers import TrainTile
    from anomalib_tiled.training.worker import Place

logger = logging.getLogger(__name__)

MOST_CRASHES = 3
"""Processes that may end in a row on a device before no more are started there, if there are other devices."""

RESTART_DELAY = 0.1
"""Seconds until the end of the process that workers are forked from has been noticed."""


def train_side_by_side(tiles: Sequence[Tile], train_tile: TrainTile, places: Sequence[Place]) -> Iterator[Outcome]:
    """Train tiles in one process for each place; each tile goes to the first idle process.

    A tile whose process ends, or whose GPU fails, is retried once by another process, on another device if there is
    one, and then reported. If several processes in a row end on a device, no more are started there while there are
    other devices.

    Args:
        tiles: Tiles to train.
        train_tile: Trains a tile; is pickled.
        places: Threads and device of each process.

    Raises:
        StorageError: The disk is full.
    """
    pool = WorkerPool(tiles, pickle.dumps(train_tile))
    try:
        pool.start(places[: len(tiles)])
        yield from pool.outcomes()
    finally:
        pool.stop()


class WorkerPool:
    """Processes, the tiles that wait for them, and the devices where processes have ended.

    Args:
        tiles: Tiles to train.
        work: Function that trains a tile, pickled.
    """

    def __init__(self, tiles: Sequence[Tile], work: bytes) -> None:
        self._context, self._work = working_context(), work
        self._workers: list[Worker] = []
        self._waiting = deque(tiles)
        self._crashed_on: dict[str, int | None] = {}
        self._out_of_memory = set[str]()
        self._crashes = Counter[int | None]()
        self._busy = 0

    def start(self, places: Iterable[Place]) -> None:
        """Start a process at each place."""
        for place in places:
            self._workers.append(self._start(place))

    def _start(self, place: Place) -> Worker:
        """Start a process; once more if the process that it is forked from was just killed, as that is replaced."""
        try:
            return Worker.start(place, self._work, self._context)
        except (EOFError, ConnectionError) as error:
            logger.warning("A process could not be started. It is started once more: %r", error)
            time.sleep(RESTART_DELAY)
            return Worker.start(place, self._work, self._context)

    def stop(self) -> None:
        """Kill all processes."""
        for worker in self._workers:
            worker.stop()

    def outcomes(self) -> Iterator[Outcome]:
        """Train all tiles, and yield each outcome as it comes in.

        Raises:
            StorageError: The disk is full.
        """
        while self._waiting or any(worker.tile for worker in self._workers):
            for worker in self._workers:
                if worker.tile is None and (tile := self._next_at(worker.place.device)) is not None:
                    self._waiting.remove(tile)
                    worker.give(tile)
            for worker, tile in self._finished():
                if (outcome := self._outcome(worker, tile)) is not None:
                    yield outcome

    def _next_at(self, device: int | None) -> Tile | None:
        """Give the next tile for a device; a tile whose process ended there waits for another device, if there is one.

        A tile that ran out of memory beside others comes last, and alone.
        """
        at_work = [worker.tile.name for worker in self._workers if worker.tile is not None]
        if self._out_of_memory.intersection(at_work):
            return None
        others, alone = self._elsewhere(device), not at_work
        possible = [tile for tile in self._waiting if not others or self._crashed_on.get(tile.name) != device]
        eligible = (tile for tile in possible if tile.name not in self._out_of_memory)
        return next(eligible, possible[0] if possible and alone else None)

    def _elsewhere(self, device: int | None) -> bool:
        """Whether there are processes on other devices."""
        return any(worker.place.device != device for worker in self._workers)

    def _finished(self) -> list[tuple[Worker, Tile]]:
        """Wait until a busy worker has finished or ended, and list all that have."""
        busy = {worker.connection: (worker, worker.tile) for worker in self._workers if worker.tile is not None}
        self._busy = len(busy)
        return [busy[connection] for connection in wait(list(busy))]  # type: ignore[index]

    def _outcome(self, worker: Worker, tile: Tile) -> Outcome | None:
        """Give the outcome of a tile; ``None`` if the tile is retried.

        Raises:
            StorageError: The disk is full.
        """
        try:
            answer = worker.answer()
        except EOFError:
            return self._lost(worker, tile, worker.exit_report(again=self._was_lost_before(tile)))
        if isinstance(answer.error, StorageError):
            raise answer.error
        if answer.error is not None and (answer.lost or self._are_too_many(answer.error)):
            return self._lost(worker, tile, answer.error)
        worker.tile = None
        self._crashes[worker.place.device] = 0
        return Outcome(tile, answer.error)

    def _was_lost_before(self, tile: Tile) -> bool:
        """Whether the training of a tile was lost before."""
        return tile.name in self._crashed_on or tile.name in self._out_of_memory

    def _are_too_many(self, error: Exception) -> bool:
        """Whether the machine ran out of memory because several tiles were trained at the same time."""
        short = isinstance(error, KilledError) or (isinstance(error, OutOfMemoryError) and error.of_machine)
        return short and self._busy > 1 and len(self._workers) > 1

    def _lost(self, worker: Worker, tile: Tile, error: Exception) -> Outcome | None:
        """Replace a worker, and retry its tile, or report the tile if this was its second loss."""
        device, are_too_many = worker.place.device, self._are_too_many(error)
        worker.stop()
        self._workers.remove(worker)
        if are_too_many:
            text = "Tile %s is retried. From now on tiles are trained by one process less, %d: %s"
            logger.warning(text, tile.name, len(self._workers), error)
            self._out_of_memory.add(tile.name)
            self._waiting.append(tile)
            return None
        self._crashes[device] += 1
        if self._crashes[device] < MOST_CRASHES or not self._elsewhere(device):
            self.start([worker.place])
        else:
            logger.warning(
                "On GPU %s, %d processes in a row have ended. No more are started there.", device, MOST_CRASHES
            )
        if self._was_lost_before(tile):
            return Outcome(tile, error)
        logger.warning("Tile %s is retried: %s", tile.name, error)
        self._crashed_on[tile.name] = device
        self._waiting.append(tile)
        return None
