"""Plugins that fail in an event hook do not stop the run."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from anomalib_tiled.plugins.discovery import find_plugins
from anomalib_tiled.plugins.observers import Observers

LISTENER = """
from anomalib_tiled import hookimpl

heard = []

@hookimpl
def run_tested(metrics):
    heard.append(metrics)
    return "not of interest"
"""
BROKEN = LISTENER.replace("heard.append(metrics)", "heard.append(metrics); raise ValueError('no network')")
Install = Callable[..., None]


def observers() -> Observers:
    return Observers(find_plugins().loaded)


def heard(name: str) -> list[dict[str, float]]:
    return __import__(name).heard


def test_every_plugin_is_notified(install: Install) -> None:
    install("listener_one", LISTENER)
    install("listener_two", LISTENER)
    notified = observers()
    assert notified.notify("run_tested", run_folder=None, output=None, metrics={"image_AUROC": 1.0}) is None
    assert heard("listener_one") == heard("listener_two") == [{"image_AUROC": 1.0}]
    assert notified.failures == ()


@pytest.mark.parametrize("failure", ["ValueError('no network')", "SystemExit('no network')"])
def test_one_that_fails_is_reported_and_not_called_again(
    install: Install, caplog: pytest.LogCaptureFixture, failure: str
) -> None:
    install("a_broken_listener", BROKEN.replace("ValueError('no network')", failure))
    install("listener", LISTENER)
    notified = observers()
    with caplog.at_level(logging.ERROR):
        for value in (0.5, 1.0):
            notified.notify("run_tested", run_folder=None, output=None, metrics={"image_AUROC": value})
    (said,) = notified.failures
    assert said.startswith("run_tested of a_broken_listener 1.2 failed and is not called again: ")
    assert said.endswith(("Error: no network", "Exit: no network"))
    assert heard("a_broken_listener") == [{"image_AUROC": 0.5}]
    assert heard("listener") == [{"image_AUROC": 0.5}, {"image_AUROC": 1.0}]
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_other_hooks_of_one_that_failed_are_still_called(install: Install) -> None:
    source = BROKEN + "\n@hookimpl\ndef tile_trained(tile):\n    heard.append(tile)\n"
    install("half_broken_listener", source)
    notified = Observers([plugin for plugin in find_plugins().loaded if plugin.entry_point != "builtin"])
    notified.notify("run_tested", run_folder=None, output=None, metrics={})
    notified.notify("tile_trained", run_folder=None, tile="r00_c00", seconds=1.0, epochs=1)
    assert heard("half_broken_listener") == [{}, "r00_c00"]


def test_without_plugins_nothing_happens() -> None:
    notified = Observers()
    notified.notify("run_tested", run_folder=None, output=None, metrics={})
    assert notified.failures == ()


def test_who_listens_beyond_the_built_in_plugin_is_known(install: Install) -> None:
    assert not observers().others_listen_to("image_predicted"), "the built-in one does"
    install("listener", LISTENER)
    assert observers().others_listen_to("run_tested")
    assert not observers().others_listen_to("image_predicted")
