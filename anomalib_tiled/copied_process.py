"""The process that workers are copied from. It imports for seconds, so it is started before anything else is."""

from __future__ import annotations

import multiprocessing
import re
import sys
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib_tiled.cores import cores

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.context import BaseContext

PRELOAD = "anomalib_tiled.training.preload"
"""What processes import once for all of them."""

GPU = Path("/dev/nvidiactl")

PROCESSES = re.compile(r"\bprocesses['\"]?\s*[:= ]\s*(\d+|auto)")
"""How the number of processes stands in a configuration or on a command line."""


def process_context() -> BaseContext:
    """Give a way to start processes that copies neither threads nor a GPU's state."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD])
    return context


def start_copied_process() -> None:
    """Have it import in the background what workers need."""
    if process_context().get_start_method() == "forkserver":
        forkserver.ensure_running()


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
    return int(said[-1]) > 1


def _files_named_by(arguments: Sequence[str]) -> list[str]:
    """Give the contents of the configurations that arguments name; what cannot be read is complained of later."""
    contents = []
    for argument in " ".join(arguments).replace("=", " ").split():
        path = Path(argument)
        with suppress(OSError, ValueError):
            file = path / "config.yaml" if path.is_dir() else path
            if file.is_file():  # a pipe can be read once, and that is not here
                contents.append(file.read_text(encoding="utf-8"))
    return contents
