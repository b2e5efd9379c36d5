"""Finding installed plugins and the stages that they bring."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from inspect import getdoc
from typing import TYPE_CHECKING

import pluggy

from anomalib_tiled.plugins.specification import GROUP, Hooks
from anomalib_tiled.stages.merging import Merger
from anomalib_tiled.stages.normalization import Normalizer
from anomalib_tiled.stages.scoring import Scorer
from anomalib_tiled.stages.seams import SeamSmoother
from anomalib_tiled.stages.thresholding import Thresholder

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

KINDS = {
    "merging": "register_mergers",
    "scoring": "register_scorers",
    "seam_smoothing": "register_seam_smoothers",
    "normalization": "register_normalizers",
    "thresholding": "register_thresholders",
    "workers": "register_workers",
}
"""The hook of each kind, by the name of its setting."""


CONTRACTS = {
    "register_mergers": Merger,
    "register_scorers": Scorer,
    "register_seam_smoothers": SeamSmoother,
    "register_normalizers": Normalizer,
    "register_thresholders": Thresholder,
    "register_workers": object,
}
"""The class that everything a hook gives must be a subclass of."""


@dataclass(frozen=True)
class Choice:
    """A class that a configuration may name.

    Args:
        kind: Setting that it is a choice for, such as ``merging``.
        implementation: The class.
        package: Package that it came from.
        version: Version of the package.
    """

    kind: str
    implementation: type
    package: str
    version: str

    @property
    def name(self) -> str:
        """Short name in a configuration."""
        return self.implementation.__name__

    @property
    def description(self) -> str:
        """First line of the documentation."""
        return (getdoc(self.implementation) or "").partition("\n")[0]


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that could not be loaded.

    Args:
        package: Package that it came from.
        version: Version of the package.
        entry_point: Name of its entry point.
        error: What went wrong.
    """

    package: str
    version: str
    entry_point: str
    error: str


@dataclass(frozen=True)
class Plugins:
    """What is installed.

    Args:
        choices: All classes, in the order of their kinds.
        broken: Plugins that could not be loaded; only a configuration that names their stages suffers from it.
    """

    choices: tuple[Choice, ...]
    broken: tuple[BrokenPlugin, ...]

    def of(self, kind: str) -> tuple[Choice, ...]:
        """Give the choices of one kind."""
        return tuple(choice for choice in self.choices if choice.kind == kind)


def find_plugins() -> Plugins:
    """Load every installed plugin, the built-in ones among them."""
    choices: list[Choice] = []
    broken: list[BrokenPlugin] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name != "builtin", entry.name)):
        try:
            choices.extend(_choices_of(entry))
        except Exception as error:  # noqa: BLE001  # a plugin may fail in any way; it is listed with its error
            broken.append(BrokenPlugin(*_origin(entry), entry.name, f"{type(error).__name__}: {error}"))
    order = list(KINDS)
    return Plugins(tuple(sorted(choices, key=lambda choice: order.index(choice.kind))), tuple(broken))


def _choices_of(entry: EntryPoint) -> list[Choice]:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    manager.register(entry.load(), name=entry.name)
    manager.check_pending()
    return [
        Choice(kind, _class(implementation, hook), *_origin(entry))
        for kind, hook in KINDS.items()
        for classes in getattr(manager.hook, hook)()
        for implementation in classes
    ]


def _class(registered: object, hook: str) -> type:
    contract = CONTRACTS[hook]
    if isinstance(registered, type) and issubclass(registered, contract):
        return registered
    message = f"{hook} must give classes that are a {contract.__name__}, but gives {registered!r}"
    raise TypeError(message)


def _origin(entry: EntryPoint) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "unknown")
