"""Whether the process that workers are copied from is started early."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic

import pytest
import torch

from anomalib_tiled.system import fork_server
from anomalib_tiled.system.fork_server import probably_needed, process_context, working_context

PROGRAM = """
import multiprocessing, os, random, signal, sys, time
from pathlib import Path

from anomalib_tiled.system import fork_server

def report(*words):
    variable = os.environ.get("PYTHONSAFEPATH")
    Path("said.txt").write_text("|".join([*words, os.getcwd(), str(variable), os.path.dirname(random.__file__)]))

def report_gpu():
    import torch
    Path("said.txt").write_text(f"{torch.cuda._is_in_bad_fork()} {torch.__name__}")

if __name__ == "__main__":
    [way] = sys.argv[1:]
    fork_server.PRELOAD = "preloaded"
"""

START = """
    if way == "folder":
        fork_server.KNOWS_SAFE_PATH = False
    fork_server.start_fork_server()
    assert os.environ.get("PYTHONSAFEPATH") is None, "the program's own environment is as it was"
    context = multiprocessing.get_context("spawn") if way == "spawn" else fork_server.process_context()
    process = fork_server.start_process(context, report, "worker", way)
    process.join()
    sys.exit(process.exitcode)
"""

INTERRUPTED = """
    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell, it is ignored
    try:
        fork_server.start_fork_server()
        print("started", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        fork_server.start_process(fork_server.process_context(), report).join()
"""

GPU_IS_LOST = """
    import torch
    torch.cuda.is_available = lambda: True
    context = fork_server.working_context()
    fork_server.start_process(context, report_gpu).join()
    sys.exit(context.get_start_method() != way)
"""

LOSES = """
import os, torch
os.register_at_fork(after_in_child=lambda: setattr(torch.cuda, "_is_in_bad_fork", lambda: True))
"""
"""What CUDA does to a process that is asked for its GPUs and then copied."""


def program(folder: Path, source: str, preloaded: str = "", way: str = "forkserver") -> subprocess.Popen[str]:
    """Start a program that lies in a folder of its own."""
    (folder / "programs").mkdir()
    (folder / "programs" / "program.py").write_text(PROGRAM + source)
    (folder / "programs" / "preloaded.py").write_text(preloaded)
    paths = os.pathsep.join([str(folder / "programs"), str(Path(fork_server.__file__).parents[1])])
    return subprocess.Popen(
        [sys.executable, str(folder / "programs" / "program.py"), way],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores and no GPU."""
    monkeypatch.setattr(fork_server, "cores", lambda: 2)
    monkeypatch.setattr(fork_server, "GPU", tmp_path / "no such device")


def written(folder: Path, processes: str) -> str:
    path = folder / "config.yaml"
    path.write_text(f"workers: {{class_path: LocalWorkers, init_args: {{processes: {processes}}}}}\n")
    return str(path)


@pytest.mark.parametrize(("processes", "needed"), [("1", False), ("2", True), ("12", True), ("auto", True)])
def test_configurations_are_looked_into(tmp_path: Path, processes: str, *, needed: bool) -> None:
    path = written(tmp_path, processes)
    assert probably_needed(["--config", path]) == needed
    assert probably_needed([f"--config={path}"]) == needed
    assert probably_needed(["--ckpt_dir", str(tmp_path)]) == needed


def test_no_number_takes_long_to_read(tmp_path: Path) -> None:
    assert probably_needed(["--workers.init_args.processes", "9" * 5000])
    assert not probably_needed(["--workers.init_args.processes", "0001"])
    (path := tmp_path / "configuration.yaml").write_text(
        f"processes{' ' * 100_000}\nprocesses: 1\n{'#' * 2**21}processes: 2"
    )
    started = monotonic()
    assert not probably_needed(["--config", str(path)])
    assert monotonic() - started < 5


@pytest.mark.parametrize("argument", ["--workers.init_args.processes=1", "--workers.init_args.processes 1"])
def test_arguments_go_before_configurations(tmp_path: Path, argument: str) -> None:
    path = written(tmp_path, "2")
    assert not probably_needed(["--config", path, *argument.split()])
    assert probably_needed(["--config", written(tmp_path, "1"), *argument.replace("1", "2").split()])


def test_without_a_word_it_is_as_auto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert probably_needed(["--config", "no such file"])
    assert not probably_needed(["--help"])
    monkeypatch.setattr(fork_server, "GPU", tmp_path)
    assert not probably_needed([])


def test_one_core_trains_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "cores", lambda: 1)
    assert not probably_needed([])


def test_processes_are_copied_where_the_system_can(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_context().get_start_method() == "forkserver"
    monkeypatch.setattr(fork_server.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert process_context().get_start_method() == "spawn"


def test_a_configuration_that_can_be_read_only_once_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert probably_needed(["--config", str(tmp_path / "pipe")])  # would wait for ever


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    [
        pytest.param(way, marks=pytest.mark.skipif(way != "folder" and sys.version_info < (3, 11), reason="3.11"))
        for way in ("path", "folder", "spawn")
    ],
)
def test_nothing_of_the_working_directory_is_imported(tmp_path: Path, way: str) -> None:
    for name in ("random", "selectors", "multiprocessing", "statistics"):
        (tmp_path / f"{name}.py").write_text(f"open('was run', 'a').write('{name} ')\n1 / 0\n")
    running = program(tmp_path, START, "import random, statistics", way)
    _, errors = running.communicate(timeout=60)
    assert (running.returncode, errors) == (0, "")
    assert not (tmp_path / "was run").exists()
    said = (tmp_path / "said.txt").read_text().split("|")
    assert said == ["worker", way, str(tmp_path), "None", str(Path(os.__file__).parent)], "it works where the user does"


@pytest.mark.slow
def test_an_interruption_is_for_the_command_alone(tmp_path: Path) -> None:
    running = program(tmp_path, INTERRUPTED, "import time; open('loading', 'w'); time.sleep(3)")
    assert running.stdout is not None
    assert running.stdout.readline() == "started\n"
    while not (tmp_path / "loading").exists():
        assert running.poll() is None
    os.killpg(running.pid, signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert (running.returncode, errors) == (0, "")
    assert (tmp_path / "said.txt").is_file(), "workers can still be copied"


def test_an_interruption_meanwhile_is_heard_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    def interrupted() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        steps.append(os.environ[fork_server.SAFE_PATH])

    monkeypatch.delenv(fork_server.SAFE_PATH, raising=False)
    monkeypatch.setattr(fork_server.forkserver, "ensure_running", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell, it is ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            fork_server.start_fork_server()
    finally:
        signal.signal(signal.SIGINT, before)
    assert steps == ["anomalib-tiled"]
    assert fork_server.SAFE_PATH not in os.environ
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_what_the_user_says_of_paths_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fork_server.SAFE_PATH, "yes")
    said = []
    monkeypatch.setattr(fork_server.forkserver, "ensure_running", lambda: said.append(os.environ["PYTHONSAFEPATH"]))
    fork_server.start_fork_server()
    assert [*said, os.environ["PYTHONSAFEPATH"]] == ["yes", "yes"]


@pytest.mark.slow
@pytest.mark.parametrize(("preloaded", "way"), [(LOSES, "spawn"), ("import torch", "forkserver")])
def test_where_copies_lose_the_gpu_processes_are_started_anew(tmp_path: Path, preloaded: str, way: str) -> None:
    running = program(tmp_path, GPU_IS_LOST, preloaded, way)
    _, errors = running.communicate(timeout=120)
    assert (running.returncode, errors) == (0, "")
    assert (tmp_path / "said.txt").read_text() == "False torch"


def test_without_a_gpu_no_process_is_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(fork_server, "start_process", None)
    assert working_context().get_start_method() == "forkserver"
