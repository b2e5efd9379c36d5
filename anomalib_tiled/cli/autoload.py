"""How ``tiled`` becomes a command of ``anomalib``, which does not search for plugins itself.

When Python starts, ``anomalib_tiled.pth`` installs a finder for the module with anomalib's command line. When a program
imports that module, the finder calls `find_spec` here, which finds the module as Python would, and connects
`anomalib_tiled.cli.host` to it once it has run.

The environment variable ``ANOMALIB_TILED_AUTOLOAD`` set to ``0`` turns this off; ``debug`` shows why it failed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

from anomalib_tiled.system.import_warnings import without_known_warnings

if TYPE_CHECKING:
    from _typeshed.importlib import MetaPathFinderProtocol

SWITCH = "ANOMALIB_TILED_AUTOLOAD"
FINDER = "AnomalibTiledFinder"
COMMAND = "tiled"


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
    candidates = (finder.find_spec(name, path, target) for finder in _other_finders() if hasattr(finder, "find_spec"))
    spec = next((spec for spec in candidates if spec is not None), None)
    if spec is not None and spec.loader is not None and hasattr(spec.loader, "exec_module"):
        spec.loader = ConnectingLoader(spec.loader)
    return spec


def _other_finders() -> list[MetaPathFinderProtocol]:
    # By name, because an environment on top of another one reads both start-up files, each with a class of its own.
    return [finder for finder in sys.meta_path if type(finder).__name__ != FINDER]


class ConnectingLoader(Loader):
    """Runs a module by its own loader, and connects the host to it afterwards.

    Args:
        loader: The module's own loader, which the module gets back before it runs.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Let the module's own loader create it."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then connect the host to it. Known warnings are hidden for the command ``tiled`` only.

        If the module fails, the finder stays, as the module may be imported again.
        """
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        with without_known_warnings() if sys.argv[1:2] == [COMMAND] else nullcontext():
            self.loader.exec_module(module)
        # A new list: removing an item from the old one would make a thread that iterates over it skip a finder.
        sys.meta_path = _other_finders()
        _connect(module)

    def __getattr__(self, name: str) -> object:
        """Give all other attributes (source code, resources) of the module's own loader."""
        # copy looks these up before __init__ has set the loader.
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.loader, name)


def _connect(host: ModuleType) -> None:
    try:
        from anomalib_tiled.cli.host import connect

        connect(host)
    except Exception:  # noqa: BLE001
        # `anomalib train` must work even if this package does not fit the host, was removed halfway, or is broken.
        # `anomalib-tiled` reports the reason.
        if os.environ.get(SWITCH) == "debug":
            sys.excepthook(*sys.exc_info())
