"""The entry point: finds the command, runs it, prints errors and returns the exit status."""

from __future__ import annotations

import io
import os
import re
import sys
import traceback
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TextIO

from anomalib_tiled.errors import TiledError, allowed_names
from anomalib_tiled.system.allocation import imports_kept_apart, keep_freed_memory, leave_garbage_at_exit
from anomalib_tiled.system.fork_server import start_fork_server_early
from anomalib_tiled.system.import_warnings import without_known_warnings
from anomalib_tiled.system.os_errors import is_of_system, refusal
from anomalib_tiled.system.termination import Terminated, raised_when_terminated

INTERRUPTED = 130
TERMINATED = 143
USER_ERROR = 2

ONE_PROCESS = re.compile(r"^\s+processes:\s*1\s*$", re.MULTILINE)
"""The line of a configuration by which one process trains."""

LONGEST_LOOK = 2**16
"""Characters of a configuration that are searched for it."""

OUTPUT = "Standard output"
"""Name of standard output in messages."""


@dataclass(frozen=True)
class Command:
    """A command, loaded only when it is used: anomalib takes seconds to import.

    Args:
        name: What the user types; also the name of the function in ``anomalib_tiled.cli.commands``, or in a module of
            this name if the command only reads.
        help: What it does, in a line.
        trains: Whether it may start processes that train.
        computes: Whether models take most of its time, so that it is worth using memory for speed.
        reads: Whether it only reads small files, so that it needs neither anomalib nor PyTorch.
    """

    name: str
    help: str
    trains: bool = False
    computes: bool = False
    reads: bool = False

    def load(self) -> Callable[[Sequence[str], str], int | None]:
        """Import the function, and make downloads fail early without internet."""
        if self.reads:
            reading: Callable[[Sequence[str], str], int | None] = getattr(
                import_module(f"anomalib_tiled.cli.{self.name}"), self.name
            )
            return reading
        with without_known_warnings(), imports_kept_apart():
            commands = import_module("anomalib_tiled.cli.commands")
            import_module("anomalib_tiled.ensemble.missing_weights").turn_off_hub_retries()
        function: Callable[[Sequence[str], str], int | None] = getattr(commands, self.name)
        return function


COMMANDS = (
    Command(
        "fit",
        "Train a model for every tile location and calibrate; or resume an interrupted run.",
        trains=True,
        computes=True,
    ),
    Command("test", "Measure a run on the test images: metrics, scores and pictures."),
    Command("train", "Fit, then test.", trains=True, computes=True),
    Command("predict", "Predict new images: scores, labels and anomalous regions, no labels needed.", computes=True),
    Command(
        "check",
        "Say whether predicted images have drifted from those that the run knows as normal.",
        reads=True,
    ),
    Command("status", "Show which tiles of a run are done, left out, missing or failed.", reads=True),
    Command("report", "Write a page that shows a test or predictions: scores, threshold, images, places.", reads=True),
    Command("export", "Write a run as files for other programs: torch, onnx, openvino, or checkpoints of anomalib."),
    Command("plugins", "List the installed stages, and the packages that they come from."),
)


def main(arguments: Sequence[str] | None = None, *, prog: str = "anomalib-tiled") -> int:
    """Run a command.

    Args:
        arguments: The arguments after the program's name; ``None`` for those of this process.
        prog: The program's name in help and messages.

    Returns:
        Exit status: 0 done, 2 the user has to change something, 130 interrupted, 143 terminated, 1 anything else; 3,
        4 and 6 only from `predict`, 5 only from `check`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold any bytes
    leave_garbage_at_exit()
    try:
        with raised_when_terminated():
            status = _run(given, prog)
    except TiledError as error:
        _say(f"error: {error}")
        status = USER_ERROR
    except KeyboardInterrupt as error:
        status = interrupted(error)
    except Exception as error:  # noqa: BLE001  # shown in full: it is a bug of this package
        cause = _lost(sys.stdout, OUTPUT) or error  # a command fails if it cannot print
        if not is_of_system(cause):
            traceback.print_exc()
            return 1
        _say(f"error: {refusal(cause)}")
        return USER_ERROR
    if (lost := _lost(sys.stdout, OUTPUT)) is not None:
        _say(f"error: {refusal(lost)}")
        status = status or USER_ERROR
    return status


def interrupted(error: KeyboardInterrupt) -> int:
    """Say that a command was interrupted.

    Returns:
        Its exit status.
    """
    _say("\nInterrupted.")
    return TERMINATED if isinstance(error, Terminated) else INTERRUPTED


def _lost(stream: TextIO | None, name: str) -> OSError | None:
    """Say why a stream cannot be written, and drop its contents; ``None`` if it can be written."""
    if stream is None:  # it was closed before Python started
        return None
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # Python flushes it once more at the end
        return OSError(error.errno, error.strerror, name)
    return None


def _say(text: str) -> None:
    """Print to standard error, if it is open."""
    with suppress(OSError):
        print(text, file=sys.stderr)  # noqa: T201
    _lost(sys.stderr, "Standard error")


def _run(given: list[str], prog: str) -> int:
    if not given or given[0] in {"-h", "--help"}:
        _overview(prog).print_help()
        return 0
    for command in COMMANDS:
        if command.name == given[0]:
            prepare_workers(given)
            if command.computes:
                keep_freed_memory()
            return command.load()(given[1:], f"{prog} {command.name}") or 0
    message = f"There is no command {given[0]!r}. {allowed_names(given[0], [each.name for each in COMMANDS])}"
    raise TiledError(message)


def prepare_workers(given: Sequence[str]) -> None:
    """Let the fork server import beside this process, if processes may train or predict; a second call changes nothing.

    Args:
        given: The arguments after the program's name.
    """
    trains = any(command.trains and command.name in given[:1] for command in COMMANDS)
    uses_workers = trains or any(each.startswith("--workers") for each in given)
    if uses_workers and not {"-h", "--help"}.intersection(given) and not _one_process_trains(given):
        start_fork_server_early()


def _one_process_trains(given: Sequence[str]) -> bool:
    """Guess from the text of the configuration whether one process trains, which needs no fork server.

    If the guess is wrong, the fork server starts later, or for nothing.
    """
    following = [value for option, value in pairwise(given) if option == "--config"]
    paths = [*following, *(each.partition("=")[2] for each in given if each.startswith("--config="))]
    if len(paths) != 1 or any(each.startswith("--workers") for each in given):
        return False
    try:
        if not Path(paths[0]).is_file():  # a pipe can be read only once
            return False
        with Path(paths[0]).open(encoding="utf-8") as file:
            return ONE_PROCESS.search(file.read(LONGEST_LOOK)) is not None
    except (OSError, ValueError):  # the command itself says what is wrong with it
        return False


def _overview(prog: str) -> ArgumentParser:
    """Make the help page that lists the commands."""
    width = max(len(command.name) for command in COMMANDS)
    listed = "\n".join(f"  {command.name:<{width}}  {command.help}" for command in COMMANDS)
    return ArgumentParser(
        prog=prog,
        usage=f"{prog} COMMAND [options]",
        description="Train, test and use one anomaly model per tile of large images.",
        epilog=f"commands:\n{listed}\n\n`{prog} COMMAND --help` shows the options of a command.",
        formatter_class=RawDescriptionHelpFormatter,
    )
