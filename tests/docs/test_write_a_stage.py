"""What the page about stages of one's own shows is installed, and works."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import current_thread
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

from anomalib_tiled.cli.main import main
from anomalib_tiled.ensemble.calibration import Calibration, Stages
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.grid import Tile
from anomalib_tiled.plugins.discovery import Plugins, find_plugins
from anomalib_tiled.plugins.hookspecs import EVENT_HOOKS
from anomalib_tiled.plugins.observers import Observers
from anomalib_tiled.stages.kinds import STAGE_KINDS
from anomalib_tiled.stages.merging import Mean
from anomalib_tiled.stages.normalization import MinMax
from anomalib_tiled.stages.scoring import Max
from anomalib_tiled.stages.thresholding import F1AdaptiveThreshold
from anomalib_tiled.stages.workers import Conditions
from anomalib_tiled.training.stage_check import GRID, check_stages
from anomalib_tiled.workers.proof import Proof
from anomalib_tiled.workers.scheduler import Scheduler, Terms
from anomalib_tiled.workers.task import Work

PAGE = Path(__file__).parents[2] / "docs" / "write-a-stage.md"
BLOCKS = re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
FILES = dict(BLOCKS)
MODULES = {name.removesuffix(".py"): text for name, text in BLOCKS if name.startswith("tiled_")}
FIRST = "tiled_brightest"
STAGES = Stages(Mean(), Max(), None, MinMax(), F1AdaptiveThreshold(), normalize_at="image", threshold_at="image")
FIELDS = {
    "merging": "merger",
    "scoring": "scorer",
    "seam_smoothing": "smoother",
    "normalization": "normalizer",
    "thresholding": "thresholder",
}
Install = Callable[..., None]


@pytest.fixture
def page(install: Install) -> Plugins:
    """All plugins of the page, installed."""
    for name, source in MODULES.items():
        install(name, source)
    plugins = find_plugins()
    assert plugins.broken == ()
    return replace(plugins, choices=tuple(each for each in plugins.choices if each.plugin.origin.package in MODULES))


def test_each_file_stands_there_once() -> None:
    assert len(FILES) == len(BLOCKS)
    assert FIRST in MODULES


def test_every_example_is_a_plugin_and_every_hook_has_one(page: Plugins) -> None:
    assert {choice.kind for choice in page.choices} == {kind.name for kind in STAGE_KINDS}
    plugins = [plugin for plugin in page.loaded if plugin.origin.package in MODULES]
    assert {name for plugin in plugins for name in plugin.event_hooks} == set(EVENT_HOOKS)
    assert all(choice.description for choice in page.choices)
    useful = {choice.plugin for choice in page.choices} | {plugin for plugin in plugins if plugin.event_hooks}
    assert {plugin.origin.package for plugin in useful} == set(MODULES)


def test_every_stage_keeps_its_contract(page: Plugins) -> None:
    tried = set()
    for choice in page.choices:
        if field := FIELDS.get(choice.kind):
            check_stages(*(replace(STAGES, **{field: choice.implementation()}) for _ in range(3)))
            tried.add(choice.kind)
    assert tried == set(FIELDS), "the page shows a stage of each kind"


def test_the_assignment_of_the_page_divides_the_tiles(page: Plugins) -> None:
    (chosen,) = page.of("assignment")
    shades = {tile.name: 10 * number for number, tile in enumerate(GRID.tiles)}
    groups = chosen.implementation().groups(GRID, lambda tile: [np.full((2, 2, 3), shades[tile.name], np.uint8)])
    assert [*groups[0], *groups[1]] == [tile.name for tile in GRID.tiles]


def look(item: None) -> str:
    return "cpu"


def test_the_workers_of_the_page_do_all_tiles(page: Plugins) -> None:
    def work(tile: Tile) -> str:
        if tile == GRID.tiles[1]:
            message = "out of luck"
            raise ValueError(message)
        return current_thread().name

    (workers,) = page.of("workers")
    scheduler = Scheduler(workers.implementation)
    with closing(scheduler):
        outcomes = [*scheduler.run(work, GRID.tiles, Terms(Conditions(), Proof({}, None, Work(look))))]
    assert sorted(outcome.item.name for outcome in outcomes) == [tile.name for tile in GRID.tiles]
    assert [str(outcome.error) for outcome in outcomes if outcome.error] == ["out of luck"]
    assert current_thread().name not in {outcome.value for outcome in outcomes}


def test_the_workers_of_the_page_are_short() -> None:
    assert len(MODULES["tiled_threads"].splitlines()) <= 50


def test_those_that_are_told_do_what_the_page_says(
    page: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", mlflow := MagicMock())
    (tmp_path / "000.png").touch()
    run = tmp_path / "v0"
    run.mkdir()
    prediction = SimpleNamespace(image_path=str(tmp_path / "000.png"), pred_label=torch.tensor(1))
    observers = Observers(plugin for plugin in page.loaded if plugin.origin.package in MODULES)
    observers.notify("tile_trained", run_folder=run, tile=GRID.tiles[1], seconds=2.345, epochs=1)
    observers.notify("run_calibrated", run_folder=run, calibration=Calibration(notes=("Tuned on the test images.",)))
    observers.notify("image_predicted", run_folder=run, prediction=prediction)
    observers.notify("run_tested", run_folder=run, output=run, metrics={"image_AUROC": 1.0, "pixel_AUROC": None})
    assert observers.failures == ()
    assert (run / "times.csv").read_text() == "0,1,2.3\n"
    assert f"{run}: Tuned on the test images." in caplog.messages
    assert (run / "review" / "000.png").is_file()
    mlflow.log_metrics.assert_called_once_with({"image_AUROC": 1.0})


def test_the_tests_of_the_page_pass(page: Plugins, tmp_path: Path) -> None:
    (tmp_path / "installed" / "test_brightest.py").write_text(FILES["test_brightest.py"])
    module = importlib.import_module("test_brightest")
    tests = [each for name, each in inspect.getmembers(module) if name.startswith("test_")]
    assert len(tests) == 2
    for each in tests:
        each()


def test_the_package_of_the_page_names_the_module_with_the_hook(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(FILES["pyproject.toml"])
    project = ProjectMetadata(str(tmp_path), PluginManager()).core
    assert project.entry_points == {"anomalib_tiled": {"brightest": FIRST}}
    assert project.dependencies == ["anomalib-tiled"]


def test_the_help_of_the_page(page: Plugins, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--scoring.help", "BrightestPixels"])
    (shown,) = re.findall(r"```text\n  (--scoring\..*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert " ".join(shown.split()) in " ".join(capsys.readouterr().out.split())


def test_the_refusal_of_a_wrong_type_of_the_page(page: Plugins, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--scoring", "BrightestPixels", "--scoring.share", "much"]) == 2
    (said,) = re.findall(r"```text\n(error: (?:(?!```).)*much\.\n)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert capsys.readouterr().err == said


def test_what_the_page_says_of_no_plugins(page: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALIB_TILED_PLUGINS", "off")
    assert {choice.plugin.origin.package for choice in find_plugins().choices} == {"anomalib-tiled"}
    monkeypatch.setenv("ANOMALIB_TILED_PLUGINS", "my_tiled_brightest, tiled_lowest")
    assert {choice.name for choice in find_plugins().choices} >= {"BrightestPixels", "Lowest", "Mean"}
    assert "Logistic" not in {choice.name for choice in find_plugins().choices}
    monkeypatch.setenv("ANOMALIB_TILED_PLUGINS", "brightess")
    with pytest.raises(ConfigurationError, match="there is no such plugin"):
        find_plugins()
