"""The fork server, from which workers are copied. Its imports take seconds, so commands start it first."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import sys
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib_tiled.system.limits import cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess

logger = logging.getLogger(__name__)

PRELOAD = "anomalib_tiled.training.preload"
"""Module that the fork server imports once for all workers."""

GPU = Path("/dev/nvidiactl")

SAFE_PATH = "PYTHONSAFEPATH"
"""Environment variable that keeps Python from importing from the working directory."""

KNOWS_SAFE_PATH = sys.version_info >= (3, 11)

OURS = "anomalib-tiled"
"""Value of that variable where this package has set it."""

LOST = 3
"""Exit status of a copied process that cannot use the GPU."""

PROCESSES = re.compile(r"\bprocesses['\"]?\s{0,9}[:= ]\s{0,9}(\d+|auto)")
"""The number of processes in a configuration or on a command line.

The number of blanks is limited, because matching many of them takes a time that grows with their square.
"""


def process_context() -> BaseContext:
    """Give a start method that copies neither threads nor the state of a GPU."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD])
    return context


def working_context() -> BaseContext:
    """Give `process_context`, but ``spawn`` where copied processes could not use the GPU.

    Packages query GPUs while they are imported. Where NVML does not work, as for a part of a GPU (MIG) and in some
    containers, PyTorch initializes CUDA instead, and processes that are copied afterwards cannot use it.
    """
    import torch  # slow, and not needed to start

    context = process_context()
    if context.get_start_method() == "forkserver" and torch.cuda.is_available() and _loses_gpu(context):
        logger.info("Processes import everything themselves: copies could not use the GPU of this machine.")
        return multiprocessing.get_context("spawn")
    return context


def _loses_gpu(context: BaseContext) -> bool:
    process = start_process(context, _end_with_state_of_gpu)
    process.join()
    return process.exitcode == LOST


def _end_with_state_of_gpu() -> None:
    import torch

    sys.exit(LOST if torch.cuda._is_in_bad_fork() else 0)  # noqa: SLF001  # there is no public way


def start_fork_server() -> None:
    """Start the fork server, which imports in the background what workers need."""
    if process_context().get_start_method() == "forkserver":
        with _safe_path() if KNOWS_SAFE_PATH else _safe_folder(), _interrupted_later():
            forkserver.ensure_running()


def start_process(context: BaseContext, work: Callable[..., None], *arguments: object) -> BaseProcess:
    """Start a process that ends with this one.

    Args:
        context: How to start it.
        work: Function that it calls.
        *arguments: Arguments of the function.
    """
    process: BaseProcess = context.Process(target=_begin, args=(work, *arguments), daemon=True)  # type: ignore[attr-defined]
    if context.get_start_method() == "forkserver":
        start_fork_server()
    with _safe_path(), _interrupted_later():
        process.start()
    return process


def _begin(work: Callable[..., None], *arguments: object) -> None:
    if os.environ.get(SAFE_PATH) == OURS:  # programs that the process starts must not inherit it
        del os.environ[SAFE_PATH]
    work(*arguments)


@contextmanager
def _interrupted_later() -> Iterator[None]:
    """Keep Ctrl-C from a process that is just starting, which would print a traceback; this process gets it later."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it below would unblock signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _safe_path() -> Iterator[None]:
    """Keep Python programs that start meanwhile from importing, say, a ``random.py`` in the working directory."""
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = before or OURS
    try:
        yield
    finally:
        if before is None:
            del os.environ[SAFE_PATH]
        else:
            os.environ[SAFE_PATH] = before


@contextmanager
def _safe_folder() -> Iterator[None]:
    """Do the same for Python 3.10, which has no such variable: start processes in the root folder."""
    before = Path.cwd()
    os.chdir(os.sep)
    try:
        yield
    finally:
        os.chdir(before)


LONGEST_CONFIGURATION = 2**20
"""Characters to read of a file: more than a configuration has."""


def probably_needed(arguments: Sequence[str]) -> bool:
    """Guess, without parsing a configuration, whether several processes will train tiles.

    A wrong guess costs an unused process, or some seconds of waiting for the fork server.

    Args:
        arguments: Arguments of ``fit`` or ``train``.
    """
    if {"-h", "--help"} & set(arguments):
        return False
    numbers = PROCESSES.findall(" ".join([*_files_named_by(arguments), *arguments]))
    if not numbers or numbers[-1] == "auto":
        return sys.platform == "linux" and cores() > 1 and not GPU.exists()
    return numbers[-1].lstrip("0") not in {"", "1"}


def _files_named_by(arguments: Sequence[str]) -> list[str]:
    """Give the contents of the configurations that arguments name; the parser reports unreadable ones later."""
    contents = []
    for argument in " ".join(arguments).replace("=", " ").split():
        path = Path(argument)
        with suppress(OSError, ValueError):
            file = path / "config.yaml" if path.is_dir() else path
            if file.is_file():  # not a pipe, which can be read only once
                with file.open(encoding="utf-8") as opened:
                    contents.append(opened.read(LONGEST_CONFIGURATION))
    return contents
