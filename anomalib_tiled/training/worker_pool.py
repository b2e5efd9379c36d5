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

DEATHS = 3
"""Processes that die one after the other on a device before it gets no new ones, if there are other devices."""

A_MOMENT = 0.1
"""Seconds after which it is known that the process that workers are copied from has died."""


def train_side_by_side(tiles: Sequence[Tile], train_tile: TrainTile, places: Sequence[Place]) -> Iterator[Outcome]:
    """Train tiles in as many processes as there are places, each tile by the first that is free.

    A process that dies costs its tile, which is tried once more by another, on another device if there is one, and then
    reported. So does a process whose GPU has failed. A device where one after the other dies gets no new ones while
    there are others.

    Args:
        tiles: What is to be trained.
        train_tile: Trains a tile; is pickled.
        places: Where the processes work.

    Raises:
        StorageError: The disk is full.
    """
    crew = Crew(tiles, pickle.dumps(train_tile))
    try:
        crew.hire(places[: len(tiles)])
        yield from crew.outcomes()
    finally:
        crew.dismiss()


class Crew:
    """Processes, the tiles that wait for them, and where others have died.

    Args:
        tiles: What is to be trained.
        work: What trains a tile, pickled.
    """

    def __init__(self, tiles: Sequence[Tile], work: bytes) -> None:
        self._context, self._work = working_context(), work
        self._workers: list[Worker] = []
        self._waiting = deque(tiles)
        self._died_at: dict[str, int | None] = {}
        self._starved = set[str]()
        self._deaths = Counter[int | None]()
        self._busy = 0

    def hire(self, places: Iterable[Place]) -> None:
        """Start a process at each place."""
        for place in places:
            self._workers.append(self._hired(place))

    def _hired(self, place: Place) -> Worker:
        """Start a process; once more if the one that it is copied from is killed at that moment, for others follow."""
        try:
            return Worker.hire(place, self._work, self._context)
        except (EOFError, ConnectionError) as error:
            logger.warning("A process could not be started, and is started once more: %r", error)
            time.sleep(A_MOMENT)
            return Worker.hire(place, self._work, self._context)

    def dismiss(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.dismiss()

    def outcomes(self) -> Iterator[Outcome]:
        """Have all tiles trained.

        Raises:
            StorageError: The disk is full.
        """
        while self._waiting or any(worker.tile for worker in self._workers):
            for worker in self._workers:
                if worker.tile is None and (tile := self._next_at(worker.place.device)) is not None:
                    self._waiting.remove(tile)
                    worker.give(tile)
            for worker, tile in self._heard_of():
                if (outcome := self._outcome(worker, tile)) is not None:
                    yield outcome

    def _next_at(self, device: int | None) -> Tile | None:
        """Give the next tile for a device; one whose process died there waits for another device, if there is one.

        A tile that lacked memory beside others comes last, and alone.
        """
        at_work = [worker.tile.name for worker in self._workers if worker.tile is not None]
        if self._starved.intersection(at_work):
            return None
        others, alone = self._elsewhere(device), not at_work
        fits = [tile for tile in self._waiting if not others or self._died_at.get(tile.name) != device]
        fed = (tile for tile in fits if tile.name not in self._starved)
        return next(fed, fits[0] if fits and alone else None)

    def _elsewhere(self, device: int | None) -> bool:
        """Whether there are processes on other devices."""
        return any(worker.place.device != device for worker in self._workers)

    def _heard_of(self) -> list[tuple[Worker, Tile]]:
        """Wait until a busy worker has finished or died, and give all that have."""
        busy = {worker.connection: (worker, worker.tile) for worker in self._workers if worker.tile is not None}
        self._busy = len(busy)
        return [busy[connection] for connection in wait(list(busy))]  # type: ignore[index]

    def _outcome(self, worker: Worker, tile: Tile) -> Outcome | None:
        """Say how a tile ended; ``None`` if it is to be tried once more.

        Raises:
            StorageError: The disk is full.
        """
        try:
            answer = worker.answer()
        except EOFError:
            return self._lost(worker, tile, worker.obituary(again=self._is_second(tile)))
        if isinstance(answer.error, StorageError):
            raise answer.error
        if answer.error is not None and (answer.lost or self._are_too_many(answer.error)):
            return self._lost(worker, tile, answer.error)
        worker.tile = None
        self._deaths[worker.place.device] = 0
        return Outcome(tile, answer.error)

    def _is_second(self, tile: Tile) -> bool:
        """Whether a tile has been lost before."""
        return tile.name in self._died_at or tile.name in self._starved

    def _are_too_many(self, error: Exception) -> bool:
        """Whether the machine had too little memory for a tile because others were trained beside it."""
        short = isinstance(error, KilledError) or (isinstance(error, OutOfMemoryError) and error.of_machine)
        return short and self._busy > 1 and len(self._workers) > 1

    def _lost(self, worker: Worker, tile: Tile, error: Exception) -> Outcome | None:
        """Replace a worker, and put its tile back, or report it if that was its second."""
        device, are_too_many = worker.place.device, self._are_too_many(error)
        worker.dismiss()
        self._workers.remove(worker)
        if are_too_many:
            text = "Tile %s is tried again, and tiles are trained by one process less, %d, from now on: %s"
            logger.warning(text, tile.name, len(self._workers), error)
            self._starved.add(tile.name)
            self._waiting.append(tile)
            return None
        self._deaths[device] += 1
        if self._deaths[device] < DEATHS or not self._elsewhere(device):
            self.hire([worker.place])
        else:
            logger.warning("On GPU %s, %d processes have died in a row. No more are started there.", device, DEATHS)
        if self._is_second(tile):
            return Outcome(tile, error)
        logger.warning("Tile %s is tried again: %s", tile.name, error)
        self._died_at[tile.name] = device
        self._waiting.append(tile)
        return None
