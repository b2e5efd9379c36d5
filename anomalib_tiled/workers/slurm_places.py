"""The jobs of a command as places, and the thread that keeps in touch with them."""

from __future__ import annotations

import logging
import math
import pickle
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from threading import Event, RLock, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from anomalib_tiled.stages.workers import Place, PlaceError, PreemptedError
from anomalib_tiled.workers.mailbox import Answered, Ended, Mailbox, Message, Started
from anomalib_tiled.workers.slurm_queue import Entry, SlurmError, SlurmQueue

if TYPE_CHECKING:
    from pathlib import Path

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 0.5
"""Time between two looks at the messages of the jobs."""

SECONDS_BETWEEN_PULSES = 10.0

SECONDS_BETWEEN_QUESTIONS = 15.0
"""Time between two questions to SLURM about all jobs."""

SECONDS_TO_BE_NEEDED = 30.0
"""Time that a job which SLURM has started again waits for a task before it is cancelled."""

REQUEUED = "SLURM has requeued it: it took the node back, or the node failed"

LINES = 5
"""Lines of a log that a message shows."""


class SlurmPlace(Place):
    """A job, which may still wait in the queue.

    Args:
        job: Its id, such as ``17_4``.
        restarts: How often SLURM has requeued it.
        threads: Processor threads of a task.
        tasks: Most tasks that it takes after its proof.
        monitor: Keeps in touch with it.
    """

    advice = "Raise workers.init_args.mem_gb in the config.yaml of the run and resume it"

    def __init__(self, job: str, restarts: int, threads: int | None, tasks: int, monitor: JobMonitor) -> None:
        self.job, self.restarts, self.threads, self.tasks = job, restarts, threads, tasks
        self.name = f"job {job}"
        self.node: str | None = None
        self.error: PlaceError | None = None
        self.left = tasks
        self._given = 0
        self._task: bytes | None = None
        self._future: Future[Any] | None = None
        self._monitor = monitor

    @property
    def address(self) -> str:
        """Address of its mailbox."""
        return f"{self.job}.{self.restarts}"

    def submit(self, task: Callable[[], Result]) -> Future[Result]:
        """Send a task, as soon as the job has started."""
        with self._monitor.lock:
            future: Future[Result] = Future()
            if self.error is not None:
                future.set_exception(self.error)
                return future
            self._future, self._task = future, pickle.dumps(task)
            self._send()
            return future

    def end(self) -> None:
        """Cancel the job."""
        self._monitor.end(self)

    def started(self, node: str) -> None:
        """Note that it has started, and send its first task."""
        self.node, self.name = node, f"{self.name} on {node}"
        self._send()

    def answered(self, value: object) -> None:
        """Pass an answer on."""
        future, self._future = self._future, None
        self.left -= self._given > 1  # the first was its proof
        if future is not None:
            future.set_result(value)

    def ended(self, error: PlaceError) -> None:
        """Note why it has ended, and pass that on."""
        future, self._future, self.error, self.left = self._future, None, error, 0
        if future is not None:
            future.set_exception(error)

    def _send(self) -> None:
        if self.node is not None and self._task is not None:
            self._monitor.mailbox.give(self.address, self._given, self._task)
            self._given, self._task = self._given + 1, None


class JobMonitor:
    """Keeps in touch with the jobs of a command, in a thread of its own.

    Args:
        mailbox: The folder of their messages; is made.
        queue: What SLURM knows about them.
        logs: Folder for the logs of jobs that fail.
    """

    def __init__(self, mailbox: Mailbox, queue: SlurmQueue, logs: Path) -> None:
        self.mailbox, self.queue, self.logs = mailbox, queue, logs
        self.lock = RLock()
        self._places: dict[str, SlurmPlace] = {}
        self._jobs: dict[str, SlurmPlace] = {}
        self._returned: dict[str, float] = {}
        self._to_cancel: list[str] = []
        self._early: dict[str, Started] = {}
        self._pulses = 0
        self._pulse_at = self._ask_at = 0.0
        self._finished: set[str] = set()
        self._waits_for = ""
        self._kept_logs: dict[str, Path] = {}
        self._started_on: set[str] = set()
        self._failed_on: set[str] = set()
        self._closed = Event()
        mailbox.make()
        self._thread = Thread(target=self._run, name="SLURM", daemon=True)
        self._thread.start()

    @property
    def has_places(self) -> bool:
        """Whether any job may still work."""
        with self.lock:
            return bool(self._places)

    @property
    def unfit_nodes(self) -> set[str]:
        """Nodes on which jobs have only failed, if one has started on another: SLURM would send job after job."""
        with self.lock:
            return self._failed_on - self._started_on if self._started_on else set()

    def take_returned(self, most: int) -> list[SlurmPlace]:
        """Take jobs that SLURM has requeued and started again, as new places."""
        with self.lock:
            return [self._places[self._returned.popitem()[0]] for _ in range(min(most, len(self._returned)))]

    def lacking(self, wanted: int, tasks_per_job: int) -> int:
        """Give the number of jobs that are to be submitted.

        Args:
            wanted: Number of tasks that the places which have been given away will not take as their next one.
            tasks_per_job: Most tasks of a job.
        """
        with self.lock:
            given_away = [place for place in self._places.values() if place.address not in self._returned]
            tasks = wanted + len(given_away) - sum(place.left for place in given_away)
            return math.ceil(max(0, tasks) / tasks_per_job)

    def admit(self, places: list[SlurmPlace]) -> list[SlurmPlace]:
        """Begin to care for places."""
        with self.lock:
            for place in places:
                self._places[place.address] = self._jobs[place.job] = place
                if (message := self._early.pop(place.address, None)) is not None:
                    place.started(message.node)
        return places

    def end(self, place: SlurmPlace) -> None:
        """End a place."""
        with self.lock:
            if self._places.pop(place.address, None) is None:
                return
            place.ended(PlaceError("this command has ended it"))
            self._to_cancel.append(place.job)

    def keep_away(self, nodes: Iterable[str]) -> None:
        """Let no job that waits start on some nodes."""
        with self.lock:
            arrays = {place.job.partition("_")[0] for place in self._places.values() if place.node is None}
        self.queue.keep_away(arrays, nodes)

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._thread.join(timeout=1)  # SLURM may be slow to answer

    def _run(self) -> None:
        try:
            while not self._closed.wait(SECONDS_BETWEEN_LOOKS):
                self._renew()
                self._receive()
                self._cancel()
                self._ask()
        except Exception as error:
            if self._closed.is_set():
                return
            logger.exception("The connection to the jobs is lost.")
            with self.lock:
                for place in [*self._places.values()]:
                    self._lose(place, PlaceError(f"the connection to it is lost: {type(error).__name__}: {error}"))

    def _renew(self) -> None:
        if monotonic() >= self._pulse_at:
            self._pulse_at = monotonic() + SECONDS_BETWEEN_PULSES
            self._pulses += 1
            self.mailbox.renew(self._pulses)

    def _receive(self) -> None:
        with self.lock:
            for address, message in self.mailbox.receive():
                if isinstance(message, Started):
                    self._started_on.add(message.node)
                if (place := self._places.get(address)) is not None:
                    self._note(place, message)
                elif isinstance(message, Started):
                    self._note_unknown(address, message)

    def _note(self, place: SlurmPlace, message: Message) -> None:
        match message:
            case Started(node):
                place.started(node)
            case Answered(value, is_last):
                place.is_over = is_last
                if is_last:
                    del self._places[place.address]
                place.answered(value)
            case Ended(error):
                self._lose(place, error)

    def _note_unknown(self, address: str, message: Started) -> None:
        """Note that a job has started which this command does not know yet, or which SLURM had requeued."""
        job, _, restarts = address.rpartition(".")
        self._early[address] = message
        before = self._jobs.get(job)
        if before is None or before.restarts >= int(restarts):  # faster than the command that submits it, or ends it
            return
        if before.address in self._places:
            self._lose(before, PreemptedError(REQUEUED))
        self._returned[address] = monotonic()
        self.admit([SlurmPlace(job, int(restarts), before.threads, before.tasks, self)])

    def _lose(self, place: SlurmPlace, error: PlaceError) -> None:
        """Note that a place has ended."""
        del self._places[place.address]
        self._returned.pop(place.address, None)
        place.ended(error)

    def _cancel(self) -> None:
        with self.lock:
            for address, since in [*self._returned.items()]:
                if monotonic() > since + SECONDS_TO_BE_NEEDED:
                    del self._returned[address]
                    self._places[address].end()
            jobs, self._to_cancel = self._to_cancel, []
        if jobs:
            try:
                self.queue.cancel(jobs)
            except SlurmError as error:  # also if one of them has just ended
                logger.info("%s", error)

    def _ask(self) -> None:
        """Ask SLURM which jobs have ended without a word, and which it has requeued."""
        if monotonic() < self._ask_at:
            return
        with self.lock:
            known = [*self._places.values()]  # a job that is submitted meanwhile is none of them
        self._ask_at = monotonic() + SECONDS_BETWEEN_QUESTIONS
        if not known:
            return
        try:
            entries = self.queue.entries()
        except SlurmError as error:
            logger.warning("%s. The command asks again.", error)
            return
        self._receive()
        with self.lock:
            for place in known:
                if place.address in self._places:
                    self._compare(place, entries.get(place.job))
        self._report_waiting(entries)

    def _compare(self, place: SlurmPlace, entry: Entry | None) -> None:
        """End a place whose job has ended, or has been requeued."""
        if entry is not None and entry.restarts > place.restarts:
            self._lose(place, PreemptedError(REQUEUED))
        elif entry is None:
            self._lose(place, PreemptedError("SLURM does not know it any more"))
        elif (error := entry.error) is not None:
            if entry.state == "COMPLETED" and place.address not in self._finished:
                self._finished.add(place.address)  # its last message may still be on its way
                return
            if entry.state == "PENDING":
                self._to_cancel.append(place.job)
            if place.node is None and not isinstance(error, PreemptedError):
                self._failed_on |= {entry.node} - {""}
                error = self._with_log(place, error)
            self._lose(place, error)

    def _with_log(self, place: SlurmPlace, error: PlaceError) -> PlaceError:
        """Add the last lines of the log of a job that did not start; jobs with the same ones have the same error."""
        log = self._log_of(place)
        if not log.is_file():
            return error
        lines = [line for line in log.read_text(errors="replace").split("\n") if line.strip()]
        shown = "\n".join(["", *lines[-LINES:]])
        if (kept := self._kept_logs.get(shown)) is None:
            kept = self._kept_logs[shown] = self.logs / f"job_{place.job}.log"
            kept.parent.mkdir(exist_ok=True)
            shutil.copyfile(log, kept)
        return type(error)(f"{error}. It ended before it could start to work; the end of {kept}:{shown}")

    def _log_of(self, place: SlurmPlace) -> Path:
        return self.mailbox.folder / "jobs" / f"{place.job}_0_log.out"

    def _report_waiting(self, entries: dict[str, Entry]) -> None:
        """Log for what jobs wait, if that has changed."""
        reasons = sorted({entry.reason for entry in entries.values() if entry.state == "PENDING"})
        if (waits_for := ", ".join(reasons)) != self._waits_for:
            self._waits_for = waits_for
            logger.info("Jobs that wait, and why: %s.", waits_for or "none")
