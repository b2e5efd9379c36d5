"""Installed plugins, played by modules with a `.dist-info` folder beside them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anomalib_tiled.plugins.discovery import KINDS, BrokenPlugin, find_plugins
from anomalib_tiled.stages.scoring import Scorer

MEDIAN = '''
from anomalib_tiled import hookimpl
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

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution of one module, with the module as its plugin."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def write(name: str, source: str) -> None:
        names.append(name)
        (tmp_path / f"{name}.py").write_text(source)
        information = tmp_path / f"{name}-1.2.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (information / "entry_points.txt").write_text(f"[anomalib_tiled]\nmy_{name} = {name}\n")

    yield write
    for name in names:
        sys.modules.pop(name, None)


def test_the_built_in_stages_are_found() -> None:
    plugins = find_plugins()
    assert plugins.broken == ()
    assert {choice.name for choice in plugins.of("merging")} >= {"Mean", "Gaussian", "Hann", "Max"}
    assert {choice.package for choice in plugins.choices} == {"anomalib-tiled"}
    for kind in KINDS:
        assert plugins.of(kind), kind
    assert all(choice.description for choice in plugins.choices)


def test_a_stage_of_another_package_stands_beside_the_built_in_ones(install: Install) -> None:
    install("plugin_with_median", MEDIAN)
    (median,) = (choice for choice in find_plugins().of("scoring") if choice.name == "Median")
    assert issubclass(median.implementation, Scorer)
    assert (median.package, median.version) == ("plugin_with_median", "1.2")
    assert median.description == "Middle tile score."
    assert [choice.name for choice in find_plugins().of("scoring")] == ["Max", "Mean", "TopK", "Median"]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        (MEDIAN.replace("return [Median]", "return Median()"), "TypeError: 'Median' object is not iterable"),
        (MEDIAN.replace("register_scorers():", "register_scorers(grid):"), "PluginValidationError: Plugin 'my_broken"),
    ],
)
def test_a_broken_plugin_is_listed_and_spoils_nothing(install: Install, source: str, error: str) -> None:
    before = find_plugins().choices
    install("broken", source)
    plugins = find_plugins()
    (broken,) = plugins.broken
    assert broken == BrokenPlugin("broken", "1.2", "my_broken", broken.error)
    assert broken.error.startswith(error)
    assert plugins.choices == before


def test_a_misspelled_hook_is_found(install: Install) -> None:
    install("misspelled", MISSPELLED)
    (broken,) = find_plugins().broken
    assert "unknown hook 'register_scorer' in plugin" in broken.error


def test_a_broken_plugin_does_not_hide_another_one(install: Install) -> None:
    install("a_broken", "1 / 0")
    install("plugin_with_median", MEDIAN)
    assert "Median" in {choice.name for choice in find_plugins().choices}


@pytest.mark.parametrize("registered", ["int", "Median()", "'Median'"])
def test_what_is_no_class_of_its_kind_is_listed_as_broken(install: Install, registered: str) -> None:
    install("wrong_kind", MEDIAN.replace("[Median]", f"[{registered}]"))
    (broken,) = find_plugins().broken
    assert broken.package == "wrong_kind"
