"""What the scheduler does before it hands out work and takes results: claim the item, check that it may go on."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import pytest

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.stages.workers import Conditions, Place, PlaceError, Result, Workers
from anomalib_tiled.workers.proof import Proof
from anomalib_tiled.workers.scheduler import Scheduler, Terms
from anomalib_tiled.workers.task import Work


@dataclass(frozen=True)
class Named:
    name: str


def look(item: None, *, device: int | None = None) -> str:
    return "cpu"


def said(item: str) -> str:
    return item


class PlaceThatEnds(Place):
    """Proves itself, then ends with its first item, if it is the first place."""

    def __init__(self, workers: Workers, number: int) -> None:
        self.name, self.workers, self.number, self.tasks = f"place {number}", workers, number, 0

    def submit(self, task: Callable[[], Result]) -> Future[Result]:
        future: Future[Result] = Future()
        self.tasks += 1
        if self.number == 1 and self.tasks == 2:
            future.set_exception(PlaceError("its machine has failed"))
        else:
            future.set_result(pickle.loads(pickle.dumps(task))())  # noqa: S301  # pickled here
        return future

    def end(self) -> None:
        pass


class BothPlaces(Workers):
    """Supplies two places at once."""

    def supply(self, wanted: int) -> Sequence[Place]:
        return [PlaceThatEnds(self, number) for number in (2, 3)][:wanted]


class TwoPlaces(Workers):
    """Supplies one place after the other."""

    supplied = 0

    def supply(self, wanted: int) -> Sequence[Place]:
        self.supplied += 1
        return [PlaceThatEnds(self, self.supplied)][:wanted]


TERMS = (Conditions(), Proof({}, None, Work(look)))


def test_each_try_is_claimed_anew() -> None:
    claimed: list[str] = []

    def claim(item: Named) -> str:
        claimed.append(f"{item.name}, try {len(claimed) + 1}")
        return claimed[-1]

    outcomes = [*Scheduler(TwoPlaces).run(said, [Named("r00_c00")], Terms(*TERMS, claim))]
    assert claimed == ["r00_c00, try 1", "r00_c00, try 2"]
    assert [(outcome.item.name, outcome.value) for outcome in outcomes] == [("r00_c00", claimed[1])]


def test_nothing_is_claimed_once_the_command_must_stop() -> None:
    def check() -> None:
        if claimed:
            message = "was taken over"
            raise RunFolderError(message)

    def claim(item: Named) -> str:
        claimed.append(item.name)
        return item.name

    scheduler, claimed = Scheduler(BothPlaces), []
    items = [Named("r00_c00"), Named("r00_c01")]
    with scheduler.checking(check), pytest.raises(RunFolderError, match="was taken over"):
        list(scheduler.run(said, items, Terms(*TERMS, claim)))
    assert claimed == ["r00_c00"]


def test_no_result_is_taken_once_the_command_must_stop() -> None:
    stopped = False

    def check() -> None:
        if stopped:
            message = "was taken over"
            raise RunFolderError(message)

    def claim(item: Named) -> str:
        nonlocal stopped
        stopped = item.name == "r00_c01"
        return item.name

    scheduler, done = Scheduler(TwoPlaces), []
    items = [Named("r00_c00"), Named("r00_c01"), Named("r00_c02")]
    with scheduler.checking(check), pytest.raises(RunFolderError, match="was taken over"):
        done.extend(outcome.value for outcome in scheduler.run(said, items, Terms(*TERMS, claim)))
    assert done == ["r00_c00"], "before the next item was claimed"
    assert [outcome.value for outcome in scheduler.run(said, items[:1], Terms(*TERMS))] == [items[0]], "it may go on"
