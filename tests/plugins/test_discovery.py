"""Installed plugins, played by modules with a `.dist-info` folder beside them."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.plugins.discovery import LIMIT, BrokenPlugin, find_plugins
from anomalib_tiled.stages.kinds import STAGE_KINDS
from anomalib_tiled.stages.scoring import Scorer
from anomalib_tiled.system.packages import Origin

MEDIAN = '''
from anomalib_tiled import hookimpl
from anomalib_tiled.stages.kinds import STAGE_KINDS
from anomalib_tiled.stages.scoring import Scorer

class Median(Scorer):
    """Middle tile score.

    Less nervous.
    """

    def score(self, tile_scores, maps):
        return tile_scores.median(dim=0).values

@hookimpl
def register_scorers():
    return [Median]
'''
MISSPELLED = """
from anomalib_tiled import hookimpl

@hookimpl
def register_scorer():
    return []
"""
TOLD = """
from anomalib_tiled import hookimpl

@hookimpl
def run_tested(metrics):
    '''Send a message.'''
"""
ORIGIN = Origin("plugin_with_median", "1.2")

Install = Callable[..., None]


def test_the_built_in_stages_are_found() -> None:
    plugins = find_plugins()
    assert plugins.broken == ()
    assert {choice.name for choice in plugins.of("merging")} >= {"Mean", "Gaussian", "Hann", "Max"}
    assert {choice.plugin.origin.package for choice in plugins.choices} == {"anomalib-tiled"}
    for kind in STAGE_KINDS:
        assert plugins.of(kind.name), kind
    assert all(choice.description for choice in plugins.choices)


def test_a_stage_of_another_package_stands_beside_the_built_in_ones(install: Install) -> None:
    install("plugin_with_median", MEDIAN)
    (median,) = (choice for choice in find_plugins().of("scoring") if choice.name == "Median")
    assert issubclass(median.implementation, Scorer)
    assert (median.plugin.origin, median.plugin.entry_point) == (ORIGIN, "my_plugin_with_median")
    assert median.class_path == "plugin_with_median.Median"
    assert median.description == "Middle tile score."
    assert [choice.name for choice in find_plugins().of("scoring")] == ["Max", "Mean", "TopK", "Median"]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        (MEDIAN.replace("return [Median]", "return Median()"), "TypeError: 'Median' object is not iterable"),
        (MEDIAN.replace("register_scorers():", "register_scorers(grid):"), "PluginValidationError: Plugin 'my_broken"),
    ],
)
def test_a_broken_plugin_is_listed_and_spoils_nothing(install: Install, source: str, error: str) -> None:
    before = find_plugins().choices
    install("broken", source)
    plugins = find_plugins()
    (broken,) = plugins.broken
    assert broken == BrokenPlugin(Origin("broken", "1.2"), "my_broken", broken.error)
    assert broken.error.startswith(error)
    assert [choice.class_path for choice in plugins.choices] == [choice.class_path for choice in before]


def test_a_misspelled_hook_is_found(install: Install) -> None:
    install("misspelled", MISSPELLED)
    (broken,) = find_plugins().broken
    assert "unknown hook 'register_scorer' in plugin" in broken.error


@pytest.mark.parametrize("registered", ["int", "Median()"])
def test_what_is_no_class_of_its_kind_is_listed_as_broken(install: Install, registered: str) -> None:
    install("wrong_kind", MEDIAN.replace("[Median]", f"[{registered}]"))
    (broken,) = find_plugins().broken
    assert broken.origin.package == "wrong_kind"
    assert "register_scorers must return subclasses of Scorer, but returns" in broken.error


def test_a_class_that_lacks_a_method_is_listed_as_broken(install: Install) -> None:
    install("unfinished", MEDIAN.replace("def score(", "def rate("))
    (broken,) = find_plugins().broken
    assert "Median of register_scorers must implement every method of Scorer, but lacks score" in broken.error


@pytest.mark.parametrize(
    ("limit", "loaded"),
    [
        ("off", ["builtin"]),
        ("second", ["builtin", "my_second"]),
        ("my_first, second", ["builtin", "my_first", "my_second"]),
        ("", ["builtin", "my_first", "my_second"]),
    ],
)
def test_the_environment_limits_what_is_loaded(
    install: Install, monkeypatch: pytest.MonkeyPatch, limit: str, loaded: list[str]
) -> None:
    install("first", MEDIAN)
    install("second", MEDIAN)
    monkeypatch.setenv(LIMIT, limit)
    assert [plugin.entry_point for plugin in find_plugins().loaded] == loaded


def test_a_limit_that_names_nothing_is_an_error(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("first", MEDIAN)
    monkeypatch.setenv(LIMIT, "my_frist")
    message = "names 'my_frist', but there is no such plugin. Did you mean 'my_first'? Allowed: my_first, off."
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        find_plugins()


def test_a_description_is_the_class_s_own(install: Install) -> None:
    install("silent", MEDIAN.replace("Middle tile score.", ""))
    (median,) = (choice for choice in find_plugins().of("scoring") if choice.name == "Median")
    assert not median.description.startswith("How ")


def test_a_plugin_that_is_told_what_happens_is_known(install: Install) -> None:
    install("listener", TOLD)
    (plugin,) = (plugin for plugin in find_plugins().loaded if plugin.entry_point == "my_listener")
    assert plugin.event_hooks == {"run_tested": "Send a message."}
