"""The place of ``tiled`` in anomalib's own command line.

anomalib's parser shows ``tiled`` in its help and otherwise never sees it: everything after ``anomalib tiled`` goes to
`anomalib_tiled.cli.main.main`, as it does from ``anomalib-tiled`` and ``python -m anomalib_tiled``. All three behave
alike, and anomalib's other commands do not wait for a parser that they do not need.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

if TYPE_CHECKING:
    from anomalib.cli.cli import AnomalibCLI
else:
    # Only stands in for anomalib's class, which `connect` puts behind it: this module never imports the host.
    AnomalibCLI = object

COMMAND = "tiled"
HELP = "Train, test and use one anomaly model per tile of large images."


def connect(host: ModuleType) -> None:
    """Put `TiledCommand` in front of the host's command line.

    The host's class stays as it is; the host's module names a subclass of it instead.

    Args:
        host: The module ``anomalib.cli.cli``.

    Raises:
        TypeError: The host's class is not the one that `TiledCommand` was written for.
    """
    inner = host.AnomalibCLI
    if issubclass(inner, TiledCommand):
        return
    _check(inner)
    # The module and name of the host's class, by which pickle finds this one.
    named = {name: getattr(inner, name) for name in ("__module__", "__qualname__", "__doc__")}
    host.AnomalibCLI = type(inner.__name__, (TiledCommand, inner), named)  # type: ignore[attr-defined]


def _check(inner: type) -> None:
    given = list(inspect.signature(inner.__init__).parameters)  # type: ignore[misc]
    if given != ["self", "args", "run"] or not callable(getattr(inner, "add_subcommands", None)):
        message = (
            "`anomalib tiled` needs an AnomalibCLI with __init__(self, args, run) and add_subcommands, "
            f"but got __init__({', '.join(given)}). Use `anomalib-tiled`, which does not depend on it."
        )
        raise TypeError(message)


class TiledCommand(AnomalibCLI):
    """What is added to the host's command line: the command ``tiled``.

    Args:
        args: Arguments after the name of the program; None takes those of the process.
        run: Whether to run the command. With False, the host parses the arguments and nothing else happens.

    Raises:
        SystemExit: The command ``tiled`` failed; the exit status is its code.
    """

    def __init__(self, args: Sequence[str] | None = None, run: bool = True) -> None:  # noqa: FBT001, FBT002
        arguments = list(sys.argv[1:] if args is None else args)
        if run and arguments[:1] == [COMMAND]:
            _run(arguments[1:])
        else:
            super().__init__(args, run)

    def add_subcommands(self, **settings: Any) -> None:  # noqa: ANN401
        """Add the host's commands, then ``tiled``, for the list of commands in the help."""
        super().add_subcommands(**settings)
        # No public way leads to it. A jsonargparse that calls it otherwise costs a line of help, nothing else.
        commands = getattr(self.parser, "_subcommands_action", None)
        if commands is not None:
            commands.add_subcommand(COMMAND, ArgumentParser(), help=HELP)

    def tiled(self) -> None:
        """Run the command when options of the host stand before it; the host calls commands by their names."""
        _run([])


def _run(arguments: list[str]) -> None:
    from anomalib_tiled.cli.main import main

    status = main(arguments, prog=f"anomalib {COMMAND}")
    if status != 0:
        raise SystemExit(status)
