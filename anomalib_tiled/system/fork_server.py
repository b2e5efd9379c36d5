"""The process that workers are copied from. It imports for seconds, so it is started before anything else is."""

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
"""What processes import once for all of them."""

GPU = Path("/dev/nvidiactl")

SAFE_PATH = "PYTHONSAFEPATH"
"""Variable that keeps Python from importing from the working directory."""

KNOWS_SAFE_PATH = sys.version_info >= (3, 11)

OURS = "anomalib-tiled"
"""Value of the variable that says that nobody else has set it."""

LOST = 3
"""Exit status of a copy that cannot use the GPU."""

PROCESSES = re.compile(r"\bprocesses['\"]?\s{0,9}[:= ]\s{0,9}(\d+|auto)")
"""How the number of processes stands in a configuration or on a command line.

Of blanks there are few, or finding out that no number follows would take a time that grows with their square.
"""


def process_context() -> BaseContext:
    """Give a way to start processes that copies neither threads nor a GPU's state."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD])
    return context


def working_context() -> BaseContext:
    """Give the same, but no copies where these could not use the GPU.

    Packages ask for GPUs while they are imported. Where NVML cannot answer, as for a part of a GPU (MIG) and in some
    containers, PyTorch asks CUDA itself, and what is copied afterwards has lost it.
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

    sys.exit(LOST if torch.cuda._is_in_bad_fork() else 0)  # noqa: SLF001  # there is no other way to ask


def start_fork_server() -> None:
    """Have it import in the background what workers need."""
    if process_context().get_start_method() == "forkserver":
        with _safe_path() if KNOWS_SAFE_PATH else _safe_folder(), _interrupted_later():
            forkserver.ensure_running()


def start_process(context: BaseContext, work: Callable[..., None], *arguments: object) -> BaseProcess:
    """Start a process that ends with this one.

    Args:
        context: How.
        work: What it does.
        *arguments: With what.
    """
    process: BaseProcess = context.Process(target=_begin, args=(work, *arguments), daemon=True)  # type: ignore[attr-defined]
    if context.get_start_method() == "forkserver":
        start_fork_server()
    with _safe_path(), _interrupted_later():
        process.start()
    return process


def _begin(work: Callable[..., None], *arguments: object) -> None:
    if os.environ.get(SAFE_PATH) == OURS:  # it is not for programs that the process starts
        del os.environ[SAFE_PATH]
    work(*arguments)


@contextmanager
def _interrupted_later() -> Iterator[None]:
    """Leave Ctrl-C to this process: one that starts meanwhile never hears of it, and would print where it was."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # would let signals through if it were started below
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _safe_path() -> Iterator[None]:
    """Have Python programs that start meanwhile not import a ``random.py`` that lies in the working directory."""
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
    """Do the same where Python is too old to be told: what is started works in a folder that only the system fills."""
    before = Path.cwd()
    os.chdir(os.sep)
    try:
        yield
    finally:
        os.chdir(before)


LONGEST_CONFIGURATION = 2**20
"""Characters that are read of a file: more than a configuration has."""


def probably_needed(arguments: Sequence[str]) -> bool:
    """Guess, without reading a configuration in full, whether tiles will be trained side by side.

    A wrong guess costs a process that nobody uses, or some seconds in which others wait for it.

    Args:
        arguments: Arguments of ``fit`` or ``train``.
    """
    if {"-h", "--help"} & set(arguments):
        return False
    said = PROCESSES.findall(" ".join([*_files_named_by(arguments), *arguments]))
    if not said or said[-1] == "auto":
        return sys.platform == "linux" and cores() > 1 and not GPU.exists()
    return said[-1].lstrip("0") not in {"", "1"}


def _files_named_by(arguments: Sequence[str]) -> list[str]:
    """Give the contents of the configurations that arguments name; what cannot be read is complained of later."""
    contents = []
    for argument in " ".join(arguments).replace("=", " ").split():
        path = Path(argument)
        with suppress(OSError, ValueError):
            file = path / "config.yaml" if path.is_dir() else path
            if file.is_file():  # a pipe can be read once, and that is not here
                with file.open(encoding="utf-8") as opened:
                    contents.append(opened.read(LONGEST_CONFIGURATION))
    return contents
