"""Telling plugins what has happened."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anomalib_tiled.plugins.discovery import Plugin

logger = logging.getLogger(__name__)


class Observers:
    """All plugins that want to know what happens. One that fails costs nobody their run.

    Args:
        plugins: The plugins; those that do not implement a hook are not asked.
    """

    def __init__(self, plugins: Iterable[Plugin] = ()) -> None:
        self._plugins = tuple(plugins)
        self._failures: dict[tuple[Plugin, str], str] = {}

    @property
    def failures(self) -> tuple[str, ...]:
        """Which plugins failed at which hook, and how."""
        return tuple(self._failures.values())

    def tell(self, hook: str, **facts: object) -> None:
        """Tell every plugin; one that has failed at this hook before is not told again.

        Args:
            hook: Name of the hook, such as ``tile_trained``.
            facts: Its arguments.
        """
        for plugin in self._plugins:
            if (plugin, hook) not in self._failures:
                self._tell(plugin, hook, facts)

    def _tell(self, plugin: Plugin, hook: str, facts: dict[str, object]) -> None:
        try:
            getattr(plugin.manager.hook, hook)(**facts)
        except (Exception, SystemExit) as error:  # what was trained or predicted is worth more than who is told of it
            failure = f"{hook} of {plugin.origin} failed, and is not told again: {type(error).__name__}: {error}"
            self._failures[plugin, hook] = failure
            logger.exception("%s", failure)
