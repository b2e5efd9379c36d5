"""An engine whose places do what a test says, one answer after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from anomalib_tiled.stages.workers import Conditions, Place, Result, Workers
from anomalib_tiled.workers import scheduler as module
from anomalib_tiled.workers.proof import PlaceReport, Proof
from anomalib_tiled.workers.scheduler import Outcome, Scheduler, Terms
from anomalib_tiled.workers.task import Answer, Task, Work

Fate = Callable[["ScriptedPlace", str], object]
PROOF = "proof"


@dataclass(frozen=True)
class Item:
    """What work is done on."""

    name: str


def shout(item: Item, *, device: int | None = None) -> str:
    return item.name.upper()


TERMS = Terms(Conditions(), Proof({}, None, Work(shout)))


class ScriptedPlace(Place):
    """A place of an `Engine`."""

    def __init__(self, engine: Engine, number: int, host: str, device: int | None) -> None:
        self.engine, self.name, self.host, self.device = engine, f"place {number}", host, device
        self.tasks, self.is_ended = 0, False

    def submit(self, task: Callable[[], Result]) -> Future[Result]:
        self.engine.given.append((self.name, task.item.name if self.tasks else PROOF))
        self.engine.pending.append((future := Future(), self, task))
        self.tasks += 1
        return future

    def end(self) -> None:
        self.is_ended = True
        self.engine.ended.append(self.name)


class Engine(Workers):
    """Supplies a place for each machine and GPU that has none.

    Args:
        fate: What becomes of a place and the name of an item, or ``proof``: an exception ends the place, an `Answer` is
            given, ``None`` does the task.
        where: Machines and GPUs.
        elsewhere: Whether these are other machines.
    """

    def __init__(self, fate: Fate, where: Sequence[tuple[str, int | None]], *, elsewhere: bool) -> None:
        self.fate, self.where, self.elsewhere = fate, [*where], elsewhere
        self.places: list[ScriptedPlace] = []
        self.pending: list[tuple[Future[Answer], ScriptedPlace, Task]] = []
        self.given: list[tuple[str, str]] = []
        self.ended: list[str] = []
        self.excluded: list[tuple[str, str]] = []
        self.wanted: list[int] = []
        self.closed = 0

    def supply(self, wanted: int) -> Sequence[Place]:
        self.wanted.append(wanted)
        taken = [(place.host, place.device) for place in self.places if not place.is_ended]
        free = [each for each in self.where if each not in taken or taken.remove(each)]
        new = [ScriptedPlace(self, len(self.places) + number, *each) for number, each in enumerate(free[:wanted], 1)]
        self.places += new
        return new

    def exclude(self, place: Place, reason: str) -> None:
        self.excluded.append((place.name, reason))
        self.where = [each for each in self.where if each[0] != place.host]

    def close(self) -> None:
        self.closed += 1

    @property
    def busy(self) -> int:
        """Number of places that work on an item now."""
        return sum(task.item is not None for _, place, task in self.pending if not place.is_ended)

    def answer(self) -> Future[Answer]:
        """Let the place that has worked longest answer."""
        self.pending = [each for each in self.pending if not each[1].is_ended]
        future, place, task = self.pending[0]
        name = PROOF if task.item is None else task.item.name
        fate = self.fate(place, name)
        self.pending.pop(0)
        if isinstance(fate, BaseException):
            future.set_exception(fate)
        elif fate is None and name == PROOF:
            future.set_result(Answer(PlaceReport(place.host, "cpu", "x86")))
        else:
            future.set_result(task() if fate is None else fate)
        return future

    def items_of(self, place: str) -> list[str]:
        """Names of the items that a place has been given, in their order."""
        return [item for name, item in self.given if name == place and item != PROOF]


class Bench:
    """A scheduler with an `Engine`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reports: list[str] = []
        self.engine: Engine
        self.scheduler: Scheduler
        monkeypatch.setattr(module, "SECONDS_BETWEEN_SUPPLIES", 0.0)
        monkeypatch.setattr(module, "wait", lambda *_, **__: SimpleNamespace(done=[self.engine.answer()]))

    def use(
        self, fate: Fate = lambda *_: None, where: Sequence[tuple[str, int | None]] = (), *, elsewhere: bool = True
    ) -> Engine:
        """Make the engine; two machines, unless others are given."""
        self.engine = Engine(fate, where or [("a", None), ("b", None)], elsewhere=elsewhere)
        self.scheduler = Scheduler(lambda: self.engine, self.reports.append)
        return self.engine

    def outcomes(self, *names: str) -> Iterator[Outcome[Item]]:
        """Begin to work on items."""
        return self.scheduler.run(shout, [*map(Item, names)], TERMS)

    def run(self, *names: str) -> dict[str, object]:
        """Work on items, each of which must end once; give value or error of each."""
        with closing(self.outcomes(*names)) as outcomes:
            done = [*outcomes]
        assert sorted(outcome.item.name for outcome in done) == sorted(names)
        return {outcome.item.name: outcome.error or outcome.value for outcome in done}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A scheduler whose places do what a test says."""
    return Bench(monkeypatch)
