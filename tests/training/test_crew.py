"""Several processes train tiles side by side; one that dies costs no more than its tile."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from anomalib_tiled.errors import OutOfMemoryError, StorageError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.training.crew import Place, WorkerError, train_side_by_side

TILES = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4)).tiles
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
    assert errors["r00_c01"].startswith("the process was killed twice, as the system does when memory is short. Lower")
    assert errors["r00_c02"] == "the process ended twice with exit code 7"
    assert len(notes(tmp_path)) == len(TILES) + 2


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
    for process in {process for _, process, _, _ in notes(tmp_path)}:
        assert not Path(f"/proc/{process}").exists() or "Z" in Path(f"/proc/{process}/stat").read_text()


def test_processes_end_with_the_one_that_started_them(workbench: ModuleType, tmp_path: Path) -> None:
    source = (
        "import sys, workbench\n"
        "from functools import partial\n"
        "from pathlib import Path\n"
        "from anomalib_tiled.grid import Size, TileGrid\n"
        "from anomalib_tiled import copied_process\n"
        "from anomalib_tiled.training import crew\n"
        "if __name__ == '__main__':\n"
        "    copied_process.PRELOAD = 'json'\n"
        "    tiles = TileGrid(Size(400, 4), Size(4, 4), Size(4, 4)).tiles\n"
        "    work = partial(workbench.slow, Path(sys.argv[1]))\n"
        "    list(crew.train_side_by_side(tiles, work, [crew.Place(1), crew.Place(1)]))\n"
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
