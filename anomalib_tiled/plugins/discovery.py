"""Find the installed plugins, and the stages that they register."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from inspect import cleandoc, isabstract
from itertools import chain

import pluggy

from anomalib_tiled.errors import ConfigurationError, allowed_names
from anomalib_tiled.plugins.hookspecs import EVENT_HOOKS, hook_specifications
from anomalib_tiled.stages import kinds
from anomalib_tiled.stages.kinds import StageKind
from anomalib_tiled.system.packages import GROUP, Origin

BUILT_IN = "builtin"
"""Name of the entry point of this package."""

LIMIT = "ANOMALIB_TILED_PLUGINS"
"""Environment variable: ``off`` for no plugins, or the names of the plugins to load, separated by commas."""


@dataclass(frozen=True)
class Plugin:
    """A plugin that was loaded.

    Args:
        origin: Package that it came from.
        entry_point: Name of its entry point.
        manager: Calls the hooks of this plugin only.
    """

    origin: Origin
    entry_point: str
    manager: pluggy.PluginManager

    @property
    def event_hooks(self) -> dict[str, str]:
        """Event hooks that it implements, each with the first line of its function's docstring."""
        functions = {name: getattr(self.manager.hook, name).get_hookimpls() for name in EVENT_HOOKS}
        return {name: _first_line(each.function) for name, found in functions.items() for each in found}


@dataclass(frozen=True)
class Choice:
    """A registered class, which a configuration may name.

    Args:
        kind: Name of the kind of stage, such as ``merging``.
        implementation: The class.
        plugin: The plugin that registered it.
    """

    kind: str
    implementation: type
    plugin: Plugin

    @property
    def name(self) -> str:
        """Short name in a configuration."""
        return self.implementation.__name__

    @property
    def class_path(self) -> str:
        """Dotted path, which is never ambiguous."""
        return f"{self.implementation.__module__}.{self.implementation.__qualname__}"

    @property
    def description(self) -> str:
        """First line of the class's docstring."""
        return _first_line(self.implementation)


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that could not be loaded.

    Args:
        origin: Package that it came from.
        entry_point: Name of its entry point.
        error: Why.
    """

    origin: Origin
    entry_point: str
    error: str

    def __str__(self) -> str:
        """Name the plugin, and say why it cannot be loaded."""
        return f"{self.origin} (entry point {self.entry_point}): {self.error}"


@dataclass(frozen=True)
class Plugins:
    """The installed plugins.

    Args:
        loaded: Plugins that could be loaded, the built-in one first.
        choices: All registered classes, in the order of their kinds.
        broken: Plugins that could not be loaded; an error only for a configuration that names their stages.
    """

    loaded: tuple[Plugin, ...]
    choices: tuple[Choice, ...]
    broken: tuple[BrokenPlugin, ...]

    def of(self, kind: str) -> tuple[Choice, ...]:
        """Give the choices of one kind."""
        return tuple(choice for choice in self.choices if choice.kind == kind)


def find_plugins() -> Plugins:
    """Load every installed plugin, including the built-in one.

    Raises:
        ConfigurationError: The environment variable names a plugin that is not installed.
    """
    loaded: list[Plugin] = []
    choices: list[Choice] = []
    broken: list[BrokenPlugin] = []
    for entry in _entries():
        try:
            plugin = _load(entry)
            choices.extend(_choices_of(plugin))
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a plugin may fail in any way; `plugins` lists why
            broken.append(BrokenPlugin(_origin(entry), entry.name, f"{type(error).__name__}: {error}"))
        else:
            loaded.append(plugin)
    order = [kind.name for kind in kinds.STAGE_KINDS]
    return Plugins(tuple(loaded), tuple(sorted(choices, key=lambda choice: order.index(choice.kind))), tuple(broken))


def _entries() -> list[EntryPoint]:
    """Give the entry points to load, the built-in one first."""
    entries = sorted(entry_points(group=GROUP), key=lambda entry: (entry.name != BUILT_IN, entry.name))
    limit = os.environ.get(LIMIT, "").strip()
    if not limit:
        return entries
    wanted = set() if limit == "off" else {name.strip() for name in limit.split(",")}
    names = {entry: {entry.name, str(_origin(entry).package)} for entry in entries}
    for name in sorted(wanted.difference(chain.from_iterable(names.values()))):
        others = [entry.name for entry in entries if entry.name != BUILT_IN]
        message = f"{LIMIT} names {name!r}, but there is no such plugin. {allowed_names(name, ['off', *others])}"
        raise ConfigurationError(message)
    return [entry for entry in entries if entry.name == BUILT_IN or names[entry] & wanted]


def _load(entry: EntryPoint) -> Plugin:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hook_specifications())
    manager.register(entry.load(), name=entry.name)
    manager.check_pending()  # refuses a function that is marked as a hook but does not have the name of one
    return Plugin(_origin(entry), entry.name, manager)


def _choices_of(plugin: Plugin) -> Iterator[Choice]:
    for kind in kinds.STAGE_KINDS:
        for classes in getattr(plugin.manager.hook, kind.hook)():
            for implementation in classes:
                yield Choice(kind.name, _checked(implementation, kind), plugin)


def _checked(registered: object, kind: StageKind) -> type:
    """Give the class if it implements the contract of its kind.

    Raises:
        TypeError: It does not.
    """
    contract, hook = kind.contract, kind.hook
    if not (isinstance(registered, type) and issubclass(registered, contract)):
        message = f"{hook} must return subclasses of {contract.__name__}, but returns {registered!r}"
        raise TypeError(message)
    if isabstract(registered):
        lacking = ", ".join(sorted(getattr(registered, "__abstractmethods__", ())))
        name, base = registered.__name__, contract.__name__
        message = f"{name} of {hook} must implement every method of {base}, but lacks {lacking}"
        raise TypeError(message)
    return registered


def _first_line(documented: object) -> str:
    return cleandoc(documented.__doc__ or "").partition("\n")[0]  # inspect.getdoc would inherit that of the contract


def _origin(entry: EntryPoint) -> Origin:
    return Origin(entry.dist.name, entry.dist.version) if entry.dist else Origin(None, None)
