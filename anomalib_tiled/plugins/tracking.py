"""Trackers as plugins: the loggers of a run are notified of events, and one that fails does not stop the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

from anomalib_tiled.ensemble.calibration import Calibration
from anomalib_tiled.plugins import hookimpl
from anomalib_tiled.plugins.discovery import Plugin
from anomalib_tiled.plugins.hookspecs import hook_specifications
from anomalib_tiled.results.trackers import Tracker
from anomalib_tiled.system.packages import GROUP, origin_of

if TYPE_CHECKING:
    from anomalib_tiled.ensemble.run import Run


@dataclass(frozen=True)
class TrackerHooks:
    """The event hooks of a tracker.

    Args:
        tracker: The tracker.
    """

    tracker: Tracker

    @hookimpl
    def run_calibrated(self, calibration: Calibration) -> None:
        """Send configuration and thresholds to the tracker."""
        self.tracker.log_calibration(calibration)

    @hookimpl
    def run_tested(self, output: Path, metrics: Mapping[str, object]) -> None:
        """Send metrics and pictures to the tracker."""
        self.tracker.log_test(output, metrics)


def trackers_of(run: Run) -> tuple[Plugin, ...]:
    """Make the trackers that the configuration of a run names.

    Args:
        run: The run.

    Raises:
        ConfigurationError: One is no logger, or refuses its arguments.
    """
    return tuple(_plugin(Tracker.of(run, spec)) for spec in run.settings.loggers)


def _plugin(tracker: Tracker) -> Plugin:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hook_specifications())
    kind = type(tracker.logger)
    manager.register(TrackerHooks(tracker), name=kind.__name__)
    package = origin_of(kind.__module__)
    return Plugin(replace(package, package=f"{kind.__name__} of {package.package}"), kind.__name__, manager)
