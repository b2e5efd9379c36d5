"""Notify plugins of events."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from anomalib.data import ImageItem

from anomalib_tiled.plugins.discovery import BUILT_IN, Plugin, find_plugins

logger = logging.getLogger(__name__)


class Observers:
    """All plugins with event hooks. A plugin that fails does not stop the run.

    Args:
        plugins: The plugins; each implements the hooks that it needs.
    """

    def __init__(self, plugins: Iterable[Plugin] = ()) -> None:
        self._plugins = tuple(plugins)
        self._failures: dict[tuple[Plugin, str], str] = {}

    @property
    def failures(self) -> tuple[str, ...]:
        """A sentence for each hook of a plugin that failed."""
        return tuple(self._failures.values())

    def others_listen_to(self, hook: str) -> bool:
        """Whether a plugin beyond the built-in one is notified of an event.

        Args:
            hook: Name of the hook, such as ``image_predicted``.
        """
        others = [plugin for plugin in self._plugins if plugin.entry_point != BUILT_IN]
        return any(hook in plugin.event_hooks for plugin in others)

    def notify(self, hook: str, **facts: object) -> None:
        """Call a hook of every plugin, except of those in which it failed before.

        Args:
            hook: Name of the hook, such as ``tile_trained``.
            facts: Its arguments.
        """
        for plugin in self._plugins:
            if (plugin, hook) not in self._failures:
                self._call(plugin, hook, facts)

    def _call(self, plugin: Plugin, hook: str, facts: dict[str, object]) -> None:
        try:
            getattr(plugin.manager.hook, hook)(**facts)
        except (Exception, SystemExit) as error:  # a trained tile is worth more than a notification about it
            failure = f"{hook} of {plugin.origin} failed and is not called again: {type(error).__name__}: {error}"
            self._failures[plugin, hook] = failure
            logger.exception("%s", failure)


@dataclass(frozen=True)
class PlaceObservers:
    """The plugins of the process of a place, which are notified of the images that it predicts.

    Args:
        run_folder: Folder of the run.
    """

    run_folder: Path

    def __reduce__(self) -> tuple[type[PlaceObservers], tuple[Path]]:
        """Pickle without plugins."""
        return PlaceObservers, (self.run_folder,)

    def __call__(self, prediction: ImageItem) -> None:
        """Notify them of a predicted image."""
        self._observers.notify("image_predicted", run_folder=self.run_folder, prediction=prediction)

    @property
    def failures(self) -> tuple[str, ...]:
        """A sentence for each hook of a plugin that failed in this process."""
        return self._observers.failures

    @cached_property
    def _observers(self) -> Observers:
        return Observers(find_plugins().loaded)
