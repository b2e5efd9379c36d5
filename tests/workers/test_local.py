"""Workers of this machine: how cores and devices are shared out, and how processes live and end."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import enumerate as threads
from types import ModuleType

import pytest

from anomalib_tiled.errors import ConfigurationError, OutOfMemoryError, StageError, StorageError
from anomalib_tiled.stages.workers import Conditions, KilledError
from anomalib_tiled.system import fork_server
from anomalib_tiled.system.termination import Terminated
from anomalib_tiled.workers import local as module
from anomalib_tiled.workers.local import LocalWorkers, ProcessPlace, ThisProcess, exit_error
from anomalib_tiled.workers.proof import Proof
from anomalib_tiled.workers.scheduler import Outcome, Scheduler, Terms
from anomalib_tiled.workers.task import Answer, Task, UnsentError, Work


@dataclass(frozen=True)
class Item:
    """What work is done on."""

    name: str


def look(item: None) -> str:
    return "cpu"


TERMS = Terms(Conditions(), Proof({}, None, Work(look)))
ITEMS = [Item(f"r{row:02}_c{column:02}") for row in range(2) for column in range(3)]
MANY = 16

# What is sent to another process is found there by its name, so it stands in a module of its own.
WORKBENCH = """
import os, signal, time
from pathlib import Path

import torch

from anomalib_tiled.errors import StorageError


class Item:
    def __init__(self, name):
        self.name = name


class Stubborn(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def look(item, device=None):
    return "cpu"


def note(folder, tile, device=None):
    words = [tile.name, str(os.getpid()), str(device), str(torch.get_num_threads())]
    (folder / f"{tile.name}.{time.monotonic_ns()}").write_text(" ".join(words))
    return tile.name.upper()


def slow(folder, tile, device=None):
    time.sleep(0.3)
    return note(folder, tile, device)


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


def full(folder, tile, device=None):
    note(folder, tile)
    raise StorageError("No space left.")
"""


class Noted:
    """Works on items by noting their names; at the second one it fails in a given way."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.failure = failure
        self.tried: list[str] = []

    def __call__(self, item: Item) -> None:
        self.tried.append(item.name)
        if self.failure is not None and len(self.tried) == 2:
            raise self.failure


def outcomes_here(work: Callable[..., object]) -> Generator[Outcome[Item], None, None]:
    return Scheduler(lambda: LocalWorkers(1)).run(work, ITEMS[:3], TERMS)


def test_one_process_works_on_items_in_their_order_and_reports_each_as_it_ends() -> None:
    work = Noted()
    outcomes = outcomes_here(work)
    assert work.tried == []
    assert next(outcomes) == Outcome(ITEMS[0], None)
    assert work.tried == ["r00_c00"]
    assert [*outcomes] == [Outcome(item, None) for item in ITEMS[1:3]]
    assert work.tried == ["r00_c00", "r00_c01", "r00_c02"]


def test_this_process_is_one_place_however_long_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomalib_tiled.workers.scheduler.SECONDS_BETWEEN_SUPPLIES", 0)
    scheduler = Scheduler(lambda: LocalWorkers(1))
    outcomes = scheduler.run(work := Noted(), ITEMS[:3], TERMS)
    assert [len(work.tried) for _ in outcomes] == [1, 2, 3]


@pytest.mark.parametrize("failure", [RuntimeError("out of luck"), OSError("out of luck")])
def test_an_item_that_fails_does_not_stop_the_others(failure: Exception) -> None:
    work = Noted(failure)
    assert [outcome.error for outcome in outcomes_here(work)] == [None, failure, None]
    assert len(work.tried) == 3


@pytest.mark.parametrize("failure", [StorageError("No space left"), KeyboardInterrupt(), Terminated()])
def test_what_would_stop_every_item_stops_all(failure: BaseException) -> None:
    work = Noted(failure)
    with pytest.raises(type(failure)) as raised:
        [*outcomes_here(work)]
    assert raised.value is failure
    assert work.tried == ["r00_c00", "r00_c01"]


def test_a_model_that_ends_the_program_is_an_error() -> None:
    with pytest.raises(StageError, match=r"^workers LocalWorkers .* failed: SystemExit: 3\."):
        [*outcomes_here(Noted(SystemExit(3)))]


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


Share = tuple[int, "int | None"]


class Machine:
    """A machine of which workers take shares: cores, threads that PyTorch may use, GPUs, processes that memory is for.

    Gives threads and device of each place that workers would supply for a number of items.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cores, self.threads, self.gpus, self.memory = 4, 64, 0, 64
        monkeypatch.setattr(module, "cores", lambda: self.cores)
        monkeypatch.setattr(fork_server, "cores", lambda: self.cores)
        monkeypatch.setattr(fork_server, "available_memory", lambda: self.memory * fork_server.MEMORY_OF_A_WORKER)
        monkeypatch.setattr(module.torch, "get_num_threads", lambda: self.threads)
        monkeypatch.setattr(module.torch.cuda, "device_count", lambda: self.gpus)
        monkeypatch.setattr(module.torch.accelerator, "device_count", lambda: self.gpus)
        monkeypatch.setattr(module.torch.accelerator, "is_available", lambda: self.gpus > 0)
        monkeypatch.setattr(module, "_executor", lambda: None)

    def shares(self, local: LocalWorkers, items: int = MANY, **conditions: object) -> list[Share]:
        local.adapt(Conditions(**conditions))
        places = local.supply(items)
        advised = "Lower workers.init_args.processes in the config.yaml of the run and resume it"
        assert {place.advice for place in places} == ({""} if len(places) == 1 else {advised})
        assert all(isinstance(place, ThisProcess if len(places) == 1 else ProcessPlace) for place in places)
        return [(place.threads, place.device) for place in places]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.mark.parametrize(
    ("processes", "devices", "shares"),
    [
        (1, None, [(4, None)]),
        (2, None, [(2, None)] * 2),
        (8, None, [(1, None)] * 8),
        ("auto", None, [(1, None)] * 3),
        ("auto", [1, 3], [(2, 1), (2, 3)]),
        (3, [1, 3], [(1, 1), (1, 3), (1, 1)]),
        (1, [5], [(4, 5)]),
    ],
)
def test_cores_and_devices_are_shared_out(
    machine: Machine, processes: int | str, devices: list[int] | None, shares: list[Share]
) -> None:
    machine.memory = 3
    if devices:
        machine.gpus = 6
    assert machine.shares(LocalWorkers(processes, devices)) == shares


@pytest.mark.parametrize(("cores", "items", "number", "threads"), [(16, 4, 4, 4), (16, 6, 6, 2), (4, 1, 1, 4)])
def test_few_items_get_the_cores_of_many(machine: Machine, cores: int, items: int, number: int, threads: int) -> None:
    machine.cores = cores
    assert machine.shares(LocalWorkers(), items) == [(threads, None)] * number
    machine.gpus = 8
    assert len(machine.shares(LocalWorkers(devices=[0, 1, 2, 3, 4, 5, 6, 7]), items)) == number


@pytest.mark.parametrize("processes", ["auto", 1, 2])
def test_no_process_takes_more_threads_than_it_may(machine: Machine, processes: int | str) -> None:
    machine.threads = 1
    assert {threads for threads, _ in machine.shares(LocalWorkers(processes))} == {1}


@pytest.mark.parametrize(("memory", "number"), [(1, 1), (2, 2), (64, 2)])
def test_a_run_that_goes_on_gives_a_tile_as_many_threads_as_before(machine: Machine, memory: int, number: int) -> None:
    machine.memory = memory
    assert machine.shares(LocalWorkers(), threads=2) == [(2, None)] * number
    assert machine.shares(LocalWorkers(1), threads=2) == [(2, None)]
    assert machine.shares(LocalWorkers(), 1, threads=2) == [(2, None)], "few tiles that are left change nothing"


def test_a_run_that_goes_on_with_fewer_cores_takes_no_more_than_these(machine: Machine) -> None:
    assert machine.shares(LocalWorkers(), threads=16) == [(4, None)]


@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda"])
def test_all_gpus_are_used(machine: Machine, accelerator: str) -> None:
    machine.gpus = 2
    assert machine.shares(LocalWorkers(), accelerator=accelerator) == [(2, 0), (2, 1)]
    assert [device for _, device in machine.shares(LocalWorkers(3), accelerator=accelerator)] == [0, 1, 0]
    assert machine.shares(LocalWorkers(), 1, accelerator=accelerator) == [(4, 0)]


def test_one_gpu_is_used_by_this_process(machine: Machine) -> None:
    machine.gpus = 1
    assert machine.shares(LocalWorkers()) == [(4, None)]


@pytest.mark.parametrize("devices", [1, "1", [1]])
def test_a_gpu_that_the_trainer_names_is_the_only_one(machine: Machine, devices: object) -> None:
    machine.gpus = 2
    assert machine.shares(LocalWorkers(), devices=devices) == [(4, None)]


def test_gpus_that_the_trainer_does_not_use_do_not_count(machine: Machine) -> None:
    machine.gpus = 2
    assert machine.shares(LocalWorkers(), accelerator="cpu") == [(1, None)] * 4


def test_a_fit_needs_every_device_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.torch.accelerator, "device_count", lambda: 2)
    LocalWorkers(1, [0, 1]).start()
    with pytest.raises(
        ConfigurationError, match=r"workers\.init_args\.devices names 2, 4, but this machine has 2 GPUs"
    ):
        LocalWorkers(1, [1, 2, 4]).start()


@pytest.mark.parametrize(("there", "devices"), [(2, [1, 1, 1]), (0, [None, None, None])])
def test_a_machine_with_fewer_devices_predicts_on_those_it_has(
    machine: Machine, there: int, devices: list[int | None]
) -> None:
    machine.gpus = there
    assert [device for _, device in machine.shares(LocalWorkers(3, [1, 2]))] == devices


def test_a_process_that_ended_is_replaced_by_one_of_the_same_share(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProcessPlace, "_stop", lambda _: None)
    workers = LocalWorkers(3)
    workers.adapt(Conditions())
    places = workers.supply(2)
    assert [place.name for place in places] == ["process 1", "process 2"]
    assert [place.name for place in workers.supply(5)] == ["process 3"]
    assert not workers.supply(5)
    for place in places:
        place.end()
    assert [(place.name, place.threads) for place in workers.supply(1)] == [("process 1", 1)], "not this process"


def test_processes_never_become_this_process_in_the_middle_of_the_work(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProcessPlace, "_stop", lambda _: None)
    workers = LocalWorkers()
    workers.adapt(Conditions())
    for place in workers.supply(2):
        place.end()
    (place,) = workers.supply(1)
    assert isinstance(place, ProcessPlace), "the last item may be what has ended all processes"
    workers.adapt(Conditions())
    assert isinstance(workers.supply(1)[0], ThisProcess), "in the next work"


@pytest.fixture
def workbench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "workbench.py").write_text(WORKBENCH)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(fork_server, "PRELOAD", module.__name__)  # less to import
    yield importlib.import_module("workbench")
    sys.modules.pop("workbench")


def notes(folder: Path) -> list[list[str]]:
    """What the processes wrote, in the order in which they did: tile, process, device, threads."""
    paths = sorted(folder.glob("r*_c*.*"), key=lambda path: int(path.suffix[1:]))
    return [path.read_text().split() for path in paths]


class Processes(LocalWorkers):
    """Two processes, also for GPUs that this machine lacks."""

    gpus: Sequence[int | None] = (None,)

    def _devices(self) -> Sequence[int | None]:
        return self.gpus


def outcomes_of(
    workbench: ModuleType, work: Callable[..., object], *, gpus: Sequence[int | None] = (None,)
) -> Generator[Outcome[Item], None, None]:
    workers = Processes(2)
    workers.gpus = gpus
    items = [workbench.Item(item.name) for item in ITEMS]
    return Scheduler(lambda: workers).run(work, items, Terms(Conditions(), Proof({}, None, Work(workbench.look))))


@pytest.mark.slow
def test_each_item_is_done_once_in_a_process_of_one_of_the_shares(workbench: ModuleType, tmp_path: Path) -> None:
    outcomes = [*outcomes_of(workbench, partial(workbench.slow, tmp_path), gpus=[0, 3])]
    assert sorted((outcome.item.name, outcome.value, outcome.error) for outcome in outcomes) == [
        (item.name, item.name.upper(), None) for item in ITEMS
    ]
    assert len(notes(tmp_path)) == len(ITEMS)
    processes = {process for _, process, _, _ in notes(tmp_path)}
    assert len(processes) == 2
    assert str(os.getpid()) not in processes
    assert {(device, threads) for _, _, device, threads in notes(tmp_path)} == {("0", "1"), ("3", "1")}


def test_in_processes_an_item_that_fails_stops_no_other(workbench: ModuleType, tmp_path: Path) -> None:
    outcomes = [*outcomes_of(workbench, partial(workbench.fails, tmp_path))]
    errors = {outcome.item.name: outcome.error for outcome in outcomes if outcome.error is not None}
    assert len(outcomes) == len(notes(tmp_path)) == len(ITEMS), "none is tried again"
    assert errors.keys() == {"r00_c01", "r01_c00", "r01_c02"}
    assert isinstance(errors["r00_c01"], ValueError)
    assert isinstance(errors["r01_c00"], UnsentError)
    assert isinstance(errors["r01_c02"], OutOfMemoryError)
    assert str(errors["r01_c02"]).startswith("The memory of GPU 3 ran out (CUDA out of memory.")
    assert "Lower workers.init_args.processes" in str(errors["r01_c02"])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (-signal.SIGSEGV, "it was ended by the signal SIGSEGV"),
        (-signal.SIGKILL, "it was killed, as the system does when memory is short. Lower workers"),
        (3, "it ended with exit code 3"),
        (-1000, "it ended with exit code -1000"),
    ],
)
def test_a_process_that_has_ended_says_how(code: int, message: str) -> None:
    assert str(exit_error(code)).startswith(message)
    assert isinstance(exit_error(code), KilledError) == (code == -signal.SIGKILL)


def test_the_item_of_a_process_that_ends_is_tried_again(workbench: ModuleType, tmp_path: Path) -> None:
    outcomes = [*outcomes_of(workbench, partial(workbench.dies, tmp_path))]
    errors = {outcome.item.name: str(outcome.error) for outcome in outcomes if outcome.error is not None}
    assert sorted(outcome.item.name for outcome in outcomes) == [item.name for item in ITEMS]
    assert errors.keys() == {"r00_c01", "r00_c02"}
    assert re.fullmatch(
        r"process \d has ended: it was killed, as the system does when memory is short\. "
        r"Lower workers\.init_args\.processes, or the data module's train_batch_size\.",
        errors["r00_c01"],
    )
    assert re.fullmatch(
        r"process \d has ended: it ended with exit code 1\. In a script, start the fit under "
        r'`if __name__ == "__main__":`, because each process imports the script\.',
        errors["r00_c02"],
    )
    tries = Counter(tile for tile, *_ in notes(tmp_path))
    assert {tile: number for tile, number in tries.items() if number > 1} == {"r00_c01": 2, "r00_c02": 3, "r01_c02": 2}


@pytest.mark.slow
def test_a_process_whose_gpu_has_failed_does_no_other_item(workbench: ModuleType, tmp_path: Path) -> None:
    outcomes = [*outcomes_of(workbench, partial(workbench.on_sick_gpu, tmp_path), gpus=[0, 1])]
    assert sorted(outcome.item.name for outcome in outcomes) == [item.name for item in ITEMS]
    assert all(outcome.error is None for outcome in outcomes)
    processes = [process for _, process, device, _ in notes(tmp_path) if device == "0"]
    assert len(set(processes)) == len(processes) >= 1


def test_a_process_that_ends_while_it_is_idle_costs_no_item(workbench: ModuleType, tmp_path: Path) -> None:
    (place, _) = Processes(2).supply(2)
    task = Task(Work(partial(workbench.note, tmp_path)), workbench.Item("r00_c00"))
    try:
        for _ in range(2):
            assert place.submit(task).result() == Answer("R00_C00")
            os.kill(int(notes(tmp_path)[-1][1]), signal.SIGKILL)
            while not place._executor._broken:
                time.sleep(0.01)
    finally:
        place.end()
    assert len({process for _, process, _, _ in notes(tmp_path)}) == 2


def test_in_processes_a_full_disk_stops_all(workbench: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No space left"):
        [*outcomes_of(workbench, partial(workbench.full, tmp_path))]
    assert len(notes(tmp_path)) <= 2


def test_closing_the_outcomes_ends_all_processes_and_threads(workbench: ModuleType, tmp_path: Path) -> None:
    before = {*threads()}
    with closing(outcomes_of(workbench, partial(workbench.slow, tmp_path))) as outcomes:
        next(outcomes)
    processes = {process for _, process, _, _ in notes(tmp_path)}
    assert 1 <= len(processes) <= 2
    for process in processes:
        assert not Path(f"/proc/{process}").exists() or "Z" in Path(f"/proc/{process}/stat").read_text()
    assert {*threads()} == before


PROGRAM = """
import sys
from functools import partial
from pathlib import Path

import workbench
from anomalib_tiled.stages.workers import Conditions
from anomalib_tiled.system import fork_server
from anomalib_tiled.workers.local import LocalWorkers
from anomalib_tiled.workers.proof import Proof
from anomalib_tiled.workers.scheduler import Scheduler, Terms
from anomalib_tiled.workers.task import Work

def main():
    fork_server.PRELOAD = "json"
    items = [workbench.Item(f"r{number:02}_c00") for number in range(100)]
    terms = Terms(Conditions(), Proof({}, None, Work(workbench.look)))
    list(Scheduler(lambda: LocalWorkers(2)).run(partial(workbench.slow, Path(sys.argv[1])), items, terms))

"""


def program(tmp_path: Path, start: str) -> subprocess.Popen[str]:
    (tmp_path / "program.py").write_text(PROGRAM + start)
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(workbench: ModuleType, tmp_path: Path) -> None:
    command = program(tmp_path, "if __name__ == '__main__':\n    main()\n")
    started = time.monotonic()
    while len(notes(tmp_path)) < 3:
        assert time.monotonic() < started + 60
        time.sleep(0.05)
    command.kill()
    command.wait()
    time.sleep(1)
    done = len(notes(tmp_path))
    time.sleep(1)
    assert len(notes(tmp_path)) == done, "no process continues"


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_told_so_once(workbench: ModuleType, tmp_path: Path) -> None:
    command = program(tmp_path, "main()\n")
    _, said = command.communicate(timeout=100)
    assert command.returncode == 1
    last = said[said.rindex("NoPlaceError") :].splitlines()
    assert last[0] == "NoPlaceError: There is no place to work at any more, and 100 pieces of work are left."
    advice = 'In a script, start the fit under `if __name__ == "__main__":`, because each process imports the script.'
    reason = f"it ended with exit code 1. {advice}"
    assert last[1:] in ([f"process 1, process 2: {reason}"], [f"process 2, process 1: {reason}"]), "either ends first"
    assert notes(tmp_path) == []
