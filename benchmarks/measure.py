"""Run a command and measure it from outside."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks.decodes import HOOK, VARIABLE
from benchmarks.process_tree import Watch

if TYPE_CHECKING:
    from collections.abc import Sequence

CHECKOUT = Path(__file__).parent.parent
SHORTEST_PAUSE = 0.1
SHARE = 0.1
"""Share of the time of one core that looking may take: the more memory a command has, the longer a look takes."""

BLOCK = 512
LAST_LINES = 15


class CommandError(RuntimeError):
    """A measured command failed."""


class LimitError(CommandError):
    """A measured command took too long and was ended."""


@dataclass(frozen=True)
class Usage:
    """Time and memory of a command.

    Args:
        seconds: Wall time.
        processor_seconds: Processor time of all its processes, user and system.
        peak_memory: Highest sum of the proportional set sizes of all its processes, in bytes.
    """

    seconds: float
    processor_seconds: float
    peak_memory: int


def measured(arguments: Sequence[str], *, folder: Path, log: Path, decodes: Path, limit: float | None = None) -> Usage:
    """Run a Python command as a fresh process, wait for it, and give its usage.

    Args:
        arguments: Arguments of Python.
        folder: Folder that it runs in.
        log: File for its output.
        decodes: File for the names of decoded images.
        limit: Seconds after which it is ended; ``None`` for as many as it takes.

    Raises:
        CommandError: It failed, or took too long.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    decodes.unlink(missing_ok=True)
    command = [sys.executable, *arguments]
    os.sync()  # pending writes of an earlier command would slow this one down
    began = perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603  # commands are made in programs.py
            command, cwd=folder, env=_environment(decodes), stdout=output, stderr=output, start_new_session=True
        )
    watch, descriptor = Watch(process.pid), os.pidfd_open(process.pid)
    try:
        while not select.select([descriptor], [], [], max(SHORTEST_PAUSE, watch.cost * (1 / SHARE - 1)))[0]:
            watch.look()
            if limit is not None and perf_counter() - began > limit:
                message = f"A command was ended after {limit:.0f} s: {' '.join(command)}"
                raise LimitError(message)
        seconds = perf_counter() - began
        watch.look()  # it has not been waited for yet, so its processor time can still be read
    finally:
        os.close(descriptor)
        with suppress(ProcessLookupError):  # processes that it left running would count for the next command
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode != 0:
        raise CommandError(_failure(command, process.returncode, log))
    return Usage(seconds, watch.processor_seconds, watch.peak_memory)


def disk_of(folder: Path) -> int:
    """Give the bytes that a folder takes on the disk; a file with several names counts once."""
    status = [path.lstat() for path in folder.rglob("*")]
    return sum({(each.st_dev, each.st_ino): each.st_blocks * BLOCK for each in status}.values())


def _environment(decodes: Path) -> dict[str, str]:
    path = [str(HOOK), str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), VARIABLE: str(decodes)}


def _failure(command: Sequence[str], code: int, log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
    return "\n".join([f"A command ended with exit status {code}: {' '.join(command)}", *lines, f"All of it: {log}"])
