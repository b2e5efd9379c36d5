"""Places that end, are taken back, fail their proof and join at random: every item ends once, with its own value."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from random import Random
from threading import Lock

import pytest
import torch

from anomalib_tiled.errors import NoPlaceError, OutOfMemoryError
from anomalib_tiled.stages.workers import Conditions, KilledError, Place, PlaceError, PreemptedError, Result, Workers
from anomalib_tiled.workers import scheduler as module
from anomalib_tiled.workers.proof import PlaceReport, Proof
from anomalib_tiled.workers.queue import PREEMPTIONS, TRIES
from anomalib_tiled.workers.scheduler import Scheduler, Terms
from anomalib_tiled.workers.task import Answer, Task, Work

SCENARIOS = 200
PARTS = 4
SHORT = OutOfMemoryError("The memory of the machine ran out.")
SHORT.of_machine = True
ENDINGS: tuple[object, ...] = (
    PlaceError("crashed"),
    KilledError("killed"),
    PreemptedError("taken back"),
    OSError("no route"),
    SystemExit(1),
    Answer(error=SHORT),
    Answer(error=torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), lost=True),
    Answer(error=ValueError("out of luck")),
)
UNFIT = (Answer(error=ValueError("no folder")), PlaceError("never started"), PreemptedError("taken back"))


@dataclass(frozen=True)
class Item:
    name: str


def shout(item: Item, *, device: int | None = None) -> str:
    return item.name.upper()


class Cluster(Workers):
    """Machines that come and go; each place answers in a thread."""

    def __init__(self, chance: Random) -> None:
        self.chance, self.lock = chance, Lock()
        self.elsewhere = chance.random() < 0.8
        self.risk = chance.choice([0.0, 0.1, 0.3, 0.6])
        self.unfit = chance.choice([0.0, 0.2, 0.9]) if self.elsewhere else 0.0
        self.hosts = chance.randint(1, 4)
        self.threads = ThreadPoolExecutor(8)
        self.places: list[RandomPlace] = []
        self.tried: Counter[str] = Counter()

    def supply(self, wanted: int) -> Sequence[Place]:
        with self.lock:
            number = self.chance.randint(0, min(wanted, 4))
            if not any(not place.is_ended for place in self.places) and self.chance.random() < 0.9:
                number = max(1, number)
            new = [RandomPlace(self, f"place {len(self.places) + each}") for each in range(number)]
        self.places += new
        return new

    def close(self) -> None:
        assert all(place.is_ended for place in self.places)
        self.threads.shutdown()


class RandomPlace(Place):
    """Does one task at a time, or ends."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name, self.is_ended, self.is_busy = cluster, name, False, False
        self.host = f"host {cluster.chance.randrange(cluster.hosts)}"
        self.device = cluster.chance.choice([None, 0, 1])

    def submit(self, task: Callable[[], Result]) -> Future[Result]:
        assert not self.is_ended, "it gets no task after its end"
        assert not self.is_busy, "it gets one task at a time"
        self.is_busy = True
        future: Future[Result] = Future()
        self.cluster.threads.submit(self.answer, task, future)
        return future

    def answer(self, task: Task, future: Future[Answer]) -> None:
        with self.cluster.lock:
            ending = self.fate(task)
        self.is_busy = False
        if isinstance(ending, BaseException):
            future.set_exception(ending)
        else:
            future.set_result(ending)

    def fate(self, task: Task) -> object:
        chance, cluster = self.cluster.chance, self.cluster
        if task.item is None:
            fit = Answer(PlaceReport(self.host, "cpu", "x86"))
            return chance.choice(UNFIT) if chance.random() < cluster.unfit else fit
        cluster.tried[task.item.name] += 1
        return chance.choice(ENDINGS) if chance.random() < cluster.risk else task()

    def end(self) -> None:
        assert not self.is_ended, "it is ended once"
        self.is_ended = True


@pytest.mark.parametrize("part", range(PARTS))
def test_every_item_ends_once(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_SUPPLIES", 0.001)
    logging.disable()
    ended_early = 0
    try:
        for seed in range(part, SCENARIOS, PARTS):
            ended_early += scenario(Random(seed))  # noqa: S311  # no secrets
    finally:
        logging.disable(logging.NOTSET)
    assert 0 < ended_early < SCENARIOS / PARTS, "sometimes no place is left, but most end well"


def scenario(chance: Random) -> int:
    """Let a command work twice; give how often no place was left."""
    cluster = Cluster(chance)
    scheduler, left = Scheduler(lambda: cluster, lambda _: None), 0
    with closing(scheduler):
        for work in ("train", "test"):
            cluster.tried.clear()
            items = [Item(f"{work} {number}") for number in range(chance.choice([0, 1, 2, 7, 30]))]
            terms = Terms(Conditions(), Proof({}, None, Work(shout)))
            outcomes = []
            try:
                with closing(scheduler.run(shout, items, terms)) as running:
                    outcomes.extend(running)
            except NoPlaceError as error:
                left, said = left + 1, str(error)
            else:
                said = "and 0 pieces of work are left"
            assert f"and {len(items) - len(outcomes)} pieces of work are left" in said
            names = [outcome.item.name for outcome in outcomes]
            assert len(names) == len({*names}), "none ends twice"
            assert {*names} <= {item.name for item in items}
            for outcome in outcomes:
                assert (outcome.error is None) == (outcome.value == outcome.item.name.upper())
            assert max(cluster.tried.values(), default=0) <= TRIES + PREEMPTIONS + 2 + len(cluster.places)
    return left
