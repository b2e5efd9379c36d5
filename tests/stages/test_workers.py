"""The contract of workers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import pytest

from anomalib_tiled.stages.workers import Conditions, KilledError, Place, PlaceError, PreemptedError, Result, Workers
from anomalib_tiled.workers.local import LocalWorkers, ProcessPlace, ThisProcess


def test_workers_must_supply_places() -> None:
    assert Workers.__abstractmethods__ == {"supply"}, "and nothing else"
    with pytest.raises(TypeError, match="supply"):
        Workers()


def test_a_place_must_take_tasks_and_end() -> None:
    assert Place.__abstractmethods__ == {"submit", "end"}, "and nothing else"


@pytest.mark.parametrize("error", [KilledError, PreemptedError])
def test_every_error_of_a_place_means_that_it_has_ended(error: type[Exception]) -> None:
    assert issubclass(error, PlaceError)


def test_the_built_in_workers_take_what_the_contract_gives() -> None:
    for contract, own in ((Workers, LocalWorkers), (Place, ProcessPlace), (Place, ThisProcess)):
        methods = [name for name, each in vars(contract).items() if inspect.isfunction(each)]
        assert methods
        for method in methods:
            assert inspect.signature(getattr(own, method)) == inspect.signature(getattr(contract, method))


def test_workers_need_nothing_but_places() -> None:
    class Plain(Workers):
        def supply(self, wanted: int) -> Sequence[Place]:
            return [Nowhere()]

    class Nowhere(Place):
        name = "nowhere"

        def submit(self, task: Callable[[], Result]) -> Future[Result]:
            return Future()

        def end(self) -> None:
            pass

    plain = Plain()
    plain.adapt(Conditions(threads=2))
    plain.start()
    (place,) = plain.supply(1)
    plain.exclude(place, "It is nowhere.")
    plain.close()
    assert vars(plain) == {}, "they are as they were"
    assert not plain.elsewhere
    assert (place.threads, place.device, place.advice) == (None, None, "")


@pytest.mark.parametrize(
    ("accelerator", "devices", "free"),
    [
        ("auto", "auto", True),
        ("gpu", "auto", True),
        ("cuda", "auto", True),
        ("cpu", "auto", False),
        ("auto", 1, False),
        ("gpu", [1], False),
        ({"class_path": "lightning.pytorch.accelerators.CPUAccelerator"}, "auto", False),
    ],
)
def test_whether_a_tile_may_be_trained_on_any_gpu(accelerator: object, devices: object, *, free: bool) -> None:
    assert Conditions(accelerator, devices).any_gpu == free
