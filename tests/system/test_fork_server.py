"""The process that workers are copied from: when it starts, and what its start does to others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from anomalib_tiled.system import fork_server

PROGRAM = """
import multiprocessing, os, random, signal, sys, time
from pathlib import Path

from anomalib_tiled.system import fork_server

def report(*words):
    fork_server.prepare_worker()
    variable = os.environ.get("PYTHONSAFEPATH")
    Path("said.txt").write_text("|".join([*words, os.getcwd(), str(variable), os.path.dirname(random.__file__)]))

if __name__ == "__main__":
    [way] = sys.argv[1:]
    fork_server.PRELOAD = "preloaded"
"""

START = """
    if way == "folder":
        fork_server.KNOWS_SAFE_PATH = False
    fork_server.start_fork_server()
    assert os.environ.get("PYTHONSAFEPATH") is None, "the program's own environment is as it was"
    context = multiprocessing.get_context("spawn" if way == "spawn" else "forkserver")
    process = context.Process(target=report, args=("worker", way))
    with fork_server.starting_process():
        process.start()
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
        process = multiprocessing.get_context("forkserver").Process(target=report)
        with fork_server.starting_process():
            process.start()
        process.join()
"""


def program(folder: Path, source: str, preloaded: str = "", way: str = "forkserver") -> subprocess.Popen[str]:
    """Start a program that lies in a folder of its own."""
    (folder / "programs").mkdir()
    (folder / "programs" / "program.py").write_text(PROGRAM + source)
    (folder / "programs" / "preloaded.py").write_text(preloaded)
    paths = os.pathsep.join([str(folder / "programs"), str(Path(fork_server.__file__).parents[2])])
    return subprocess.Popen(
        [sys.executable, str(folder / "programs" / "program.py"), way],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("cores", "memory", "gpu", "starts"), [(2, 8, False, 1), (1, 8, False, 0), (2, 7, False, 0), (2, 8, True, 0)]
)
def test_it_starts_early_where_several_processes_can_train(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    memory: int,
    gpu: bool,  # noqa: FBT001
    starts: int,
) -> None:
    started = []
    monkeypatch.setattr(fork_server, "cores", lambda: cores)
    monkeypatch.setattr(fork_server, "available_memory", lambda: memory * 10**9)
    monkeypatch.setattr(fork_server, "GPU", tmp_path if gpu else tmp_path / "no such device")
    monkeypatch.setattr(fork_server, "start_fork_server", lambda: started.append(1))
    fork_server.start_fork_server_early()
    assert len(started) == starts


@pytest.mark.parametrize(("gpu", "method"), [(False, "forkserver"), (True, "spawn")])
def test_where_there_is_a_gpu_no_process_is_copied(monkeypatch: pytest.MonkeyPatch, *, gpu: bool, method: str) -> None:
    started = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(fork_server, "start_fork_server", lambda: started.append(1))
    assert fork_server.worker_context().get_start_method() == method
    assert bool(started) != gpu


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
