"""The scheduler of all engines: gives each place that is ready one task after the other.

The first task of a place is its proof. A place that fails it gets no work, and costs no item a try. An item whose place
ends is tried elsewhere; one for which memory was short is tried once more when nothing else runs.
"""

from __future__ import annotations

import logging
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from anomalib_tiled.errors import NoPlaceError, StageError, StorageError
from anomalib_tiled.stages.contracts import errors_naming_stage, name_of
from anomalib_tiled.stages.workers import KilledError, PlaceError, PreemptedError, Workers
from anomalib_tiled.workers.queue import Named, Queue, is_short_of_memory
from anomalib_tiled.workers.seat import Reasons, Seat, message_of
from anomalib_tiled.workers.task import Task, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from anomalib_tiled.config.settings import Settings
    from anomalib_tiled.stages.workers import Conditions
    from anomalib_tiled.workers.proof import Proof
    from anomalib_tiled.workers.queue import Job
    from anomalib_tiled.workers.task import Answer

Item = TypeVar("Item", bound=Named)

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_SUPPLIES = 5.0
"""Time after which the scheduler asks for more places while items wait: machines may have joined a cluster."""

UNFIT_IN_A_ROW = 10
"""Places that fail their proof one after the other before the scheduler asks for no more."""


@dataclass(frozen=True)
class Outcome(Generic[Item]):
    """How the work on an item ended.

    Args:
        item: The item.
        error: Why it failed; ``None`` if it succeeded.
        value: What the function returned.
    """

    item: Item
    error: Exception | None
    value: Any = None


@dataclass(frozen=True)
class Terms:
    """What work depends on beside its items.

    Args:
        conditions: Settings of the run, for the workers.
        proof: What each new place must prove.
        claim: Gives what the function receives for an item; called anew for each try, before it begins. ``None`` for
            the item itself.
    """

    conditions: Conditions
    proof: Proof
    claim: Callable[[Any], object] | None = None


class Scheduler:
    """Gives work to the places of one workers object, the only one of a command; used by one thread.

    Args:
        make: Makes the workers when they are first needed.
        report: Receives a line about each place that is excluded or has ended.
    """

    def __init__(self, make: Callable[[], Workers], report: Callable[[str], None] = logger.warning) -> None:
        self._make, self._report = make, report
        self._check: Callable[[], None] = lambda: None
        self._claim: Callable[[Any], object] | None = None
        self._queue = Queue()
        self._seats: list[Seat] = []
        self._reasons = Reasons()
        self._unfit_in_a_row = 0
        self._most: int | None = None
        self._supply_at = 0.0

    @cached_property
    def workers(self) -> Workers:
        """Supplies the places."""
        return self._make()

    def prepared_workers(self, conditions: Conditions) -> Workers:
        """Give the workers, adapted to a run.

        Raises:
            StageError: The workers raised an error.
        """
        with errors_naming_stage(self.workers):
            self.workers.adapt(conditions)
        return self.workers

    def start(self, conditions: Conditions) -> None:
        """Let the workers prepare, while this process reads images.

        Raises:
            StageError: The workers raised an error.
        """
        with errors_naming_stage(workers := self.prepared_workers(conditions)):
            workers.start()

    def run(
        self, function: Callable[..., object], items: Sequence[Item], terms: Terms
    ) -> Generator[Outcome[Item], None, None]:
        """Do the work on all items, any number at a time, and yield the outcome of each as it ends.

        Args:
            function: Takes an item, and by name a ``device`` unless that is ``None``; can be pickled.
            items: The items.
            terms: What else the work depends on.

        Raises:
            NoPlaceError: No place is left, and none can come.
            StorageError: The disk is full.
            StageError: The workers raised an error.
        """
        work, proof = Work(function), Work(terms.proof)
        self._queue, self._claim = Queue(items), terms.claim
        self._most, self._supply_at, self._unfit_in_a_row = None, 0.0, 0
        self.prepared_workers(terms.conditions)
        for seat in self._seats:
            seat.kept = True
        try:
            while self._queue or any(seat.job for seat in self._seats):
                self._supply(proof)
                self._hand_out(work)
                answered = self._next_answers()
                self._check()  # this process may have been suspended while it waited
                for seat in answered:
                    if (outcome := self._outcome(seat)) is not None:
                        yield outcome
        finally:
            self._end([seat for seat in self._seats if seat.job is not None or not self.workers.elsewhere])

    @contextmanager
    def checking(self, check: Callable[[], None]) -> Iterator[None]:
        """Check meanwhile that the command may go on, every few seconds, and before it hands out work or takes results.

        Args:
            check: Raises an error if the command must stop.
        """
        before, self._check = self._check, check
        try:
            yield
        finally:
            self._check = before

    def describe_places(self) -> str:
        """Say how many places there are, for a progress bar; "" if this machine has only one."""
        ready = sum(seat.report is not None for seat in self._seats)
        if len(self._seats) < 2 and not self.workers.elsewhere:  # noqa: PLR2004  # then places do not matter
            return ""
        starting = len(self._seats) - ready
        return f"on {ready} places" + (f", {starting} starting" if starting else "")

    def close(self) -> None:
        """End all places, then close the workers.

        Raises:
            StageError: The workers raised an error.
        """
        if "workers" not in vars(self):
            return
        workers = self.workers
        try:
            self._end([*self._seats])
        finally:
            del self.workers
            with errors_naming_stage(workers):
                workers.close()

    def _supply(self, proof: Work) -> None:
        """Ask the workers for places that are lacking, now and then.

        Raises:
            NoPlaceError: No place is left, and none can come.
            StageError: The workers break their contract.
        """
        if monotonic() >= self._supply_at and (wanted := self._wanted()) > 0:
            self._supply_at = monotonic() + SECONDS_BETWEEN_SUPPLIES
            with errors_naming_stage(self.workers):
                seats = [*map(Seat, self.workers.supply(wanted))]
            self._seats += seats
            if len(seats) > wanted:
                message = (
                    f"{name_of(self.workers)} must supply at most {wanted} places, but supplied {len(seats)}. Fix it."
                )
                raise StageError(message)
            for seat in seats:
                self._submit(seat, proof)
        if not self._seats:
            message = f"There is no place to work at any more, and {len(self._queue)} pieces of work are left."
            raise NoPlaceError("\n".join([message, *self._reasons.lines()]))

    def _wanted(self) -> int:
        """Give the number of places that could be used in addition."""
        if self._unfit_in_a_row >= UNFIT_IN_A_ROW:
            return 0
        free = sum(seat.job is None for seat in self._seats)
        wanted = max(len(self._queue.waiting) - free, not self._seats)
        return wanted if self._most is None else min(wanted, self._most - len(self._seats))

    def _hand_out(self, work: Work) -> None:
        """Give each place that is ready an item."""
        places = {seat.where for seat in self._seats if seat.report is not None}
        for seat in self._seats:
            if seat.is_ready and (job := self._queue.next_for(seat.where, others=len(places) > 1)) is not None:
                self._submit(seat, work, job)
        ready = [seat for seat in self._seats if seat.is_ready]
        if not ready or any(seat.job for seat in self._seats) or (job := self._queue.next_alone()) is None:
            return
        chosen = min(ready, key=lambda seat: job.lost_at is not None and seat.where[0] == job.lost_at[0])
        self._end([seat for seat in ready if seat is not chosen and seat.where[0] == chosen.where[0]])
        self._submit(chosen, work, job)

    def _submit(self, seat: Seat, work: Work, job: Job | None = None) -> None:
        """Submit an item to a place, or its proof, unless the command must stop: then another one makes the claims.

        Args:
            seat: The place.
            work: The function.
            job: The item; ``None`` for the proof.
        """
        place = seat.place
        self._check()
        item = None if job is None else job.item if self._claim is None else self._claim(job.item)
        with errors_naming_stage(self.workers):
            advice = "" if job is not None and job.alone else place.advice
            seat.job, seat.future = job, place.submit(Task(work, item, place.threads, place.device, advice))

    def _next_answers(self) -> list[Seat]:
        """Wait for an answer, or for some seconds, and give the places that have answered or ended."""
        owed = {seat.future: seat for seat in self._seats if seat.future is not None}
        done = wait(owed, timeout=SECONDS_BETWEEN_SUPPLIES, return_when=FIRST_COMPLETED).done
        return [seat for future, seat in owed.items() if future in done]

    def _outcome(self, seat: Seat) -> Outcome[Any] | None:
        """Take the answer of a place: the outcome of its item; ``None`` if that was a proof, or is to be retried.

        Raises:
            StorageError: The disk is full.
        """
        (future, job), (seat.future, seat.job) = (seat.future, seat.job), (None, None)
        if future is None:
            return None
        try:
            answer = future.result()
        except (Exception, SystemExit) as error:  # noqa: BLE001  # by any of them, the place has ended
            return self._place_ended(seat, job, error)
        if job is None:
            self._take_proof(seat, answer)
            return None
        if isinstance(answer.error, StorageError):
            raise answer.error
        if answer.lost or seat.place.is_over:
            self._end([seat])
        if answer.error is not None and (answer.lost or is_short_of_memory(answer.error)):
            return self._lost(seat, job, answer.error)
        seat.kept = False
        return Outcome(job.item, answer.error, answer.value)

    def _take_proof(self, seat: Seat, answer: Answer) -> None:
        """Let a place work, or exclude it.

        Raises:
            Exception: The error of a place on this machine, where every other place would fail alike.
        """
        if answer.error is None:
            seat.report, self._unfit_in_a_row = answer.value, 0
            logger.info("%s is ready: %s.", seat.place.name, answer.value)
            return
        if not self.workers.elsewhere and not answer.lost:
            raise answer.error
        self._unfit_in_a_row += 1
        self._exclude(seat, message_of(answer.error))

    def _exclude(self, seat: Seat, reason: str) -> None:
        self._note(seat, "is excluded", reason)
        with errors_naming_stage(self.workers):
            self.workers.exclude(seat.place, reason)
        self._end([seat])

    def _place_ended(self, seat: Seat, job: Job | None, error: BaseException) -> Outcome[Any] | None:
        """Note that a place has ended, so that another one is supplied, and decide what becomes of its item."""
        kind = next((kind for kind in (KilledError, PreemptedError) if isinstance(error, kind)), PlaceError)
        self._note(seat, "has ended", message_of(error))
        self._unfit_in_a_row += seat.report is None and kind is not PreemptedError
        self._end([seat])
        return None if job is None else self._lost(seat, job, kind(f"{seat.place.name} has ended: {message_of(error)}"))

    def _lost(self, seat: Seat, job: Job, error: Exception) -> Outcome[Any] | None:
        """Decide whether an item is retried; if not, give its outcome."""
        others = any(other is not seat for other in self._seats)
        job.lost_at = seat.where
        if not self._queue.put_back(job, error, counts=not seat.kept, others=others):
            return Outcome(job.item, error)
        when = " alone when all others are done" if job.alone else ""
        logger.warning("%s is retried%s: %s", job.item.name, when, error)
        if is_short_of_memory(error):
            self._save_memory(seat)
        return None

    def _save_memory(self, seat: Seat) -> None:
        """Let fewer places work on a machine with too little memory for all; none, if there are other machines."""
        others = [other.where[0] for other in self._seats if other is not seat and other.report is not None]
        if seat.where[0] in others:
            self._most = sum(other is not seat for other in self._seats)
            logger.warning("From now on there is one place less: %d.", self._most)
            self._end([seat])
        elif others:
            self._exclude(seat, "its memory is too small for the work")

    def _note(self, seat: Seat, what: str, reason: str) -> None:
        """Tell the user and the log what has become of a place, and keep it for the last message."""
        self._reasons.add(seat.place.name, reason)
        logger.info("%s %s: %s", seat.place.name, what, reason)
        self._report(f"{seat.place.name} {what}: {reason}")

    def _end(self, seats: Sequence[Seat]) -> None:
        """End places; an error of one keeps no other from being ended.

        Raises:
            StageError: The workers raised an error.
        """
        self._supply_at = 0.0
        with errors_naming_stage(self.workers), ExitStack() as ends:
            for seat in seats:
                if seat in self._seats:
                    self._seats.remove(seat)
                    ends.callback(seat.place.end)


def scheduler_of(settings: Settings, report: Callable[[str], None] = logger.warning) -> Scheduler:
    """Make the scheduler of a command.

    Args:
        settings: The configuration, which names the workers.
        report: Receives a line about each place that is excluded or has ended.
    """
    return Scheduler(partial(settings.stages["workers"].build, Workers), report)
