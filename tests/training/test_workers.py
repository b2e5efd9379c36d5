from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from anomalib_tiled.errors import ConfigurationError, StorageError, TrainingError
from anomalib_tiled.grid import Size, Tile, TileGrid
from anomalib_tiled.stages.workers import Conditions, Outcome
from anomalib_tiled.system import fork_server
from anomalib_tiled.training import workers
from anomalib_tiled.training.worker_pool import Slot
from anomalib_tiled.training.workers import LocalWorkers

TILES = TileGrid(Size(4, 12), Size(4, 4), Size(4, 4)).tiles
MANY = TileGrid(Size(4, 64), Size(4, 4), Size(4, 4)).tiles


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


@pytest.mark.parametrize("processes", [0, -1, 10**9])
def test_there_must_be_a_process(processes: int) -> None:
    message = "workers.init_args.processes must be at least 1 or auto, and at most 1000, but is"
    with pytest.raises(ConfigurationError, match=f"^{message} {processes}.$"):
        LocalWorkers(processes)


@pytest.mark.parametrize("devices", [[], [0, -1]])
def test_devices_are_indices(devices: list[int]) -> None:
    message = "workers.init_args.devices must be indices of GPUs, such as [0, 1], or null, but is"
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)} {re.escape(str(devices))}.$"):
        LocalWorkers(1, devices)


class Machine:
    """A machine of which workers take shares: cores, threads that PyTorch may use, GPUs, processes that memory is for.

    Gives the slots in which workers would train a number of tiles.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[Slot] = []
        self.cores, self.threads, self.gpus, self.memory = 4, 64, 0, 64
        monkeypatch.setattr(workers, "cores", lambda: self.cores)
        monkeypatch.setattr(fork_server, "cores", lambda: self.cores)
        monkeypatch.setattr(fork_server, "available_memory", lambda: self.memory * fork_server.MEMORY_OF_A_WORKER)
        monkeypatch.setattr(workers.torch, "get_num_threads", lambda: self.threads)
        monkeypatch.setattr(workers.torch.cuda, "device_count", lambda: self.gpus)
        monkeypatch.setattr(workers.torch.accelerator, "device_count", lambda: self.gpus)
        monkeypatch.setattr(workers.torch.accelerator, "is_available", lambda: self.gpus > 0)
        monkeypatch.setattr(workers, "train_side_by_side", self.note)
        monkeypatch.setattr(Slot, "attempt", lambda slot, *_: self.note(None, None, [slot]))

    def note(self, tiles: object, train_tile: object, given: list[Slot]) -> Iterator[Outcome]:
        self.seen = given
        return iter([])

    def slots(self, local: LocalWorkers, tiles: int = len(MANY), **conditions: object) -> list[Slot]:
        local.adapt(Conditions(**conditions))
        list(local.train(MANY[:tiles], Training()))
        return self.seen


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.mark.parametrize(
    ("processes", "devices", "slots"),
    [
        (1, None, [Slot(4)]),
        (2, None, [Slot(2, None, 2), Slot(2, None, 2)]),
        (8, None, [Slot(1, None, 8)] * 8),
        ("auto", None, [Slot(1, None, 3)] * 3),
        ("auto", [1, 3], [Slot(2, 1, 2), Slot(2, 3, 2)]),
        (3, [1, 3], [Slot(1, 1, 3), Slot(1, 3, 3), Slot(1, 1, 3)]),
        (1, [5], [Slot(4, 5)]),
    ],
)
def test_cores_and_devices_are_shared_out(
    machine: Machine, processes: int | str, devices: list[int] | None, slots: list[Slot]
) -> None:
    machine.memory = 3
    if devices:
        machine.gpus = 6
    assert machine.slots(LocalWorkers(processes, devices)) == slots


@pytest.mark.parametrize(("cores", "tiles", "number", "threads"), [(16, 4, 4, 4), (16, 6, 6, 2), (4, 1, 1, 4)])
def test_few_tiles_get_the_cores_of_many(machine: Machine, cores: int, tiles: int, number: int, threads: int) -> None:
    machine.cores = cores
    assert machine.slots(LocalWorkers(), tiles) == [Slot(threads, None, number)] * number
    machine.gpus = 8
    assert len(machine.slots(LocalWorkers(devices=[0, 1, 2, 3, 4, 5, 6, 7]), tiles)) == number


@pytest.mark.parametrize("processes", ["auto", 1, 2])
def test_no_process_takes_more_threads_than_it_may(machine: Machine, processes: int | str) -> None:
    machine.threads = 1
    assert {slot.threads for slot in machine.slots(LocalWorkers(processes))} == {1}


@pytest.mark.parametrize(("memory", "number"), [(1, 1), (2, 2), (64, 2)])
def test_a_run_that_goes_on_gives_a_tile_as_many_threads_as_before(machine: Machine, memory: int, number: int) -> None:
    machine.memory = memory
    assert machine.slots(LocalWorkers(), threads=2) == [Slot(2, None, number)] * number
    assert machine.slots(LocalWorkers(1), threads=2) == [Slot(2)]
    assert machine.slots(LocalWorkers(), 1, threads=2) == [Slot(2)], "few tiles that are left change nothing"


def test_a_run_that_goes_on_with_fewer_cores_takes_no_more_than_these(machine: Machine) -> None:
    assert machine.slots(LocalWorkers(), threads=16) == [Slot(4)]


@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda"])
def test_all_gpus_are_used(machine: Machine, accelerator: str) -> None:
    machine.gpus = 2
    assert machine.slots(LocalWorkers(), accelerator=accelerator) == [Slot(2, 0, 2), Slot(2, 1, 2)]
    assert [slot.device for slot in machine.slots(LocalWorkers(3), accelerator=accelerator)] == [0, 1, 0]
    assert machine.slots(LocalWorkers(), 1, accelerator=accelerator) == [Slot(4, 0)]


def test_one_gpu_is_used_by_this_process(machine: Machine) -> None:
    machine.gpus = 1
    assert machine.slots(LocalWorkers()) == [Slot(4)]


@pytest.mark.parametrize("devices", [1, "1", [1]])
def test_a_gpu_that_the_trainer_names_is_the_only_one(machine: Machine, devices: object) -> None:
    machine.gpus = 2
    assert machine.slots(LocalWorkers(), devices=devices) == [Slot(4)]


def test_gpus_that_the_trainer_does_not_use_do_not_count(machine: Machine) -> None:
    machine.gpus = 2
    assert machine.slots(LocalWorkers(), accelerator="cpu") == [Slot(1, None, 4)] * 4


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
    assert [slot.device for slot in LocalWorkers(3, [1, 2])._slots()] == devices
