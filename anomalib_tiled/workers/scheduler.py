"""The scheduler of all engines: gives each place that is ready one task after the other.

The first task of a place is its proof. A place that fails it gets no work, and costs no item a try. An item whose place
ends is tried elsewhere; one for which memory was short is tried once more when nothing else runs.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from anomalib_tiled.errors import NoPlaceError, OutOfMemoryError, StorageError
from anomalib_tiled.stages.contracts import errors_naming_stage
from anomalib_tiled.stages.workers import KilledError, PlaceError, PreemptedError, Workers
from anomalib_tiled.workers.task import Task, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from anomalib_tiled.config.settings import Settings
    from anomalib_tiled.stages.workers import Conditions, Place
    from anomalib_tiled.workers.proof import PlaceReport, Proof
    from anomalib_tiled.workers.task import Answer


class Named(Protocol):
    """What work is done on: a tile, or a shard of images."""

    @property
    def name(self) -> str:
        """Name in messages."""


Item = TypeVar("Item", bound=Named)

logger = logging.getLogger(__name__)

TRIES = 3
"""How often an item is given to a place: a place may end by chance, but one item may also end every place."""

SECONDS_BETWEEN_SUPPLIES = 5.0
"""Time after which workers are asked for more places while items wait: machines may have joined a cluster."""

UNFIT_IN_A_ROW = 10
"""Places that fail their proof one after the other before workers are asked for no more."""


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


@dataclass(eq=False)
class _Job:
    """An item that is to be done.

    Args:
        item: The item.
        tries: How many places have ended with it.
        avoid: Where it was lost last.
    """

    item: Named
    tries: int = 0
    avoid: tuple[str, int | None] | None = None


@dataclass(eq=False)
class _Seat:
    """A place, and what it does.

    Args:
        place: The place.
        future: The answer that it owes; ``None`` while it is idle.
        report: Its proof, once it has given it.
        job: What it works on; ``None`` for its proof, or nothing.
    """

    place: Place
    future: Future[Answer] | None = None
    report: PlaceReport | None = None
    job: _Job | None = None

    @property
    def where(self) -> tuple[str, int | None]:
        """Machine and GPU."""
        return ("" if self.report is None else self.report.host), self.place.device

    @property
    def is_ready(self) -> bool:
        """Whether it can be given an item."""
        return self.report is not None and self.future is None


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
        self._seats: list[_Seat] = []
        self._waiting: deque[_Job] = deque()
        self._alone: deque[_Job] = deque()
        self._reasons: Counter[str] = Counter()
        self._unfit_in_a_row = 0
        self._most: int | None = None
        self._supply_at = 0.0

    @cached_property
    def workers(self) -> Workers:
        """Supplies the places."""
        return self._make()

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
        self._waiting, self._alone, self._most = deque(map(_Job, items)), deque(), None
        self._supply_at, self._claim = 0.0, terms.claim
        self.prepared_workers(terms.conditions)
        try:
            while self._waiting or self._alone or any(seat.job for seat in self._seats):
                self._check()
                self._supply(proof)
                self._assign(work)
                answered = self._next_answers()
                self._check()  # this process may have been suspended while it waited
                for seat in answered:
                    if (outcome := self._outcome(seat)) is not None:
                        yield outcome
        finally:
            for seat in [seat for seat in self._seats if seat.job is not None or not self.workers.elsewhere]:
                self._end(seat)

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

    def prepared_workers(self, conditions: Conditions) -> Workers:
        """Give the workers, adapted to a run.

        Raises:
            StageError: The workers raised an error.
        """
        with errors_naming_stage(self.workers):
            self.workers.adapt(conditions)
        return self.workers

    def describe_places(self) -> str:
        """Say how many places there are, for a progress bar; "" if this machine has only one."""
        ready = sum(seat.report is not None for seat in self._seats)
        if len(self._seats) < 2 and not self.workers.elsewhere:  # noqa: PLR2004  # then places do not matter
            return ""
        starting = len(self._seats) - ready
        return f"on {ready} places" + (f", {starting} starting" if starting else "")

    def close(self) -> None:
        """End all places, then close the workers."""
        if "workers" not in vars(self):
            return
        with errors_naming_stage(self.workers):
            try:
                for seat in [*self._seats]:
                    self._end(seat)
            finally:
                self.workers.close()
                del self.workers

    def _supply(self, proof: Work) -> None:
        """Ask the workers for places that are lacking, now and then.

        Raises:
            NoPlaceError: No place is left, and none can come.
        """
        if monotonic() >= self._supply_at:
            self._supply_at = monotonic() + SECONDS_BETWEEN_SUPPLIES
            free = sum(seat.job is None for seat in self._seats)
            most = len(self._waiting) + len(self._alone) - free
            wanted = most if self._most is None else min(most, self._most - len(self._seats))
            if wanted > 0 and self._unfit_in_a_row < UNFIT_IN_A_ROW:
                with errors_naming_stage(self.workers):
                    for place in self.workers.supply(wanted):
                        self._seats.append(seat := _Seat(place))
                        self._submit(seat, proof, None)
        if not self._seats:
            raise NoPlaceError(self._why_no_place())

    def _why_no_place(self) -> str:
        left = len(self._waiting) + len(self._alone)
        reasons = [f"{reason}{f' ({number} times)' if number > 1 else ''}" for reason, number in self._reasons.items()]
        return "\n".join([f"There is no place left to work at, and {left} pieces of work are left.", *reasons])

    def _assign(self, work: Work) -> None:
        """Give each place that is ready an item."""
        for seat in self._seats:
            if seat.is_ready and (job := self._next_for(seat)) is not None:
                self._submit(seat, work, job)
        if self._alone and not self._waiting and not any(seat.job for seat in self._seats):
            job = self._alone[0]
            ready = sorted((seat for seat in self._seats if seat.is_ready), key=lambda seat: seat.where == job.avoid)
            if ready:
                self._submit(ready[0], work, self._alone.popleft(), alone=True)

    def _next_for(self, seat: _Seat) -> _Job | None:
        """Take the first item that was not lost where this place is, unless all places are there."""
        others = any(other.where != seat.where for other in self._seats)
        for job in self._waiting:
            if job.avoid != seat.where or not others:
                self._waiting.remove(job)
                return job
        return None

    def _submit(self, seat: _Seat, work: Work, job: _Job | None, *, alone: bool = False) -> None:
        """Submit an item to a place, or its proof.

        Args:
            seat: The place.
            work: The function.
            job: The item; ``None`` for the proof.
            alone: Whether nothing else runs.
        """
        place, advice = seat.place, "" if alone else seat.place.advice
        item = None if job is None else job.item if self._claim is None else self._claim(job.item)
        with errors_naming_stage(self.workers):
            task = Task(work, item, place.threads, place.device, advice)
            seat.job, seat.future = job, place.submit(task)

    def _next_answers(self) -> list[_Seat]:
        """Wait for an answer, or for some seconds, and give the places that have answered or ended."""
        owed = {seat.future: seat for seat in self._seats if seat.future is not None}
        done = wait(owed, timeout=SECONDS_BETWEEN_SUPPLIES, return_when=FIRST_COMPLETED).done
        return [seat for future, seat in owed.items() if future in done]

    def _outcome(self, seat: _Seat) -> Outcome[Any] | None:
        """Take the answer of a place: the outcome of its item; ``None`` if that was a proof, or is to be retried.

        Raises:
            StorageError: The disk is full.
        """
        future, job = seat.future, seat.job
        if future is None:
            return None
        alone = not any(other.job for other in self._seats if other is not seat)
        seat.future = seat.job = None
        try:
            answer = future.result()
        except Exception as error:  # noqa: BLE001  # whatever it is, the place has ended
            self._note_end(seat, error)
            return None if job is None else self._lost(seat, job, _as_place_error(seat, error), alone=alone)
        if job is None:
            self._take_proof(seat, answer)
            return None
        if isinstance(answer.error, StorageError):
            raise answer.error
        if answer.lost:
            self._end(seat)
        if answer.error is not None and (answer.lost or _of_machine(answer.error)):
            return self._lost(seat, job, answer.error, alone=alone)
        return Outcome(job.item, answer.error, answer.value)

    def _take_proof(self, seat: _Seat, answer: Answer) -> None:
        """Let a place work, or exclude it.

        Raises:
            Exception: The error of a place on this machine, where every other place would fail alike.
        """
        if answer.error is None:
            seat.report, self._unfit_in_a_row = answer.value, 0
            return
        if not self.workers.elsewhere:
            raise answer.error
        self._unfit_in_a_row += 1
        reason = f"{seat.place.name} is excluded: {answer.error}"
        self._reasons[reason] += 1
        self._report(reason)
        with errors_naming_stage(self.workers):
            self.workers.exclude(seat.place, str(answer.error))
        self._end(seat)

    def _note_end(self, seat: _Seat, error: Exception) -> None:
        """Note that a place has ended, so that another one is supplied."""
        reason = f"{seat.place.name} has ended: {error}"
        self._reasons[reason] += 1
        self._report(reason)
        self._unfit_in_a_row += seat.report is None and not isinstance(error, PreemptedError)
        self._end(seat)

    def _lost(self, seat: _Seat, job: _Job, error: Exception, *, alone: bool) -> Outcome[Any] | None:
        """Decide whether an item is retried; if not, give its outcome."""
        job.avoid = seat.where
        if isinstance(error, KilledError) or _of_machine(error):
            if alone:
                return Outcome(job.item, error)
            self._alone.append(job)
            logger.warning("%s is retried alone when all others are done: %s", job.item.name, error)
            self._save_memory(seat)
            return None
        job.tries += not isinstance(error, PreemptedError)
        if job.tries >= TRIES:
            return Outcome(job.item, error)
        self._waiting.append(job)
        logger.warning("%s is retried: %s", job.item.name, error)
        return None

    def _save_memory(self, seat: _Seat) -> None:
        """Let fewer places work on a machine with too little memory for all; none, if there are other machines."""
        others = [other for other in self._seats if other is not seat and other.report is not None]
        if any(other.where[0] == seat.where[0] for other in others):
            self._most = len(self._seats) - (seat in self._seats)
            logger.warning("From now on there is one place less: %d.", self._most)
        elif others:
            with errors_naming_stage(self.workers):
                self.workers.exclude(seat.place, "Its memory is too small for the work.")
        else:
            return
        if seat in self._seats:
            self._end(seat)

    def _end(self, seat: _Seat) -> None:
        self._seats.remove(seat)
        self._supply_at = 0.0
        seat.place.end()


def scheduler_of(settings: Settings, report: Callable[[str], None] = logger.warning) -> Scheduler:
    """Make the scheduler of a command.

    Args:
        settings: The configuration, which names the workers.
        report: Receives a line about each place that is excluded or has ended.
    """
    return Scheduler(partial(settings.stages["workers"].build, Workers), report)


def _of_machine(error: Exception) -> bool:
    """Whether the memory of the machine ran out, which all its places share."""
    return isinstance(error, OutOfMemoryError) and error.of_machine


def _as_place_error(seat: _Seat, error: Exception) -> PlaceError:
    """Give the error of a place that has ended, with its name."""
    kind = type(error) if isinstance(error, PlaceError) else PlaceError
    return kind(f"{seat.place.name} has ended: {error}")
