"""Processes that train tiles side by side."""

from __future__ import annotations

import gc
import logging
import pickle
import re
import signal
from collections import deque
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch

from anomalib_tiled.errors import OutOfMemoryError, StorageError
from anomalib_tiled.stages.workers import MEMORY_SETTINGS, Outcome
from anomalib_tiled.system.fork_server import prepare_worker, starting_process, worker_context
from anomalib_tiled.system.import_warnings import without_known_warnings
from anomalib_tiled.system.out_of_memory import out_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future
    from multiprocessing.process import BaseProcess

    from anomalib_tiled.grid import Tile
    from anomalib_tiled.stages.workers import TrainTile

logger = logging.getLogger(__name__)

FAILED_GPU = re.compile(r"(CUDA|HIP|cuDNN|MIOpen) error", re.IGNORECASE)
"""Beginning of messages about GPU errors for which PyTorch has no class."""

KILLED = (
    "the process was killed, as the system does when memory is short. "
    "Lower workers.init_args.processes, or the data module's train_batch_size."
)


NEVER_STARTED = (
    'In a script, start the fit under `if __name__ == "__main__":`, because each process imports the script.'
)
"""Advice if a process ended with an error of Python before it could report one."""


class WorkerError(RuntimeError):
    """A process ended while it was training a tile."""


class KilledError(WorkerError):
    """The process was killed, as the system does when memory is short."""


class UnsentError(RuntimeError):
    """Replaces an error that cannot be sent from one process to another."""


def train_side_by_side(tiles: Sequence[Tile], train_tile: TrainTile, slots: Sequence[Slot]) -> Iterator[Outcome]:
    """Train tiles in one process for each slot; each tile goes to the first idle process.

    A tile whose process ends, whose GPU fails, or that runs out of memory beside others is retried once, alone, when
    all others are done.

    Args:
        tiles: Tiles to train.
        train_tile: Trains a tile; is pickled.
        slots: Threads and device of each process.

    Raises:
        StorageError: The disk is full.
    """
    pool = WorkerPool(pickle.dumps(train_tile), slots[: len(tiles)])
    try:
        yield from pool.train(tiles)
        yield from pool.retry()
    finally:
        pool.stop()


@dataclass(frozen=True)
class Slot:
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
        """Train a tile in this process.

        Raises:
            StorageError: The disk is full.
        """
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            train_tile(tile) if self.device is None else train_tile(tile, device=self.device)
        except StorageError:
            raise
        except Exception as error:  # noqa: BLE001  # reported with the tile's name once all tiles were tried
            fewer = "Lower workers.init_args.processes in the config.yaml of the run and resume it, or fit"
            advice = f"{fewer if self.processes > 1 else 'Fit'} a new run with a smaller {MEMORY_SETTINGS}."
            outcome = Outcome(tile, out_of_memory(error, advice) or _without_traceback(error))
        else:
            return Outcome(tile, None)
        finally:
            torch.set_num_threads(before)
        gc.collect()  # failed models refer to themselves, and would keep memory from the next tile
        return outcome


def _without_traceback(error: Exception) -> Exception:
    """Remove tracebacks, which keep the failed model in memory; the log of the tile has them."""
    parts: list[BaseException] = [error]
    for part in parts:
        part.__traceback__ = None
        parts += [each for each in (part.__cause__, part.__context__) if each is not None and each not in parts]
    return error


class Answer(NamedTuple):
    """The report of a worker about a tile.

    Args:
        error: Why the training failed; ``None`` if it succeeded.
        lost: Whether every further tile would fail too: the process has ended, or its GPU has failed for it.
    """

    error: Exception | None
    lost: bool = False


class Worker:
    """A process that starts when it gets its first tile.

    Args:
        slot: Threads and device of the process.
        work: Function that trains a tile, pickled.
    """

    def __init__(self, slot: Slot, work: bytes) -> None:
        self.slot, self._work = slot, work
        self._started: list[BaseProcess] = []
        self._executor = ProcessPoolExecutor(1, worker_context(), initializer=prepare_worker)

    def train(self, tile: Tile) -> Future[Answer]:
        """Send a tile to the process."""
        with starting_process():
            try:
                future = self._executor.submit(_train, self.slot, tile, self._work)
            except BrokenProcessPool:  # the process has ended since its last tile
                self.restart()
                future = self._executor.submit(_train, self.slot, tile, self._work)
            self._started = [*self._executor._processes.values()]  # noqa: SLF001  # nothing else gives the exit code
        return future

    def answer(self, future: Future[Answer]) -> Answer:
        """Wait for the report about a tile, and say how the process ended if it did.

        Raises:
            StorageError: The disk is full.
        """
        try:
            return future.result()
        except BrokenProcessPool:
            [process] = self._started
            process.join(timeout=5)
            if process.exitcode == -signal.SIGKILL:
                return Answer(KilledError(KILLED), lost=True)
            advice = f". {NEVER_STARTED}" if process.exitcode == 1 else ""
            return Answer(WorkerError(f"the process ended with exit code {process.exitcode}{advice}"), lost=True)

    def stop(self) -> None:
        """Kill the process; finished tiles are on the disk."""
        for process in self._started:
            process.kill()
        self._executor.shutdown()

    def restart(self) -> None:
        """Replace the process."""
        self.stop()
        self._executor = ProcessPoolExecutor(1, worker_context(), initializer=prepare_worker)


class WorkerPool:
    """One worker for each slot, and the tiles that were lost.

    Args:
        work: Function that trains a tile, pickled.
        slots: Threads and device of each process.
    """

    def __init__(self, work: bytes, slots: Sequence[Slot]) -> None:
        self._work, self._slots = work, slots
        self._workers = [Worker(slot, work) for slot in slots]
        self._idle = deque(self._workers)
        self._busy: dict[Future[Answer], tuple[Worker, Tile]] = {}
        self._lost: list[tuple[Tile, Slot]] = []

    def train(self, tiles: Sequence[Tile]) -> Iterator[Outcome]:
        """Train tiles side by side, and yield the outcome of each as it comes in, except of lost tiles.

        Raises:
            StorageError: The disk is full.
        """
        waiting = deque(tiles)
        while waiting or self._busy:
            while waiting and self._idle:
                worker, tile = self._idle.popleft(), waiting.popleft()
                self._busy[worker.train(tile)] = worker, tile
            done, alone = wait(self._busy, return_when=FIRST_COMPLETED).done, len(self._busy) == 1
            yield from filter(None, (self._outcome(future, alone=alone) for future in done))

    def retry(self) -> Iterator[Outcome]:
        """Train the lost tiles one at a time, on another device than before if there is one.

        Raises:
            StorageError: The disk is full.
        """
        self.stop()
        for tile, before in self._lost:
            slot = next((each for each in self._slots if each.device != before.device), before)
            worker = Worker(replace(slot, processes=1), self._work)
            try:
                yield Outcome(tile, worker.answer(worker.train(tile)).error)
            finally:
                worker.stop()

    def stop(self) -> None:
        """Kill all processes."""
        for worker in self._workers:
            worker.stop()

    def _outcome(self, future: Future[Answer], *, alone: bool) -> Outcome | None:
        """Give the outcome of a tile; ``None`` if it is to be retried.

        Where the machine lacks memory for all processes, it may have enough for one less.
        """
        worker, tile = self._busy.pop(future)
        error, lost = worker.answer(future)
        of_machine = isinstance(error, KilledError) or (isinstance(error, OutOfMemoryError) and error.of_machine)
        too_many = of_machine and not alone
        if not (lost or too_many):
            self._idle.append(worker)
            return Outcome(tile, error)
        self._lost.append((tile, worker.slot))
        logger.warning("Tile %s is retried alone when all others are done: %s", tile.name, error)
        if too_many and len(self._workers) > 1:
            worker.stop()
            self._workers.remove(worker)
            logger.warning("From now on tiles are trained by one process less: %d.", len(self._workers))
        else:
            worker.restart()
            self._idle.append(worker)
        return None


def _train(slot: Slot, tile: Tile, work: bytes) -> Answer:
    """Train a tile in the process of a worker."""
    # Unpickled inside, so that an error is reported with the tile.
    error = slot.attempt(tile, lambda tile, **device: _unpickled(work)(tile, **device)).error  # noqa: PLW0108
    return Answer(_sendable(error), lost=gpu_has_failed(error))


@lru_cache(maxsize=1)
def _unpickled(work: bytes) -> TrainTile:
    """Unpickle the function that trains a tile, once in a process."""
    with without_known_warnings():  # imports everything, unless this process is a copy of one that has
        train_tile: TrainTile = pickle.loads(work)  # noqa: S301  # made by the process that started this one
    return train_tile


def gpu_has_failed(error: BaseException | None) -> bool:
    """Whether a GPU refuses all further work of the process after this error.

    Such errors are, for example, invalid memory accesses, and assertions that fail on the device.
    """
    if error is None or isinstance(error, OutOfMemoryError):
        return False
    if isinstance(error, torch.AcceleratorError) or FAILED_GPU.match(str(error)):
        return True
    return gpu_has_failed(error.__cause__)


def _sendable(error: Exception | None) -> Exception | None:
    """Return an error that can be pickled; of an error that cannot, only its message is kept."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # was pickled on the same line
    except Exception:  # noqa: BLE001  # pickling errors of other packages may raise anything
        return UnsentError(f"{type(error).__name__}: {error}")
    return error
