"""The commands: from text to settings, and the only place that prints errors."""

from __future__ import annotations

import sys
import traceback
import warnings
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from anomalib_tiled.allocation import keep_freed_memory
from anomalib_tiled.copied_process import probably_needed, start_copied_process
from anomalib_tiled.errors import TiledError, allowed_names
from anomalib_tiled.readable import CHANGE_PERMISSIONS
from anomalib_tiled.termination import Terminated, raised_when_terminated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

INTERRUPTED = 130
TERMINATED = 143
USER_ERROR = 2


@dataclass(frozen=True)
class Command:
    """A command, loaded only when it is used: anomalib takes seconds to import.

    Args:
        name: What the user types.
        help: What it does, in a line.
        function: Name of the function in ``anomalib_tiled.commands``.
        trains: Whether it may have other processes train.
        computes: Whether its time is that of models, so that memory for speed is worth it.
    """

    name: str
    help: str
    function: str
    trains: bool = False
    computes: bool = False

    def load(self) -> Callable[[Sequence[str], str], int | None]:
        """Import the function."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what other packages deprecate is not the user's concern
            function: Callable[[Sequence[str], str], int | None] = getattr(
                import_module("anomalib_tiled.commands"), self.function
            )
        return function


COMMANDS = (
    Command(
        "fit",
        "Train a model for every tile location and calibrate; or go on with an interrupted run.",
        "fit",
        trains=True,
        computes=True,
    ),
    Command("test", "Measure a run on the test images: metrics, scores and pictures.", "test"),
    Command("train", "Fit, then test.", "train", trains=True, computes=True),
    Command(
        "predict",
        "Predict new images: scores, labels and anomalous regions, no labels needed.",
        "predict",
        computes=True,
    ),
    Command("status", "Show which tiles of a run are done, left out, missing or failed.", "status"),
    Command(
        "export",
        "Write a run as files for others: torch, onnx, openvino, or checkpoints of anomalib.",
        "export",
    ),
    Command("plugins", "List the stages that are installed, and the packages that they come from.", "plugins"),
)


def main(arguments: Sequence[str] | None = None, *, prog: str = "anomalib-tiled") -> int:
    """Run a command.

    Args:
        arguments: What the user typed after the program's name; ``None`` for the arguments of this process.
        prog: The program's name in help and messages.

    Returns:
        Exit status: 0 done, 2 the user has to change something, 130 interrupted, 143 terminated, 1 anything else; 3
        and 4 are what `predict` says they are.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with raised_when_terminated():
            return _run(given, prog)
    except TiledError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201  # errors are for the terminal
        return USER_ERROR
    except KeyboardInterrupt as error:
        print("\nInterrupted.", file=sys.stderr)  # noqa: T201  # errors are for the terminal
        return TERMINATED if isinstance(error, Terminated) else INTERRUPTED
    except Exception as error:  # noqa: BLE001  # shown in full: whatever it is, it is ours to mend
        if isinstance(error, PermissionError) and error.filename is not None:  # but for what nobody has named better
            print(f"error: {error.filename}: {error.strerror}. {CHANGE_PERMISSIONS}", file=sys.stderr)  # noqa: T201
            return USER_ERROR
        traceback.print_exc()
        return 1


def _run(given: list[str], prog: str) -> int:
    if not given or given[0] in {"-h", "--help"}:
        _overview(prog).print_help()
        return 0
    for command in COMMANDS:
        if command.name == given[0]:
            if command.trains and probably_needed(given[1:]):
                start_copied_process()
            if command.computes:
                keep_freed_memory()
            return command.load()(given[1:], f"{prog} {command.name}") or 0
    message = f"There is no command {given[0]!r}. {allowed_names(given[0], [each.name for each in COMMANDS])}"
    raise TiledError(message)


def _overview(prog: str) -> ArgumentParser:
    """Give the page that lists the commands."""
    width = max(len(command.name) for command in COMMANDS)
    listed = "\n".join(f"  {command.name:<{width}}  {command.help}" for command in COMMANDS)
    return ArgumentParser(
        prog=prog,
        usage=f"{prog} COMMAND [options]",
        description="Train, test and use one anomaly model per tile of large images.",
        epilog=f"commands:\n{listed}\n\n`{prog} COMMAND --help` shows the options of a command.",
        formatter_class=RawDescriptionHelpFormatter,
    )
