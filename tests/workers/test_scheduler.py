"""Every item ends once, whatever becomes of the places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

import pytest
import torch

from anomalib_tiled.errors import ConfigurationError, NoPlaceError, OutOfMemoryError, StageError, StorageError
from anomalib_tiled.stages.workers import Conditions, KilledError, Place, PlaceError, PreemptedError
from anomalib_tiled.workers.queue import PREEMPTIONS, TRIES, Job, Queue
from anomalib_tiled.workers.scheduler import UNFIT_IN_A_ROW
from anomalib_tiled.workers.task import Answer

if TYPE_CHECKING:
    from conftest import Bench, ScriptedPlace

NAMES = [f"item{number:02}" for number in range(12)]
DONE = {name: name.upper() for name in NAMES}
FAILED_GPU = Answer(error=torch.AcceleratorError("CUDA error: device-side assert triggered"), lost=True)
ENDED = PlaceError("it has crashed")
KILLED = KilledError("it was killed")
SHORT = Answer(error=OutOfMemoryError("The memory of the machine ran out."))
SHORT.error.of_machine = True
HERE = [("here", None)] * 2


def test_each_item_is_done_once_at_one_of_the_places(bench: Bench) -> None:
    engine = bench.use()
    assert bench.run(*NAMES) == DONE
    assert engine.given[:2] == [("place 1", "proof"), ("place 2", "proof")]
    assert sorted(item for _, item in engine.given[2:]) == NAMES
    assert engine.items_of("place 1")
    assert engine.items_of("place 2")
    assert bench.reports == []


def test_a_place_that_is_over_is_replaced_without_a_word(bench: Bench) -> None:
    def over_after_two(place: ScriptedPlace, item: str) -> None:
        place.is_over = place.tasks > 2

    engine = bench.use(over_after_two, [("a", None)])
    assert bench.run(*NAMES[:6]) == {name: name.upper() for name in NAMES[:6]}
    assert [len(engine.items_of(f"place {number}")) for number in (1, 2, 3)] == [2, 2, 2]
    assert bench.reports == []


def test_there_may_be_nothing_to_do(bench: Bench) -> None:
    engine = bench.use()
    assert bench.run() == {}
    assert engine.places == []


def test_no_more_places_are_wanted_than_items_wait(bench: Bench) -> None:
    engine = bench.use(where=[("a", None)] * 9)
    bench.run("x", "y", "z")
    assert engine.wanted == [3]


def test_an_item_that_fails_stops_no_other_and_is_not_retried(bench: Bench) -> None:
    error = ValueError("out of luck")
    engine = bench.use(lambda _, item: Answer(error=error) if item == "item03" else None)
    assert bench.run(*NAMES) == {**DONE, "item03": error}
    assert [item for _, item in engine.given].count("item03") == 1


def test_a_full_disk_stops_all(bench: Bench) -> None:
    engine = bench.use(lambda _, item: Answer(error=StorageError("No space left.")) if item == "item01" else None)
    with pytest.raises(StorageError, match=r"^No space left\.$"):
        bench.run(*NAMES)
    assert len(engine.given) <= 2 + 4
    assert engine.busy == 0


@pytest.mark.parametrize("ending", [FAILED_GPU, ENDED, CancelledError(), SystemExit(3)])
@pytest.mark.parametrize("where", [[("a", None), ("b", None)], [("a", 0), ("a", 1)]])
def test_an_item_that_a_place_loses_is_retried_elsewhere_at_once(
    bench: Bench, where: list[tuple[str, int | None]], ending: Answer | BaseException
) -> None:
    engine = bench.use(
        lambda place, item: ending if item != "proof" and (place.host, place.device) == where[0] else None, where
    )
    assert bench.run(*NAMES) == DONE
    sick = [place.name for place in engine.places if (place.host, place.device) == where[0]]
    lost = [item for name in sick for item in engine.items_of(name)]
    assert len(lost) == len(set(lost)) >= 1, "none returns to where it was lost"
    good = engine.items_of("place 2")
    assert good.index(lost[0]) == 1, "it is the next one there"


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        (ENDED, "has ended: it has crashed"),
        (CancelledError(), "has ended: CancelledError: "),
        (FAILED_GPU, "CUDA error: device-side assert triggered"),
    ],
)
@pytest.mark.parametrize("where", [[("a", None)], [("a", 0), ("b", 0)], HERE])
def test_each_item_is_tried_three_times(
    bench: Bench, where: list[tuple[str, int | None]], ending: object, message: str
) -> None:
    engine = bench.use(lambda _, item: None if item == "proof" else ending, where)
    errors = bench.run(*NAMES)
    assert all(message in str(error) for error in errors.values())
    tries = Counter(item for _, item in engine.given)
    assert {item: tries[item] for item in NAMES} == dict.fromkeys(NAMES, TRIES)


def test_an_error_names_its_place(bench: Bench) -> None:
    bench.use(lambda _, item: None if item == "proof" else ENDED, [("a", None)])
    error = bench.run("x")["x"]
    assert type(error) is PlaceError
    assert str(error) == "place 3 has ended: it has crashed"
    assert bench.reports == [f"place {number} has ended: it has crashed" for number in (1, 2, 3)]


def test_a_place_that_is_taken_back_costs_no_try(bench: Bench) -> None:
    engine = bench.use(
        lambda place, item: PreemptedError("its time is over") if item != "proof" and len(engine.places) < 9 else None,
        [("a", None)],
    )
    assert bench.run("x") == {"x": "X"}
    assert len(engine.places) == 9 > TRIES


def test_work_that_takes_longer_than_places_live_is_given_up(bench: Bench) -> None:
    engine = bench.use(lambda _, item: None if item == "proof" else PreemptedError("its time is over"))
    error = bench.run("x")["x"]
    assert isinstance(error, PreemptedError)
    assert [item for _, item in engine.given].count("x") == PREEMPTIONS


@pytest.mark.parametrize("ending", [KILLED, SHORT])
@pytest.mark.parametrize("room", [1, 3])
@pytest.mark.parametrize("where", [[("here", None)] * 4, [("here", 0), ("here", 0), ("here", 1), ("here", 1)]])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_where_memory_is_short_there_are_fewer_places(  # all combinations of them
    bench: Bench,
    room: int,
    ending: object,
    where: list[tuple[str, int | None]],
    elsewhere: bool,  # noqa: FBT001
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = bench.use(
        lambda _, item: ending if engine.busy > room and item != "proof" else None, where, elsewhere=elsewhere
    )
    assert bench.run(*NAMES) == DONE
    tries = [item for _, item in engine.given if item != "proof"]
    assert len(tries) == len(NAMES) + 4 - room, "each that was one too many costs one try"
    assert engine.excluded == []
    error = "place 1 has ended: it was killed" if ending is KILLED else SHORT.error
    assert caplog.messages[0] == f"item00 is retried alone when all others are done: {error}"
    assert caplog.messages[1] == "From now on there is one place less: 3."
    assert len([place for place in engine.places if place.name in {name for name, _ in engine.given}]) == 4


@pytest.mark.parametrize("large", [NAMES[0], NAMES[-1]])
def test_an_item_that_is_too_large_is_reported_after_a_try_without_others(bench: Bench, large: str) -> None:
    alone = []

    def fate(place: ScriptedPlace, item: str) -> Answer | None:
        if item != large:
            return None
        alone.append((engine.busy, sum(not each.is_ended for each in engine.places)))
        return SHORT

    engine = bench.use(fate, [("here", None)] * 4, elsewhere=False)
    assert bench.run(*NAMES) == {**DONE, large: SHORT.error}
    assert len(alone) == 2
    assert alone[1] == (1, 1), "nothing else runs, and no idle place takes memory"


@pytest.mark.parametrize(("ending", "tries"), [(SHORT, 1), (KILLED, 2)])
def test_where_there_is_one_place_other_programs_may_have_killed_it(bench: Bench, ending: object, tries: int) -> None:
    engine = bench.use(lambda _, item: ending if item == "item00" else None, HERE[:1], elsewhere=False)
    done = bench.run(*NAMES)
    assert isinstance(done.pop("item00"), Exception)
    assert len(done) == len(NAMES) - 1
    assert [item for _, item in engine.given].count("item00") == tries


def test_a_machine_that_is_too_small_gets_no_more_work(bench: Bench) -> None:
    engine = bench.use(lambda place, item: KILLED if place.host == "a" and item != "proof" else None)
    assert bench.run(*NAMES) == DONE
    assert engine.excluded == [("place 1", "its memory is too small for the work")]
    assert engine.given[-1] == ("place 2", "item00"), "alone, on the other machine"


def test_an_item_that_is_alone_may_lose_its_place(bench: Bench) -> None:
    fates = {"x": [SHORT, PreemptedError("its time is over"), ENDED, None], "y": [None], "proof": [None] * 9}
    bench.use(lambda _, item: fates[item].pop(0), HERE)
    assert bench.run("x", "y") == {"x": "X", "y": "Y"}


def test_a_place_that_fails_its_proof_is_excluded_and_costs_no_try(bench: Bench) -> None:
    unfit = Answer(error=ConfigurationError("torch must have version 2.9."))
    engine = bench.use(lambda place, item: unfit if place.host == "a" and item == "proof" else None)
    assert bench.run(*NAMES) == DONE
    assert engine.excluded == [("place 1", "torch must have version 2.9.")]
    assert engine.items_of("place 1") == []
    assert bench.reports == ["place 1 is excluded: torch must have version 2.9."]


def test_on_this_machine_a_proof_that_fails_is_an_error(bench: Bench) -> None:
    bench.use(lambda *_: Answer(error=ConfigurationError("no such device")), HERE, elsewhere=False)
    with pytest.raises(ConfigurationError, match=r"^no such device$"):
        bench.run(*NAMES)
    assert len(bench.engine.ended) == 2


def test_on_this_machine_a_gpu_that_fails_leaves_the_others(bench: Bench) -> None:
    engine = bench.use(
        lambda place, _: FAILED_GPU if place.device == 0 else None, [("h", 0), ("h", 1)], elsewhere=False
    )
    assert bench.run(*NAMES) == DONE
    assert {name for name, item in engine.given if item != "proof"} == {"place 2"}


def test_if_no_place_is_left_the_error_says_why(bench: Bench) -> None:
    endings = {"a": Answer(error=ValueError("no folder")), "b": ENDED}
    engine = bench.use()
    engine.fate = lambda place, item: endings[place.host] if place.host == "a" or item == "y" else None
    outcomes = bench.outcomes("x", "y", "z")
    assert next(outcomes).item.name == "x"
    engine.where = []
    with pytest.raises(NoPlaceError) as raised:
        next(outcomes)
    assert str(raised.value).splitlines() == [
        "There is no place to work at any more, and 2 pieces of work are left.",
        "place 1: ValueError: no folder",
        "place 2: it has crashed",
    ]


def test_after_many_unfit_places_no_more_are_asked_for(bench: Bench) -> None:
    engine = bench.use(lambda _, item: ENDED if item == "proof" else None, [("a", None)])
    with pytest.raises(NoPlaceError, match=r"places? 1, place 2, place 3 and 7 more: it has crashed"):
        bench.run(*NAMES)
    assert len(engine.places) == UNFIT_IN_A_ROW
    engine.fate = lambda *_: None
    assert bench.run("x") == {"x": "X"}, "other work begins anew"


def test_places_that_are_taken_back_while_they_start_are_not_unfit(bench: Bench) -> None:
    engine = bench.use(lambda *_: PreemptedError("") if len(engine.places) <= UNFIT_IN_A_ROW else None, [("a", None)])
    assert bench.run("x") == {"x": "X"}


def test_places_that_join_later_are_used(bench: Bench) -> None:
    engine = bench.use(where=[("a", None)])
    for number, _ in enumerate(bench.outcomes(*NAMES)):
        if number == 2:
            engine.where.append(("b", None))
    assert len(engine.items_of("place 2")) >= 3


def test_no_item_waits_for_a_place_that_is_still_starting(bench: Bench) -> None:
    engine = bench.use(lambda place, item: None, [("a", None)])
    engine.fate = lambda place, item: ENDED if place.name == "place 1" and item != "proof" else None
    answer = engine.answer

    def all_but_b() -> object:
        engine.pending.sort(key=lambda each: each[1].host)
        return answer()

    engine.answer, engine.where = all_but_b, [("a", None), ("b", None)]
    assert bench.run("x", "y", "z") == {"x": "X", "y": "Y", "z": "Z"}
    assert [name for name, item in engine.given if item == "x"] == ["place 1", "place 3"]


def test_places_elsewhere_are_kept_for_later_work(bench: Bench) -> None:
    engine = bench.use()
    assert bench.run(*NAMES) == bench.run(*NAMES) == DONE
    assert len(engine.places) == 2
    assert engine.ended == []
    assert [item for _, item in engine.given].count("proof") == 2
    bench.scheduler.close()
    assert engine.ended == ["place 2", "place 1"]


def test_places_here_are_ended_after_the_work(bench: Bench) -> None:
    engine = bench.use(where=HERE, elsewhere=False)
    assert bench.run(*NAMES) == DONE
    assert sorted(engine.ended) == ["place 1", "place 2"]
    assert bench.run("x") == {"x": "X"}
    assert len(engine.places) == 3


def test_the_end_of_a_place_that_was_idle_costs_no_try(bench: Bench) -> None:
    engine = bench.use(where=[("a", None)])
    bench.run("x")
    engine.fate = lambda place, item: (
        ENDED if item != "proof" and place.name in {"place 1", "place 2", "place 3"} else None
    )
    assert bench.run("y") == {"y": "Y"}
    assert [name for name, item in engine.given if item == "y"] == ["place 1", "place 2", "place 3", "place 4"]


def test_a_place_that_still_starts_is_used_by_later_work(bench: Bench) -> None:
    engine = bench.use(where=[("a", None)])
    engine.where.append(("b", None))
    answer = engine.answer
    engine.answer = lambda: (engine.pending.sort(key=lambda each: each[1].host), answer())[1]
    assert bench.run("x", "y") == {"x": "X", "y": "Y"}
    assert engine.items_of("place 2") == []
    assert bench.scheduler.describe_places() == "on 1 places, 1 starting"
    engine.answer = answer
    assert bench.run(*NAMES) == DONE
    assert engine.items_of("place 2")
    assert len(engine.places) == 2


def test_closing_the_outcomes_ends_the_places_that_work(bench: Bench) -> None:
    engine = bench.use()
    outcomes = bench.outcomes(*NAMES)
    next(outcomes)
    outcomes.close()
    assert engine.busy == 0
    assert len(engine.ended) >= 1
    assert bench.run("x") == {"x": "X"}


def test_closing_ends_everything_once(bench: Bench) -> None:
    engine = bench.use()
    bench.scheduler.close()
    assert engine.closed == 0, "workers that nobody needed are not even made"
    bench.run("x")
    bench.scheduler.close()
    bench.scheduler.close()
    assert engine.closed == 1
    assert all(place.is_ended for place in engine.places)


def test_a_place_that_cannot_be_ended_keeps_no_other_from_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = bench.use()
    bench.run(*NAMES)

    def fail() -> None:
        message = "no connection"
        raise OSError(message)

    monkeypatch.setattr(engine.places[1], "end", fail)
    with pytest.raises(StageError, match=r"^workers Engine \(.*\) failed: OSError: no connection\. Fix it"):
        bench.scheduler.close()
    assert engine.ended == ["place 1"]
    assert engine.closed == 1


@pytest.mark.parametrize("method", ["adapt", "start", "supply", "exclude", "close"])
def test_workers_that_raise_are_named(bench: Bench, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = bench.use(lambda *_: Answer(error=ValueError("unfit")) if method == "exclude" else None)

    def fail(*_: object) -> None:
        message = "no cluster"
        raise RuntimeError(message)

    monkeypatch.setattr(engine, method, fail)

    def command() -> None:
        bench.scheduler.start(Conditions())
        bench.run("x")
        bench.scheduler.close()

    with pytest.raises(StageError, match=r"^workers Engine \(.*\) failed: RuntimeError: no cluster\. Fix it"):
        command()


def test_what_workers_say_of_the_configuration_is_for_the_user(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(wanted: int) -> Sequence[Place]:
        message = "workers.init_args.address must be an address."
        raise ConfigurationError(message)

    monkeypatch.setattr(bench.use(), "supply", refuse)
    with pytest.raises(ConfigurationError, match=r"^workers\.init_args\.address must be an address\.$"):
        bench.run("x")


def test_workers_must_not_supply_more_than_is_wanted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = bench.use(where=HERE)
    monkeypatch.setattr(engine, "supply", lambda _: type(engine).supply(engine, 2))
    with pytest.raises(
        StageError, match=r"^workers Engine .* must supply at most 1 places, but supplied 2\. Fix it\.$"
    ):
        bench.run("x")
    bench.scheduler.close()
    assert len(engine.ended) == 2


def test_a_place_that_takes_no_task_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = bench.use()
    monkeypatch.setattr(engine, "supply", lambda _: [None])
    with pytest.raises(StageError, match=r"^workers Engine .* failed: AttributeError: "):
        bench.run("x")


@pytest.mark.parametrize(
    ("where", "elsewhere", "said"),
    [(HERE, False, "on 2 places"), (HERE[:1], False, ""), (HERE[:1], True, "on 1 places")],
)
def test_the_progress_bar_says_how_many_places_there_are(
    bench: Bench,
    where: list[tuple[str, int | None]],
    elsewhere: bool,  # noqa: FBT001
    said: str,
) -> None:
    bench.use(where=where, elsewhere=elsewhere)
    outcomes = bench.outcomes(*NAMES)
    next(outcomes)
    assert bench.scheduler.describe_places() == said
    outcomes.close()


def test_lost_items_are_found_without_looking_at_all_others() -> None:
    queue = Queue([])
    queue.waiting.extend(jobs := [Job(None, lost_at=("a", None)), *(Job(None) for _ in range(3))])
    assert queue.next_for(("a", None), others=True) is jobs[1]
    assert queue.next_for(("a", None), others=False) is jobs[0]
    assert len(queue) == 2
