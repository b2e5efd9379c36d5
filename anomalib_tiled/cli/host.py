"""The command ``tiled`` in anomalib's own command line.

anomalib's parser only shows ``tiled`` in its help. All arguments after ``anomalib tiled`` go to
`anomalib_tiled.cli.main.main`, as they do from ``anomalib-tiled`` and ``python -m anomalib_tiled``. So all three behave
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
    # This module never imports the host: `connect` adds anomalib's class as a base later.
    AnomalibCLI = object

COMMAND = "tiled"
HELP = "Train, test and use one anomaly model per tile of large images."


def connect(host: ModuleType) -> None:
    """Replace the host's command line by a subclass that handles ``tiled`` first.

    The host's class itself stays unchanged.

    Args:
        host: The module ``anomalib.cli.cli``.

    Raises:
        TypeError: The host's class is not the one that `TiledCommand` was written for.
    """
    inner = host.AnomalibCLI
    if issubclass(inner, TiledCommand):
        return
    _check(inner)
    # pickle finds the subclass by the module and name of the host's class.
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
    """Adds the command ``tiled`` to the host's command line.

    Args:
        args: Arguments after the name of the program; ``None`` for those of the process.
        run: Whether to run the command; otherwise the host only parses the arguments.

    Raises:
        SystemExit: The command ``tiled`` failed; the code is its exit status.
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
        # jsonargparse has no public name for it. If the private one changes, only a line of the help is lost.
        commands = getattr(self.parser, "_subcommands_action", None)
        if commands is not None:
            commands.add_subcommand(COMMAND, ArgumentParser(), help=HELP)

    def tiled(self) -> None:
        """Run the command after options of the host, which calls commands by their names."""
        _run([])


def _run(arguments: list[str]) -> None:
    from anomalib_tiled.cli.main import main

    status = main(arguments, prog=f"anomalib {COMMAND}")
    if status != 0:
        raise SystemExit(status)
