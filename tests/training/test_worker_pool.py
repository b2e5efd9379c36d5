"""Several processes train tiles side by side; one that dies costs no more than its tile."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch

from anomalib_tiled.errors import OutOfMemoryError, StorageError
from anomalib_tiled.grid import Size, Tile, TileGrid
from anomalib_tiled.training import worker_pool as pool
from anomalib_tiled.training.worker import Answer, KilledError, Place, WorkerError
from anomalib_tiled.training.worker_pool import MOST_CRASHES, train_side_by_side

TILES = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4)).tiles
MANY = TileGrid(Size(4, 48), Size(4, 4), Size(4, 4)).tiles
TWO = [Place(1), Place(1)]

# What is sent to another process is found there by its name, so it stands in a module of its own.
WORKBENCH = """
import os, signal, time
from pathlib import Path

import torch

from anomalib_tiled.errors import StorageError


class Stubborn(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def note(folder, tile, device=None):
    words = [tile.name, str(os.getpid()), str(device), str(torch.get_num_threads())]
    (folder / f"{tile.name}.{time.monotonic_ns()}").write_text(" ".join(words))


def slow(folder, tile, device=None):
    note(folder, tile, device)
    time.sleep(0.3)


def fails(folder, tile, device=None):
    note(folder, tile)
    if tile.name == "r00_c01":
        raise ValueError("out of luck")
    if tile.name == "r01_c00":
        raise Stubborn("this", "that")


def dies_once(folder, tile, device=None):
    first = not list(folder.glob(f"{tile.name}.*"))
    note(folder, tile)
    if tile.name in {"r00_c01", "r01_c02"} and first:
        os.kill(os.getpid(), signal.SIGKILL)


def dies(folder, tile, device=None):
    note(folder, tile)
    if tile.name == "r00_c01":
        os.kill(os.getpid(), signal.SIGKILL)
    if tile.name == "r00_c02":
        os._exit(7)


def on_sick_gpu(folder, tile, device=None):
    note(folder, tile, device)
    if device == 0:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    time.sleep(0.2)


def too_large(folder, tile, device=None):
    note(folder, tile)
    if tile.name == "r00_c01":
        torch.empty(2**60)
    if tile.name == "r01_c00":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 3 has 1 GiB.")


def open_run():
    raise FileNotFoundError("the run has gone")


class Unopened:
    def __reduce__(self):
        return open_run, ()


def full(folder, tile, device=None):
    note(folder, tile)
    raise StorageError("No space left.")
"""


@pytest.fixture
def workbench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "workbench.py").write_text(WORKBENCH)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("workbench")
    sys.modules.pop("workbench")


def notes(folder: Path) -> list[list[str]]:
    """What the processes wrote, in the order in which they did: tile, process, device, threads."""
    paths = sorted(folder.glob("r*_c*.*"), key=lambda path: int(path.suffix[1:]))
    return [path.read_text().split() for path in paths]


def test_every_tile_is_trained_once_in_as_many_processes_as_there_are_places(
    workbench: ModuleType, tmp_path: Path
) -> None:
    places = [Place(1, device=0), Place(2, device=3)]
    outcomes = list(train_side_by_side(TILES, partial(workbench.slow, tmp_path), places))
    assert sorted(outcome.tile.name for outcome in outcomes) == [tile.name for tile in TILES]
    assert all(outcome.error is None for outcome in outcomes)
    assert len(notes(tmp_path)) == len(TILES)
    processes = {process for _, process, _, _ in notes(tmp_path)}
    assert len(processes) == 2
    assert str(os.getpid()) not in processes
    assert {(device, threads) for _, _, device, threads in notes(tmp_path)} == {("0", "1"), ("3", "2")}


def test_no_more_processes_than_tiles(workbench: ModuleType, tmp_path: Path) -> None:
    outcomes = list(train_side_by_side(TILES[:1], partial(workbench.note, tmp_path), TWO * 8))
    assert [outcome.tile for outcome in outcomes] == [TILES[0]]


def test_a_tile_that_fails_does_not_stop_the_others(workbench: ModuleType, tmp_path: Path) -> None:
    outcomes = list(train_side_by_side(TILES, partial(workbench.fails, tmp_path), TWO))
    errors = {outcome.tile.name: outcome.error for outcome in outcomes}
    assert len(errors) == len(TILES)
    assert isinstance(errors["r00_c01"], ValueError)
    assert isinstance(errors["r01_c00"], WorkerError), "an exception that cannot be copied keeps its words"
    assert str(errors["r01_c00"]) == "Stubborn: this and that"
    assert sum(error is not None for error in errors.values()) == 2
    assert len(notes(tmp_path)) == len(TILES), "a tile that fails is not tried again"


def test_a_tile_that_is_too_large_does_not_stop_the_others(workbench: ModuleType, tmp_path: Path) -> None:
    places = [Place(1, processes=2)] * 2
    outcomes = list(train_side_by_side(TILES, partial(workbench.too_large, tmp_path), places))
    errors = {outcome.tile.name: outcome.error for outcome in outcomes if outcome.error is not None}
    assert len(outcomes) == len(TILES)
    assert sorted(errors) == ["r00_c01", "r01_c00"]
    assert all(isinstance(error, OutOfMemoryError) for error in errors.values())
    assert str(errors["r00_c01"]).startswith("The memory of the machine ran out (")
    assert str(errors["r01_c00"]).startswith("The memory of GPU 3 ran out (CUDA out of memory.")
    assert all("Lower workers.init_args.processes" in str(error) for error in errors.values())


def test_the_tile_of_a_process_that_dies_is_tried_again_by_another(workbench: ModuleType, tmp_path: Path) -> None:
    outcomes = list(train_side_by_side(TILES, partial(workbench.dies_once, tmp_path), TWO))
    assert sorted(outcome.tile.name for outcome in outcomes) == [tile.name for tile in TILES]
    assert all(outcome.error is None for outcome in outcomes)
    for name in ("r00_c01", "r01_c02"):
        first, second = [process for tile, process, _, _ in notes(tmp_path) if tile == name]
        assert first != second


def test_a_tile_that_kills_its_process_twice_is_reported(workbench: ModuleType, tmp_path: Path) -> None:
    outcomes = list(train_side_by_side(TILES, partial(workbench.dies, tmp_path), TWO))
    errors = {outcome.tile.name: str(outcome.error) for outcome in outcomes if outcome.error is not None}
    assert len(outcomes) == len(TILES)
    assert errors.keys() == {"r00_c01", "r00_c02"}
    assert errors["r00_c01"].startswith(
        "the process was killed more than once, as the system does when memory is short. Lower"
    )
    assert errors["r00_c02"] == "the process ended more than once with exit code 7"
    assert len(notes(tmp_path)) == len(TILES) + 2


def test_the_tile_of_a_gpu_that_failed_is_tried_again_on_another(workbench: ModuleType, tmp_path: Path) -> None:
    places = [Place(1, device=0), Place(1, device=1)]
    outcomes = list(train_side_by_side(TILES, partial(workbench.on_sick_gpu, tmp_path), places))
    assert sorted(outcome.tile.name for outcome in outcomes) == [tile.name for tile in TILES]
    assert all(outcome.error is None for outcome in outcomes)
    processes = [process for _, process, device, _ in notes(tmp_path) if device == "0"]
    assert 1 <= len(processes) <= MOST_CRASHES
    assert len(set(processes)) == len(processes), "none is given another tile"


class Devices:
    """Stands for processes: says how each tile ends, by the device that it is given to."""

    def __init__(self, ending: Callable[[int, str], Exception | None]) -> None:
        self.ending = ending
        self.given: list[tuple[int, str]] = []
        self.at_work: list[Devices.Process] = []

    def start(self, place: Place, *_: object) -> Devices.Process:
        self.at_work.append(self.Process(self, place))
        return self.at_work[-1]

    @property
    def busy(self) -> int:
        """How many tiles are trained at the same time."""
        return sum(process.tile is not None for process in self.at_work)

    class Process:
        """One of them; a dead one tells nothing, one whose GPU has failed says so."""

        def __init__(self, devices: Devices, place: Place) -> None:
            self.devices, self.place, self.connection = devices, place, object()
            self.tile: Tile | None = None

        def give(self, tile: Tile) -> None:
            self.tile = tile
            self.devices.given.append((self.place.device, tile.name))

        def answer(self) -> Answer:
            ending = self.devices.ending(self.place.device, self.tile.name)
            if isinstance(ending, EOFError):
                raise ending
            return Answer(ending, isinstance(ending, torch.AcceleratorError))

        def exit_report(self, *, again: bool) -> WorkerError:
            killed = self.devices.ending(self.place.device, self.tile.name) is KILLED
            return (KilledError if killed else WorkerError)(f"died{' again' if again else ''}")

        def stop(self) -> None:
            if self in self.devices.at_work:  # the second time is in the end, for all
                self.devices.at_work.remove(self)


Ending = Callable[[int, str], Exception | None]
FAILED_GPU = torch.AcceleratorError("CUDA error: device-side assert triggered")
DEAD = EOFError()
KILLED = EOFError()
SHORT = OutOfMemoryError("The memory of the machine ran out.")
SHORT.of_machine = True


@pytest.fixture
def trained_by(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[dict[str, str], list[tuple[int, str]]]]:
    """Have devices train many tiles: give what became of each tile, and who was given what."""

    def train(devices: list[int | None], ending: Ending) -> tuple[dict[str, str], list[tuple[int, str]]]:
        stand_in = Devices(ending)
        monkeypatch.setattr(pool, "Worker", stand_in)
        monkeypatch.setattr(pool, "wait", lambda connections: connections)
        outcomes = list(train_side_by_side(MANY, print, [Place(1, device) for device in devices]))
        assert sorted(outcome.tile.name for outcome in outcomes) == [tile.name for tile in MANY]
        return {outcome.tile.name: str(outcome.error or "done") for outcome in outcomes}, stand_in.given

    return train


@pytest.mark.parametrize("ending", [FAILED_GPU, DEAD])
def test_a_sick_device_loses_few_tiles_and_those_are_trained_elsewhere(trained_by: Callable, ending: Exception) -> None:
    became, given = trained_by([0, 1], lambda device, _: ending if device == 0 else None)
    assert set(became.values()) == {"done"}
    tried = [tile for device, tile in given if device == 0]
    assert len(tried) == len(set(tried)) == MOST_CRASHES
    assert set(tried) <= {tile for device, tile in given if device == 1}


def test_a_tile_waits_for_another_device_than_the_one_that_it_was_lost_at(trained_by: Callable) -> None:
    lost = MANY[-2].name
    became, given = trained_by([0, 1], lambda device, tile: DEAD if (device, tile) == (0, lost) else None)
    assert set(became.values()) == {"done"}
    assert [device for device, tile in given if tile == lost] == [0, 1]


def test_a_device_where_some_tiles_are_trained_is_kept(trained_by: Callable) -> None:
    def ending(device: int, tile: str) -> Exception | None:
        if device == 0:
            endings.append(DEAD if (len(endings) + 1) % MOST_CRASHES else None)
        return endings[-1] if device == 0 else None

    endings: list[Exception | None] = []
    became, _ = trained_by([0, 1], ending)
    assert set(became.values()) == {"done"}
    assert endings.count(DEAD) > MOST_CRASHES


@pytest.mark.parametrize("devices", [[0], [0, 0], [0, 1], [0, 1, 0, 1], [None, None]])
def test_where_all_devices_are_sick_each_tile_is_tried_twice(trained_by: Callable, devices: list[int | None]) -> None:
    became, given = trained_by(devices, lambda *_: DEAD)
    assert set(became.values()) == {"died again"}
    assert Counter(tile for _, tile in given) == {tile.name: 2 for tile in MANY}


class Machine:
    """Stands for a machine with room for a number of tiles at the same time; the system ends what is too much."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int, ending: Exception) -> None:
        self.room, self.ending, self.most = room, ending, []
        self.processes = Devices(self.end)
        monkeypatch.setattr(pool, "Worker", self.processes)
        monkeypatch.setattr(pool, "wait", lambda connections: connections[:1])

    def end(self, *_: object) -> Exception | None:
        self.most.append(self.processes.busy)
        return self.ending if self.processes.busy > self.room else None

    def train(self, places: list[Place]) -> dict[str, str]:
        return {each.tile.name: str(each.error or "done") for each in train_side_by_side(MANY, print, places)}


@pytest.mark.parametrize("ending", [KILLED, SHORT])
@pytest.mark.parametrize("room", [1, 2, 3])
@pytest.mark.parametrize("devices", [[None] * 4, [0, 1, 2, 3], [0, 0, 1, 1]])
def test_where_memory_is_short_fewer_tiles_are_trained_side_by_side(
    monkeypatch: pytest.MonkeyPatch, room: int, ending: Exception, devices: list[int | None]
) -> None:
    machine = Machine(monkeypatch, room, ending)
    became = machine.train([Place(1, device) for device in devices])
    assert became == {tile.name: "done" for tile in MANY}
    assert len(machine.processes.given) == len(MANY) + 4 - room, "each that was one too many costs one try"
    assert max(machine.most[-len(MANY) + 4 :]) <= room


@pytest.mark.parametrize(("ending", "tries"), [(KILLED, 2), (SHORT, 1)])
def test_where_there_is_no_room_for_one_tile_all_are_reported(
    monkeypatch: pytest.MonkeyPatch, ending: Exception, tries: int
) -> None:
    machine = Machine(monkeypatch, 0, ending)
    said = "died again" if ending is KILLED else str(SHORT)
    assert machine.train(TWO) == {tile.name: said for tile in MANY}
    assert len(machine.processes.given) <= tries * len(MANY) + 1


def test_a_single_tile_that_is_too_large_is_not_tried_by_all_that_are_idle(trained_by: Callable) -> None:
    became, given = trained_by([None] * 8, lambda _, tile: KILLED if tile == MANY[-1].name else None)
    assert {name for name, what in became.items() if what != "done"} == {MANY[-1].name}
    assert len(given) <= len(MANY) + 2


@pytest.mark.parametrize("large", [MANY[0].name, MANY[-2].name])
def test_a_tile_that_is_too_large_costs_the_others_one_process(trained_by: Callable, large: str) -> None:
    became, given = trained_by([None] * 4, lambda _, tile: SHORT if tile == large else None)
    assert {name for name, what in became.items() if what != "done"} == {large}
    assert [tile for _, tile in given].count(large) == 2
    assert given[-1][1] == large, "the second time it comes last, and alone"


def test_it_is_said_that_fewer_tiles_are_trained_side_by_side(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Machine(monkeypatch, 1, KILLED).train(TWO)
    [said] = caplog.messages
    assert said.startswith("Tile r00_c00 is retried. From now on tiles are trained by one process less, 1: ")


@pytest.mark.parametrize("error", [EOFError("no answer"), ConnectionResetError("gone"), BrokenPipeError("gone")])
def test_a_process_that_could_not_be_started_is_started_once_more(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    machine, failures = Machine(monkeypatch, 2, KILLED), [error]

    def start(place: Place, *_: object) -> Devices.Process:
        if failures:
            raise failures.pop()
        return started(place)

    started = machine.processes.start
    monkeypatch.setattr(machine.processes, "start", start)
    assert set(machine.train(TWO).values()) == {"done"}
    failures += [error, error]
    with pytest.raises(type(error)):
        machine.train(TWO)
    assert machine.processes.at_work == []


def test_it_is_said_how_the_gpu_failed(trained_by: Callable) -> None:
    became, _ = trained_by([0, 0], lambda *_: FAILED_GPU)
    assert set(became.values()) == {"CUDA error: device-side assert triggered"}


def test_what_no_process_can_begin_is_said_of_each_tile(workbench: ModuleType, tmp_path: Path) -> None:
    outcomes = list(train_side_by_side(TILES[:2], partial(workbench.note, workbench.Unopened()), [Place(1)] * 2))
    assert [str(outcome.error) for outcome in outcomes] == ["the run has gone"] * 2


def test_a_full_disk_ends_it(workbench: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No space left"):
        list(train_side_by_side(TILES, partial(workbench.full, tmp_path), TWO))
    assert len(notes(tmp_path)) <= 2


def test_who_stops_listening_leaves_no_process_behind(workbench: ModuleType, tmp_path: Path) -> None:
    training = train_side_by_side(TILES, partial(workbench.slow, tmp_path), TWO)
    next(training)
    training.close()
    processes = {process for _, process, _, _ in notes(tmp_path)}
    assert 1 <= len(processes) <= len(TWO)
    for process in processes:
        assert not Path(f"/proc/{process}").exists() or "Z" in Path(f"/proc/{process}/stat").read_text()


def test_processes_end_with_the_one_that_started_them(workbench: ModuleType, tmp_path: Path) -> None:
    source = (
        "import sys, workbench\n"
        "from functools import partial\n"
        "from pathlib import Path\n"
        "from anomalib_tiled.grid import Size, TileGrid\n"
        "from anomalib_tiled.system import fork_server\n"
        "from anomalib_tiled.training.worker_pool import train_side_by_side\n"
        "from anomalib_tiled.training.worker import Place\n"
        "if __name__ == '__main__':\n"
        "    fork_server.PRELOAD = 'json'\n"
        "    tiles = TileGrid(Size(400, 4), Size(4, 4), Size(4, 4)).tiles\n"
        "    work = partial(workbench.slow, Path(sys.argv[1]))\n"
        "    list(train_side_by_side(tiles, work, [Place(1), Place(1)]))\n"
    )
    (tmp_path / "program.py").write_text(source)
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    program = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), str(tmp_path)], env={**os.environ, "PYTHONPATH": paths}
    )
    wait_until(lambda: len(notes(tmp_path)) >= 3)
    program.kill()
    program.wait()
    time.sleep(1)
    done = len(notes(tmp_path))
    time.sleep(1)
    assert len(notes(tmp_path)) == done, "nobody goes on"


def wait_until(happened: Callable[[], bool], seconds: float = 60) -> None:
    started = time.monotonic()
    while not happened():
        assert time.monotonic() < started + seconds
        time.sleep(0.05)
