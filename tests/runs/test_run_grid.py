"""The grid of a run knows which tiles share a model."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.runs.run_grid import read_grid, write_groups

SHARED = {"class_path": "anomalib_tiled.stages.assignment.Shared"}
GROUPS = [["r00_c01", "r01_c01"], ["r00_c00", "r00_c02", "r01_c00", "r01_c02"]]


@pytest.fixture
def settings(changed: Callable[[str, object], Settings]) -> Settings:
    return changed("assignment", SHARED)


def test_a_run_without_groups_needs_no_file(tmp_path: Path, configuration: dict[str, object]) -> None:
    settings = Settings.from_mapping(configuration)
    assert read_grid(RunFolder(tmp_path), settings, None).groups == ()


def test_groups_are_read_as_they_were_written(tmp_path: Path, settings: Settings) -> None:
    folder = RunFolder(tmp_path)
    write_groups(folder, GROUPS)
    grid = read_grid(folder, settings, None)
    assert [tile.name for tile in grid.models] == ["r00_c00", "r00_c01"]
    assert grid.groups == (tuple(GROUPS[1]), tuple(GROUPS[0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_text(path.read_text().replace("r01_c01", "r01_c02")), "changed"),
    ],
)
def test_groups_that_were_lost_or_changed_are_refused(
    tmp_path: Path, settings: Settings, change: Callable[[Path], None], message: str
) -> None:
    folder = RunFolder(tmp_path)
    write_groups(folder, GROUPS)
    change(folder.groups_file)
    advice = r".*It says which tiles share a model: restore it\. If the fit .* before it was written, fit a new run\.$"
    with pytest.raises(RunFolderError, match=f"^{re.escape(str(folder.groups_file))}.*{message}{advice}"):
        read_grid(folder, settings, None)


def test_a_model_is_named_in_the_place_of_its_tiles(tmp_path: Path, settings: Settings) -> None:
    folder = RunFolder(tmp_path)
    write_groups(folder, GROUPS)
    grid = read_grid(folder, settings, None)
    assert [tile.name for tile in folder.missing(grid, settings)] == ["r00_c00", "r00_c01"]
    folder.leave_out(grid.models[0], "it is blank", settings.training_hash)
    assert folder.left_out(grid, settings) == dict.fromkeys(GROUPS[1], "it is blank")
    assert [tile.name for tile in folder.to_train(grid.without(GROUPS[1]), settings)] == ["r00_c01"]
