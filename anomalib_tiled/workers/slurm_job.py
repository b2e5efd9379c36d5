"""A place, as it runs inside a SLURM job: takes one task after the other from its mailbox."""

from __future__ import annotations

import _thread
import os
import pickle
import signal
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from threading import Event, Lock, Thread, Timer
from time import monotonic, sleep
from types import FrameType

from anomalib_tiled.stages.workers import PlaceError, PreemptedError
from anomalib_tiled.system.termination import Terminated
from anomalib_tiled.workers.mailbox import Answered, Ended, Mailbox, Message, Started

SECONDS_BETWEEN_LOOKS = 0.5
"""Time between two looks into the mailbox."""

SECONDS_TO_LEAVE = 5.0
"""Time that a task has to remove its temporary files when the job must end."""

SPARE = 1.5
"""A job takes a task if this many times its longest task so far fit in the time that it has left."""

NOTICE = 90
"""Seconds before the end of its time in which SLURM sends a job submitit's signal."""


@dataclass(frozen=True)
class SlurmJob:
    """What each job of an array calls.

    Args:
        mailbox: Where tasks come from.
        tasks: Most tasks that it does, beside the first: its proof.
        minutes: Time limit of the job.
        search_path: Where the command finds modules, as ``sys.path``.
        patience: Seconds without a renewal after which the command counts as ended.
    """

    mailbox: Mailbox
    tasks: int
    minutes: float
    search_path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))
    patience: float = 60.0

    def __call__(self) -> None:
        """Do tasks until there are no more, their number or the time is over, or the job is to end."""
        sys.path[:] = self.search_path
        os.environ.pop("SLURM_NTASKS", None)  # by this, Lightning would think that SLURM had started it, and requeue
        _Service(self).run()


def own_address() -> str:
    """Give the address of this job: its id, and how often SLURM has requeued it."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = os.environ["SLURM_JOB_ID"] if array is None else f"{array}_{task}"
    return f"{job}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"


class _Service:
    """The work of one job."""

    def __init__(self, job: SlurmJob) -> None:
        self._job, self._mailbox, self._address = job, job.mailbox, own_address()
        self._sent, self._sending = count(), Lock()
        self._began = monotonic()
        self._task_began: float | None = None
        self._longest = 0.0
        self._end: Ended | None = None
        self._abandoned = False
        self._over = Event()

    def run(self) -> None:
        """Do tasks, and say why if the job ends before it has done as many as it may."""
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._must_end)
        Thread(target=self._watch, daemon=True).start()  # only now: it interrupts this thread
        with suppress(Terminated):
            self._mailbox.open_for(self._address)
            self._send(Started(os.environ.get("SLURMD_NODENAME", os.uname().nodename)))
            self._serve()
        self._send_end()
        self._over.set()

    def _serve(self) -> None:
        for number in count():
            task = self._next_task(number)
            self._task_began = monotonic()
            try:
                value = pickle.loads(task)()  # noqa: S301  # written by the command
            except Exception as error:  # noqa: BLE001  # a task raises nothing of its own: the job cannot do its work
                traceback.print_exc()
                self._end = self._end or Ended(PlaceError(f"{type(error).__name__}: {error}"))
            if self._end is not None:
                return
            is_last = self._is_last(number)
            self._task_began = None
            self._send(Answered(value, is_last))
            if is_last:
                return

    def _next_task(self, number: int) -> bytes:
        """Wait for a task.

        Raises:
            Terminated: The job must end.
        """
        while (task := self._mailbox.take(self._address, number)) is None:
            sleep(SECONDS_BETWEEN_LOOKS)
            if self._end is not None:
                raise Terminated
        return task

    def _is_last(self, number: int) -> bool:
        """Whether the job takes no task after this one, the first being number 0 and the proof."""
        now = monotonic()
        if number and self._task_began is not None:
            self._longest = max(self._longest, now - self._task_began)
        left = self._job.minutes * 60 - NOTICE - (now - self._began)
        return number >= self._job.tasks or left < SPARE * self._longest

    def _must_end(self, number: int, frame: FrameType | None) -> None:
        """End, because SLURM takes the node back, the time is over, or the command has ended."""
        del frame
        if self._end is not None:
            return
        self._end = self._reason(number)
        leave = Timer(SECONDS_TO_LEAVE, self._exit_at_once)
        leave.daemon = True
        leave.start()
        if self._task_began is not None:
            raise Terminated  # lets the task remove its temporary files

    def _reason(self, number: int) -> Ended:
        minutes, name = self._job.minutes, signal.Signals(number).name
        if number == signal.SIGTERM:
            return Ended(PreemptedError(f"SLURM took its node back, or somebody cancelled it ({name})"))
        if self._task_began is not None and monotonic() - self._task_began > minutes * 60 / 2:
            message = f"its tile took more than half of the {minutes:g} minutes. Raise workers.init_args.minutes"
            return Ended(PlaceError(message))
        return Ended(PreemptedError(f"its {minutes:g} minutes were nearly over, or SLURM took its node back ({name})"))

    def _watch(self) -> None:
        """End the job when its command no longer renews its pulse, even while a task is done."""
        seen, since = self._mailbox.pulse(), monotonic()
        while monotonic() - since < self._job.patience:
            if self._over.wait(self._job.patience / 12):
                return
            if (pulse := self._mailbox.pulse()) not in {seen, None}:
                seen, since = pulse, monotonic()
        print(f"No command renews {self._mailbox.folder} any more, so this job ends.", flush=True)  # noqa: T201  # into the log of the job
        self._abandoned = True
        _thread.interrupt_main(signal.SIGTERM)
        if not self._over.wait(SECONDS_TO_LEAVE):
            os._exit(1)

    def _exit_at_once(self) -> None:
        try:
            self._send_end()
        finally:
            os._exit(0)

    def _send_end(self) -> None:
        """Tell the command once why the job ends, unless the command has ended itself."""
        with self._sending:
            end, self._abandoned = None if self._abandoned else self._end, True
        if end is not None:
            self._send(end)

    def _send(self, message: Message) -> None:
        self._mailbox.send(self._address, next(self._sent), message)
