"""How ``tiled`` becomes a command of ``anomalib``, which does not search for plugins itself.

When Python starts, ``anomalib_tiled.pth`` installs a finder for the module with anomalib's command line. When a program
imports that module, the finder calls `find_spec` here, which finds the module as Python would, and connects
`TiledCommand` to it once it has run. anomalib's parser only shows ``tiled`` in its help: all arguments after it go to
`anomalib_tiled.cli.main.main`, as they do from ``anomalib-tiled`` and ``python -m anomalib_tiled``. So all three behave
alike, and anomalib's other commands do not wait for a parser that they do not need.

The environment variable ``ANOMALIB_TILED_AUTOLOAD`` set to ``0`` turns this off; ``debug`` shows why it failed.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from anomalib_tiled.system.allocation import imports_kept_apart
from anomalib_tiled.system.import_warnings import without_known_warnings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed.importlib import MetaPathFinderProtocol
    from anomalib.cli.cli import AnomalibCLI
else:
    AnomalibCLI = object  # `connect` adds anomalib's class as a base later: this module never imports it

SWITCH = "ANOMALIB_TILED_AUTOLOAD"
FINDER = "AnomalibTiledFinder"
COMMAND = "tiled"
PROGRAMS = ("anomalib", "anomalib-script")
"""Names of the host's program; the second one is that of a script on Windows."""

HELP = "Train, test and use one anomaly model per tile of large images."


def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
    """Find the module by the other finders, and connect the host once the module has run.

    Args:
        name: Full name of the module.
        path: ``__path__`` of the package around it.
        target: The module, if it is reloaded.

    Returns:
        The spec of the module; ``None`` if no other finder finds it, or autoloading is turned off.
    """
    if os.environ.get(SWITCH) == "0":
        return None
    spec = next(filter(None, (finder.find_spec(name, path, target) for finder in _other_finders())), None)
    if spec is not None and spec.loader is not None:
        spec.loader = ConnectingLoader(spec.loader)
    return spec


def _other_finders() -> list[MetaPathFinderProtocol]:
    # By name, because an environment on top of another one reads both start-up files, each with a class of its own.
    return [finder for finder in sys.meta_path if type(finder).__name__ != FINDER]


class ConnectingLoader(Loader):
    """Runs a module by its own loader, which the module gets back, and connects the host to it afterwards."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Let the module's own loader create it."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then connect the host to it.

        If the module fails, the finder stays, as the module may be imported again. A command that only reads runs at
        once instead: the module takes seconds to import, and would then do nothing but call it.
        """
        if _only_reads(sys.argv):
            _run(sys.argv[2:])
            raise SystemExit(0)
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        with _importing_for_tiled() if sys.argv[1:2] == [COMMAND] else nullcontext():
            self.loader.exec_module(module)
        # A new list: removing an item from the old one would make a thread that iterates over it skip a finder.
        sys.meta_path = _other_finders()
        try:
            connect(module)
        except Exception:  # noqa: BLE001
            # `anomalib train` must work even if this package does not fit the host.
            if os.environ.get(SWITCH) == "debug":
                sys.excepthook(*sys.exc_info())

    def __getattr__(self, name: str) -> object:
        """Give all other attributes (source code, resources) of the module's own loader."""
        # copy looks these up before __init__ has set the loader.
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.loader, name)


def connect(host: ModuleType) -> None:
    """Replace the host's command line by a subclass that handles ``tiled`` first; the host's class stays unchanged.

    Args:
        host: The module ``anomalib.cli.cli``.

    Raises:
        TypeError: The host's class is not the one that `TiledCommand` was written for.
    """
    inner = host.AnomalibCLI
    if issubclass(inner, TiledCommand):
        return
    given = list(inspect.signature(inner.__init__).parameters)
    if given != ["self", "args", "run"] or not callable(getattr(inner, "add_subcommands", None)):
        message = (
            "`anomalib tiled` needs an AnomalibCLI with __init__(self, args, run) and add_subcommands, "
            f"but got __init__({', '.join(given)}). Use `anomalib-tiled`, which does not depend on it."
        )
        raise TypeError(message)
    # pickle finds the subclass by the module and name of the host's class.
    named = {name: getattr(inner, name) for name in ("__module__", "__qualname__", "__doc__")}
    host.AnomalibCLI = type(inner.__name__, (TiledCommand, inner), named)  # type: ignore[attr-defined]


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


def _only_reads(argv: Sequence[str]) -> bool:
    """Whether the process is the program ``anomalib`` with a command of this package that needs no anomalib."""
    from anomalib_tiled.cli.main import COMMANDS

    names = [command.name for command in COMMANDS if command.reads]
    return Path(argv[0]).stem in PROGRAMS and list(argv[1:2]) == [COMMAND] and not set(argv[2:3]).isdisjoint(names)


@contextmanager
def _importing_for_tiled() -> Iterator[None]:
    """Import the host as the command imports the rest; meanwhile the fork server imports what workers need.

    Raises:
        SystemExit: Ctrl-C was pressed; the code is the exit status, as of the command.
    """
    from anomalib_tiled.cli.main import interrupted, prepare_workers

    started = getattr(sys.modules["__main__"], "__file__", None) or ""  # none in a worker, which imports the host, too
    if Path(started).stem in PROGRAMS:
        prepare_workers(sys.argv[2:])
    try:
        with without_known_warnings(), imports_kept_apart():
            yield
    except KeyboardInterrupt as error:
        raise SystemExit(interrupted(error)) from None


def _run(arguments: list[str]) -> None:
    from anomalib_tiled.cli.main import main

    if (status := main(arguments, prog=f"anomalib {COMMAND}")) != 0:
        raise SystemExit(status)
