"""Several processes train tiles side by side; one that ends costs no more than another try of its tile."""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from anomalib_tiled.errors import OutOfMemoryError, StorageError
from anomalib_tiled.grid import Size, Tile, TileGrid
from anomalib_tiled.system import fork_server
from anomalib_tiled.training import worker_pool as pool
from anomalib_tiled.training.worker_pool import (
    Answer,
    KilledError,
    Slot,
    UnsentError,
    Worker,
    WorkerError,
    gpu_has_failed,
    train_side_by_side,
)

TILES = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4)).tiles
MANY = TileGrid(Size(4, 48), Size(4, 4), Size(4, 4)).tiles
NAMES = [tile.name for tile in MANY]
TWO = [Slot(1, processes=2), Slot(1, processes=2)]

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
    if tile.name == "r01_c02":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 3 has 1 GiB.")


def dies(folder, tile, device=None):
    first = not list(folder.glob(f"{tile.name}.*"))
    note(folder, tile)
    if tile.name == "r00_c01" or (tile.name == "r01_c02" and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if tile.name == "r00_c02":
        os._exit(1)


def on_sick_gpu(folder, tile, device=None):
    note(folder, tile, device)
    if device == 0:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    time.sleep(0.2)


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


@pytest.fixture(autouse=True)
def less_to_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "PRELOAD", pool.__name__)


def test_each_tile_is_trained_once_in_a_process_of_one_of_the_places(workbench: ModuleType, tmp_path: Path) -> None:
    slots = [Slot(1, device=0), Slot(2, device=3)]
    outcomes = list(train_side_by_side(TILES, partial(workbench.slow, tmp_path), slots))
    assert sorted(outcome.tile.name for outcome in outcomes) == [tile.name for tile in TILES]
    assert all(outcome.error is None for outcome in outcomes)
    assert len(notes(tmp_path)) == len(TILES)
    processes = {process for _, process, _, _ in notes(tmp_path)}
    assert len(processes) == 2
    assert str(os.getpid()) not in processes
    assert {(device, threads) for _, _, device, threads in notes(tmp_path)} == {("0", "1"), ("3", "2")}


def test_a_tile_that_fails_stops_no_other(workbench: ModuleType, tmp_path: Path) -> None:
    outcomes = list(train_side_by_side(TILES, partial(workbench.fails, tmp_path), TWO))
    errors = {outcome.tile.name: outcome.error for outcome in outcomes if outcome.error is not None}
    assert len(outcomes) == len(notes(tmp_path)) == len(TILES), "none is tried again"
    assert errors.keys() == {"r00_c01", "r01_c00", "r01_c02"}
    assert isinstance(errors["r00_c01"], ValueError)
    assert isinstance(errors["r01_c00"], UnsentError), "an exception that cannot be copied keeps its words"
    assert str(errors["r01_c00"]) == "Stubborn: this and that"
    assert isinstance(errors["r01_c02"], OutOfMemoryError)
    assert str(errors["r01_c02"]).startswith("The memory of GPU 3 ran out (CUDA out of memory.")
    assert "Lower workers.init_args.processes" in str(errors["r01_c02"])


def test_the_tile_of_a_process_that_ends_is_tried_once_more(workbench: ModuleType, tmp_path: Path) -> None:
    outcomes = list(train_side_by_side(TILES, partial(workbench.dies, tmp_path), TWO))
    errors = {outcome.tile.name: str(outcome.error) for outcome in outcomes if outcome.error is not None}
    assert sorted(outcome.tile.name for outcome in outcomes) == [tile.name for tile in TILES]
    assert errors.keys() == {"r00_c01", "r00_c02"}
    assert errors["r00_c01"] == (
        "the process was killed, as the system does when memory is short. "
        "Lower workers.init_args.processes, or the data module's train_batch_size."
    )
    assert errors["r00_c02"] == (
        "the process ended with exit code 1. In a script, start the fit under "
        '`if __name__ == "__main__":`, because each process imports the script.'
    )
    tries = Counter(tile for tile, *_ in notes(tmp_path))
    assert {tile for tile, number in tries.items() if number == 2} == {"r00_c01", "r00_c02", "r01_c02"}
    assert tries.total() == len(TILES) + 3


def test_a_process_whose_gpu_has_failed_trains_no_other_tile(workbench: ModuleType, tmp_path: Path) -> None:
    slots = [Slot(1, device=0), Slot(1, device=1)]
    outcomes = list(train_side_by_side(TILES[:4], partial(workbench.on_sick_gpu, tmp_path), slots))
    assert sorted(outcome.tile.name for outcome in outcomes) == [tile.name for tile in TILES[:4]]
    assert all(outcome.error is None for outcome in outcomes)
    processes = [process for _, process, device, _ in notes(tmp_path) if device == "0"]
    assert len(set(processes)) == len(processes) >= 1


def test_a_process_that_ends_while_it_is_idle_costs_no_tile(workbench: ModuleType, tmp_path: Path) -> None:
    worker = Worker(Slot(1), pickle.dumps(partial(workbench.note, tmp_path)))
    try:
        for tile in TILES[:2]:
            assert worker.answer(worker.train(tile)).error is None
            os.kill(int(notes(tmp_path)[-1][1]), signal.SIGKILL)
            while not worker._executor._broken:
                time.sleep(0.01)
    finally:
        worker.stop()
    assert len({process for _, process, _, _ in notes(tmp_path)}) == 2


def test_work_that_no_process_can_load_fails_each_tile(workbench: ModuleType) -> None:
    outcomes = list(train_side_by_side(TILES[:2], partial(workbench.note, workbench.Unopened()), TWO))
    assert [str(outcome.error) for outcome in outcomes] == ["the run has gone"] * 2


def test_a_full_disk_stops_all(workbench: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No space left"):
        list(train_side_by_side(TILES, partial(workbench.full, tmp_path), TWO))
    assert len(notes(tmp_path)) <= 2


def test_closing_the_outcomes_ends_all_processes(workbench: ModuleType, tmp_path: Path) -> None:
    training = train_side_by_side(TILES, partial(workbench.slow, tmp_path), TWO)
    next(training)
    training.close()
    processes = {process for _, process, _, _ in notes(tmp_path)}
    assert 1 <= len(processes) <= len(TWO)
    for process in processes:
        assert not Path(f"/proc/{process}").exists() or "Z" in Path(f"/proc/{process}/stat").read_text()


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(workbench: ModuleType, tmp_path: Path) -> None:
    source = (
        "import sys, workbench\n"
        "from functools import partial\n"
        "from pathlib import Path\n"
        "from anomalib_tiled.grid import Size, TileGrid\n"
        "from anomalib_tiled.system import fork_server\n"
        "from anomalib_tiled.training.worker_pool import Slot, train_side_by_side\n"
        "if __name__ == '__main__':\n"
        "    fork_server.PRELOAD = 'json'\n"
        "    tiles = TileGrid(Size(400, 4), Size(4, 4), Size(4, 4)).tiles\n"
        "    work = partial(workbench.slow, Path(sys.argv[1]))\n"
        "    list(train_side_by_side(tiles, work, [Slot(1), Slot(1)]))\n"
    )
    (tmp_path / "program.py").write_text(source)
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    program = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), str(tmp_path)], env={**os.environ, "PYTHONPATH": paths}
    )
    started = time.monotonic()
    while len(notes(tmp_path)) < 3:
        assert time.monotonic() < started + 60
        time.sleep(0.05)
    program.kill()
    program.wait()
    time.sleep(1)
    done = len(notes(tmp_path))
    time.sleep(1)
    assert len(notes(tmp_path)) == done, "no process continues"


Ending = Callable[[int | None, str, int], Answer]
DONE = Answer(None)
FAILED_GPU = Answer(torch.AcceleratorError("CUDA error: device-side assert triggered"), lost=True)
ENDED = Answer(WorkerError("ended"), lost=True)
KILLED = Answer(KilledError("killed"), lost=True)
SHORT = Answer(OutOfMemoryError("The memory of the machine ran out."))
SHORT.error.of_machine = True


class Machine:
    """Stands for processes: says how each tile ends, by its device and by how many are trained at that moment."""

    def __init__(self, ending: Ending) -> None:
        self.ending = ending
        self.given: list[tuple[int | None, str]] = []
        self.busy: list[FakeWorker] = []
        self.most: list[int] = []

    def __call__(self, slot: Slot, _: bytes) -> FakeWorker:
        return FakeWorker(self, slot)

    def train(self, devices: list[int | None]) -> dict[str, str]:
        outcomes = list(train_side_by_side(MANY, print, [Slot(1, device) for device in devices]))
        assert sorted(outcome.tile.name for outcome in outcomes) == NAMES
        return {outcome.tile.name: str(outcome.error or "done") for outcome in outcomes}


class FakeWorker:
    def __init__(self, machine: Machine, slot: Slot) -> None:
        self.machine, self.slot, self.tile = machine, slot, ""

    def train(self, tile: Tile) -> Future[Answer]:
        self.tile = tile.name
        self.machine.busy.append(self)
        self.machine.given.append((self.slot.device, tile.name))
        return Future()

    def answer(self, _: Future[Answer]) -> Answer:
        self.machine.most.append(len(self.machine.busy))
        answer = self.machine.ending(self.slot.device, self.tile, len(self.machine.busy))
        self.machine.busy.remove(self)
        return answer

    def stop(self) -> None:
        pass

    restart = stop


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Ending], Machine]:
    """Make a machine on which the first busy process is the first to be done."""

    def make(ending: Ending) -> Machine:
        made = Machine(ending)
        monkeypatch.setattr(pool, "Worker", made)
        monkeypatch.setattr(pool, "wait", lambda busy, **_: SimpleNamespace(done=[next(iter(busy))]))
        return made

    return make


@pytest.mark.parametrize("ending", [FAILED_GPU, ENDED])
def test_tiles_that_a_device_loses_are_retried_on_another(machine: Callable, ending: Answer) -> None:
    made = machine(lambda device, *_: ending if device == 0 else DONE)
    assert made.train([0, 1]) == dict.fromkeys(NAMES, "done")
    lost = [tile for device, tile in made.given if device == 0]
    assert len(lost) == len(set(lost)) >= 1
    assert made.given[-len(lost) :] == [(1, tile) for tile in lost], "after all others"


@pytest.mark.parametrize(
    ("ending", "report"),
    [(ENDED, "ended"), (KILLED, "killed"), (FAILED_GPU, "CUDA error: device-side assert triggered")],
)
@pytest.mark.parametrize("devices", [[0], [0, 1], [None, None]])
def test_each_tile_is_tried_twice(machine: Callable, devices: list[int | None], ending: Answer, report: str) -> None:
    made = machine(lambda *_: ending)
    assert made.train(devices) == dict.fromkeys(NAMES, report)
    assert Counter(tile for _, tile in made.given) == dict.fromkeys(NAMES, 2)


@pytest.mark.parametrize("ending", [KILLED, SHORT])
@pytest.mark.parametrize("room", [1, 3])
@pytest.mark.parametrize("devices", [[None] * 4, [0, 0, 1, 1]])
def test_where_memory_is_short_fewer_tiles_are_trained_side_by_side(
    machine: Callable, room: int, ending: Answer, devices: list[int | None], caplog: pytest.LogCaptureFixture
) -> None:
    made = machine(lambda _, __, busy: ending if busy > room else DONE)
    assert made.train(devices) == dict.fromkeys(NAMES, "done")
    assert len(made.given) == len(MANY) + 4 - room, "each that was one too many costs one try"
    assert max(made.most[4 - room :]) == room
    assert caplog.messages[0] == f"Tile r00_c00 is retried alone when all others are done: {ending.error}"
    assert caplog.messages[1] == "From now on tiles are trained by one process less: 3."


@pytest.mark.parametrize("large", [MANY[0].name, MANY[-1].name])
def test_a_tile_that_is_too_large_is_reported_after_a_try_without_others(machine: Callable, large: str) -> None:
    made = machine(lambda _, tile, __: SHORT if tile == large else DONE)
    became = made.train([None] * 4)
    assert {name: error for name, error in became.items() if error != "done"} == {large: str(SHORT.error)}
    assert [tile for _, tile in made.given].count(large) == (1 if made.most[-1] == 1 and large == NAMES[-1] else 2)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("HIP error: invalid device function"),
        caused(ValueError("the model cannot be fitted"), RuntimeError("CUDA error: device-side assert triggered")),
    ],
)
def test_a_gpu_may_fail_for_good(error: Exception) -> None:
    assert gpu_has_failed(error)


@pytest.mark.parametrize(
    "error",
    [
        None,
        ValueError("This is no CUDA error"),
        OutOfMemoryError("The memory of GPU 1 ran out (CUDA error: out of memory)."),
        caused(OutOfMemoryError("The memory of GPU 1 ran out."), RuntimeError("CUDA error: out of memory")),
    ],
)
def test_after_other_errors_a_gpu_works(error: Exception | None) -> None:
    assert not gpu_has_failed(error)


@pytest.mark.parametrize("failure", [None, ValueError("out of luck"), KeyboardInterrupt()])
def test_a_tile_is_trained_with_the_threads_of_its_place(failure: BaseException | None) -> None:
    def train(tile: Tile) -> None:
        seen.append(torch.get_num_threads())
        if failure is not None:
            raise failure

    seen: list[int] = []
    before = torch.get_num_threads()
    try:
        assert Slot(before + 1).attempt(TILES[0], train).error is failure
    except KeyboardInterrupt:
        assert isinstance(failure, KeyboardInterrupt)
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("processes", [1, 2])
def test_less_memory_is_needed_by_smaller_tiles_or_by_fewer_processes(processes: int) -> None:
    error = Slot(1, processes=processes).attempt(TILES[0], lambda tile: torch.empty(2**60)).error
    assert isinstance(error, OutOfMemoryError)
    fewer = "Lower workers.init_args.processes in the config.yaml of the run and resume it, or fit"
    advice = " a new run with a smaller data.init_args.train_batch_size or tiling.tile_size."
    assert str(error).startswith("The memory of the machine ran out (")
    assert str(error).endswith(f"). {fewer if processes > 1 else 'Fit'}{advice}")


def test_a_model_that_failed_is_freed() -> None:
    """Its traceback would keep the model in memory while the next tile is trained."""

    class Model:
        pass

    def fail(tile: Tile) -> None:
        model = Model()
        models.append(weakref.ref(model))
        try:
            {}["a"]
        except KeyError as error:
            message = "out of luck"
            raise ValueError(message) from error

    models: list[weakref.ref[Model]] = []
    assert str(Slot(1).attempt(TILES[0], fail).error) == "out of luck"
    assert models[0]() is None
