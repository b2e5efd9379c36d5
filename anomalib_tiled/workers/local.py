"""Workers on this machine: processes, or this process itself."""

from __future__ import annotations

import signal
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING, Literal, TypeVar

import torch

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.workers import Conditions, KilledError, Place, PlaceError, Workers
from anomalib_tiled.system.fork_server import prepare_worker, room_for_workers, starting_process, worker_context
from anomalib_tiled.system.limits import cores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.process import BaseProcess

Result = TypeVar("Result")

MOST_PROCESSES = 1_000
"""More than any machine has cores for."""

KILLED = (
    "it was killed, as the system does when memory is short. "
    "Lower workers.init_args.processes, or the data module's train_batch_size."
)

NEVER_STARTED = (
    'In a script, start the fit under `if __name__ == "__main__":`, because each process imports the script.'
)
"""Advice if a process ended with an error of Python before it could report one."""


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
        self._slots: list[_Slot] = []

    def adapt(self, conditions: Conditions) -> None:
        """Use the devices that the trainer may use, and as many threads per tile as for the tiles that are done."""
        self._conditions, self._slots = conditions, []

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
        if len(self._new_slots()) > 1:
            worker_context()  # starts the fork server

    def supply(self, wanted: int) -> Sequence[Place]:
        """Give this process, if it is the only one, or a process for each device or core."""
        self._slots = self._slots or self._new_slots(wanted)
        if any(slot.unusable for slot in self._slots):
            return []
        free = [slot for slot in self._slots if not slot.taken][:wanted]
        return [(ThisProcess if len(self._slots) == 1 else ProcessPlace)(slot) for slot in free]

    def _new_slots(self, items: int | None = None) -> list[_Slot]:
        """Give threads and device of each process for this number of tiles or other items."""
        devices = self._devices()
        number = self._number(devices, items) if self.processes == "auto" else self.processes
        most = min(cores(), torch.get_num_threads())  # the latter respects OMP_NUM_THREADS
        threads = min(most, self._conditions.threads or max(1, cores() // number))
        advice = "Lower workers.init_args.processes in the config.yaml of the run and resume it" if number > 1 else ""
        return [_Slot(index, threads, device, advice) for index, device in enumerate(islice(cycle(devices), number), 1)]

    def _devices(self) -> list[int | None]:
        """Give the GPUs that processes use in turn; ``None`` for the one that the trainer picks."""
        there = torch.accelerator.device_count()
        if known := [device for device in self.devices or () if device < there]:  # a test may have fewer GPUs
            return [*known]
        if self.devices is None and self._conditions.any_gpu and (visible := torch.cuda.device_count()) > 1:
            return [*range(visible)]
        return [None]

    def _number(self, devices: Sequence[int | None], items: int | None) -> int:
        """Give the fastest number of processes: two tiles with one thread each beat one tile with two threads."""
        if devices != [None] or (self._conditions.accelerator != "cpu" and torch.accelerator.is_available()):
            number = len(devices)
        else:
            number = room_for_workers(self._conditions.threads or 1)
        return max(1, number if items is None else min(number, items))


@dataclass
class _Slot:
    """Threads and device of a process.

    Args:
        index: Its number, from 1.
        threads: Processor threads that it may use.
        device: Index of the GPU that it works on; ``None`` for the device of the configuration.
        advice: What helps if memory runs out.
        taken: Whether a process has it.
        unusable: Whether a process ended before its first answer, so that the next one would, too.
    """

    index: int
    threads: int
    device: int | None
    advice: str
    taken: bool = False
    unusable: bool = False


class ThisProcess(Place):
    """The process of the command."""

    name = "this process"

    def __init__(self, slot: _Slot) -> None:
        self.threads, self.device = slot.threads, slot.device
        self._slot, slot.taken = slot, True

    def submit(self, task: Callable[[], Result]) -> Future[Result]:
        """Do a task at once."""
        future: Future[Result] = Future()
        future.set_result(task())
        return future

    def end(self) -> None:
        """Give the place up; it works only within ``submit``."""
        self._slot.taken = False


class ProcessPlace(Place):
    """A process that starts when it gets its first task."""

    def __init__(self, slot: _Slot) -> None:
        self.name, self.advice = f"process {slot.index}", slot.advice
        self.threads, self.device = slot.threads, slot.device
        self._slot, slot.taken = slot, True
        self._answers = 0
        self._started: list[BaseProcess] = []
        self._executor = _executor()

    def submit(self, task: Callable[[], Result]) -> Future[Result]:
        """Send a task to the process."""
        with starting_process():
            try:
                sent = self._executor.submit(task)
            except BrokenProcessPool:  # the process has ended since its last task
                self._stop()
                self._executor = _executor()
                sent = self._executor.submit(task)
            self._started = [*self._executor._processes.values()]  # noqa: SLF001  # nothing else gives the exit code
        answer: Future[Result] = Future()
        sent.add_done_callback(partial(self._pass_on, answer))
        return answer

    def end(self) -> None:
        """Kill the process; what is finished is on the disk."""
        self._slot.taken = False
        self._slot.unusable |= not self._answers and any(process.exitcode for process in self._started)
        self._stop()

    def _stop(self) -> None:
        for process in self._started:
            process.kill()
        self._executor.shutdown()

    def _pass_on(self, answer: Future[Result], sent: Future[Result]) -> None:
        """Pass the answer of the process on, or how it ended."""
        if sent.cancelled():
            answer.cancel()
        elif (error := sent.exception()) is None:
            self._answers += 1
            answer.set_result(sent.result())
        else:
            answer.set_exception(self._how_it_ended(error))

    def _how_it_ended(self, error: BaseException) -> BaseException:
        if isinstance(error, SystemExit):  # Lightning's answer to SIGTERM
            return PlaceError(f"it was asked to end ({type(error).__name__})")
        if not isinstance(error, BrokenProcessPool):
            return error
        [process] = self._started
        process.join(timeout=5)
        return exit_error(process.exitcode)


def exit_error(code: int | None) -> PlaceError:
    """Say how a process ended.

    Args:
        code: Its exit code; minus the number of a signal that ended it.
    """
    if code == -signal.SIGKILL:
        return KilledError(KILLED)
    if code is not None and -code in {*signal.Signals}:
        return PlaceError(f"it was ended by the signal {signal.Signals(-code).name}")
    advice = f". {NEVER_STARTED}" if code == 1 else ""
    return PlaceError(f"it ended with exit code {code}{advice}")


def _executor() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, worker_context(), initializer=prepare_worker)
