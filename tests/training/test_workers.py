from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from anomalib_tiled.errors import ConfigurationError, StorageError, TrainingError
from anomalib_tiled.grid import Size, Tile, TileGrid
from anomalib_tiled.training import workers
from anomalib_tiled.training.crew import Place
from anomalib_tiled.training.workers import LocalWorkers
from anomalib_tiled.workers import Outcome

TILES = TileGrid(Size(4, 12), Size(4, 4), Size(4, 4)).tiles


class Training:
    """Trains tiles by noting their names; at the second one it fails in a given way."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.failure = failure
        self.tried: list[str] = []

    def __call__(self, tile: Tile) -> None:
        self.tried.append(tile.name)
        if self.failure is not None and len(self.tried) == 2:
            raise self.failure


def test_tiles_are_trained_in_their_order() -> None:
    training = Training()
    outcomes = list(LocalWorkers(1).train(TILES, training))
    assert outcomes == [Outcome(tile, None) for tile in TILES]
    assert training.tried == ["r00_c00", "r00_c01", "r00_c02"]


def test_each_tile_is_reported_as_it_ends() -> None:
    training = Training()
    outcomes = LocalWorkers(1).train(TILES, training)
    assert training.tried == []
    assert next(outcomes).tile is TILES[0]
    assert training.tried == ["r00_c00"]


def test_no_tiles() -> None:
    assert list(LocalWorkers(1).train([], Training())) == []


@pytest.mark.parametrize("failure", [RuntimeError("out of luck"), TrainingError("out of luck"), OSError("out of luck")])
def test_a_tile_that_fails_does_not_stop_the_others(failure: Exception) -> None:
    training = Training(failure)
    outcomes = list(LocalWorkers(1).train(TILES, training))
    assert [outcome.error for outcome in outcomes] == [None, failure, None]
    assert len(training.tried) == 3


@pytest.mark.parametrize("failure", [StorageError("No space left"), KeyboardInterrupt(), SystemExit(3)])
def test_what_would_stop_every_tile_stops_all(failure: BaseException) -> None:
    training = Training(failure)
    with pytest.raises(type(failure)) as raised:
        list(LocalWorkers(1).train(TILES, training))
    assert raised.value is failure
    assert training.tried == ["r00_c00", "r00_c01"]


@pytest.mark.parametrize("processes", [1, "auto"])
def test_one_process_is_this_one(processes: object) -> None:
    assert list(LocalWorkers(processes).train(TILES[:1], Training())) == [Outcome(TILES[0], None)]


@pytest.mark.parametrize("processes", [0, -1])
def test_there_must_be_a_process(processes: int) -> None:
    message = "workers.init_args.processes must be at least 1 or auto, but is"
    with pytest.raises(ConfigurationError, match=f"^{message} {processes}.$"):
        LocalWorkers(processes)


@pytest.mark.parametrize("devices", [[], [0, -1]])
def test_devices_are_indices(devices: list[int]) -> None:
    message = "workers.init_args.devices must be indices of GPUs, such as [0, 1], or null, but is"
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)} {re.escape(str(devices))}.$"):
        LocalWorkers(1, devices)


@pytest.mark.parametrize(
    ("processes", "devices", "places"),
    [
        (1, None, [Place(4)]),
        (2, None, [Place(2, None, 2), Place(2, None, 2)]),
        (8, None, [Place(1, None, 8)] * 8),
        ("auto", None, [Place(1, None, 3)] * 3),
        ("auto", [1, 3], [Place(2, 1, 2), Place(2, 3, 2)]),
        (3, [1, 3], [Place(1, 1, 3), Place(1, 3, 3), Place(1, 1, 3)]),
        (1, [5], [Place(4, 5)]),
    ],
)
def test_cores_and_devices_are_shared_out(
    monkeypatch: pytest.MonkeyPatch, processes: int | str, devices: list[int] | None, places: list[Place]
) -> None:
    seen: list[Place] = []

    def note(tiles: object, train_tile: object, given: list[Place]) -> Iterator[Outcome]:
        seen.extend(given)
        return iter([])

    monkeypatch.setattr(workers, "cores", lambda: 4)
    monkeypatch.setattr(workers.torch.accelerator, "device_count", lambda: 6)
    monkeypatch.setattr(workers, "available_memory", lambda: 3 * workers.MEMORY_OF_A_PROCESS)
    monkeypatch.setattr(workers, "train_side_by_side", note)
    monkeypatch.setattr(Place, "attempt", lambda place, *_: seen.append(place))
    list(LocalWorkers(processes, devices).train(TILES[:1], Training()))
    assert seen == places


def test_a_fit_needs_every_device_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.torch.accelerator, "device_count", lambda: 2)
    LocalWorkers(1, [0, 1]).start()
    with pytest.raises(
        ConfigurationError, match=r"workers\.init_args\.devices names 2, 4, but this machine has 2 GPUs"
    ):
        LocalWorkers(1, [1, 2, 4]).start()


@pytest.mark.parametrize(("there", "devices"), [(2, [1, 1, 1]), (0, [None, None, None])])
def test_a_machine_with_fewer_devices_predicts_on_those_it_has(
    monkeypatch: pytest.MonkeyPatch, there: int, devices: list[int | None]
) -> None:
    monkeypatch.setattr(workers.torch.accelerator, "device_count", lambda: there)
    assert [place.device for place in LocalWorkers(3, [1, 2])._places()] == devices
