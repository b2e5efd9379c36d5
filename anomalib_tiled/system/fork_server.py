"""How processes that train start: as copies of the fork server, a process that has imported what they need."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from contextlib import contextmanager, nullcontext
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from anomalib_tiled.system.limits import available_memory, cores

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import BaseContext

PRELOAD = "anomalib_tiled.training.preload"
"""Module that the fork server imports once for all workers."""

MEMORY_OF_A_WORKER = 4 * 10**9
"""Bytes of free memory per process; a process needs less, but how much depends on the model."""

GPU = Path("/dev/nvidiactl")

SAFE_PATH = "PYTHONSAFEPATH"
"""Environment variable that keeps Python from importing from the working directory."""

KNOWS_SAFE_PATH = sys.version_info >= (3, 11)

OURS = "anomalib-tiled"
"""Value of that variable where this package has set it."""


def room_for_workers(threads: int = 1) -> int:
    """Give the number of processes that this machine has cores and memory for.

    Args:
        threads: Processor threads of each process.
    """
    return min(cores() // threads, available_memory() // MEMORY_OF_A_WORKER)


def worker_context() -> BaseContext:
    """Give the start method of workers, and start the fork server if they are copies of it.

    They are, unless there is a GPU. Packages query GPUs while they are imported. Where NVML does not work, as for a
    part of a GPU (MIG) and in some containers, PyTorch initializes CUDA instead, and a copy could not use CUDA.
    """
    import torch  # slow, and the command line starts the fork server before it

    if torch.cuda.is_available():
        return multiprocessing.get_context("spawn")
    start_fork_server()
    return multiprocessing.get_context("forkserver")


def start_fork_server() -> None:
    """Start the fork server, which imports in the background what workers need."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([PRELOAD])
    with nullcontext() if KNOWS_SAFE_PATH else _in_root_folder(), starting_process():
        forkserver.ensure_running()


def start_fork_server_early() -> None:
    """Start the fork server before the command itself imports anything, if several processes can train here."""
    if sys.platform == "linux" and not GPU.exists() and room_for_workers() > 1:
        start_fork_server()


@contextmanager
def starting_process() -> Iterator[None]:
    """Let processes that start meanwhile import nothing from the working directory, and never notice Ctrl-C.

    A ``random.py`` there would be imported instead of Python's own. This process gets a Ctrl-C afterwards.
    """
    os.environ.setdefault(SAFE_PATH, OURS)
    resource_tracker.ensure_running()  # starting it below would unblock signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        _forget_safe_path()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _in_root_folder() -> Iterator[None]:
    """Work in the root folder meanwhile: Python 3.10 ignores ``PYTHONSAFEPATH``, and nothing there can be imported."""
    before = Path.cwd()
    os.chdir(os.sep)
    try:
        yield
    finally:
        os.chdir(before)


def _forget_safe_path() -> None:
    """Hide ``PYTHONSAFEPATH`` from other programs that this process starts."""
    if os.environ.get(SAFE_PATH) == OURS:
        del os.environ[SAFE_PATH]


def prepare_worker() -> None:
    """Prepare a process that has just started, so that it ends with the command, but not by Ctrl-C."""
    _forget_safe_path()
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End when the command ends, even if it is killed: two processes must not work on one tile."""
    if (parent := multiprocessing.parent_process()) is not None:
        wait([parent.sentinel])
        os._exit(1)
