"""Which tiles share a model is decided once, and checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.data.cache import PixelSource
from anomalib_tiled.data.split import Split
from anomalib_tiled.errors import StageError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.stages.assignment import Assignment, Look
from anomalib_tiled.training.assigning import assign

GRID = TileGrid(Size(4, 12), Size(4, 4), Size(4, 4))


class Given(Assignment):
    """Gives what it was made with, and looks at each tile."""

    def __init__(self, groups: Sequence[Sequence[str]]) -> None:
        self.given = groups
        self.seen: dict[str, list[int]] = {}

    def groups(self, grid: TileGrid, look: Look) -> Sequence[Sequence[str]]:
        self.seen = {tile.name: [int(pixels[0, 0, 0]) for pixels in look(tile)] for tile in grid.tiles}
        return self.given


def assigned(folder: Path, assignment: Assignment, grid: TileGrid = GRID) -> TileGrid:
    """Let a stage assign the tiles of two normal images, whose pixels say image and column, beside an anomalous one."""
    spec = SimpleNamespace(class_path="somebody.Elses", build=lambda _: assignment)
    samples = [SimpleNamespace(pixel=pixel, label=label) for pixel, label in ((100, 0), (50, 1), (200, 0))]
    split = SimpleNamespace(subset=lambda name: samples if name == "train" else [])
    source = SimpleNamespace(
        image=lambda sample, rows, columns: np.full((4, 4, 3), sample.pixel + columns.start, np.uint8)
    )
    settings = cast("Settings", SimpleNamespace(stages={"assignment": spec}))
    return assign(RunFolder(folder), settings, grid, cast("Split", split), cast("PixelSource", source))


def test_groups_are_decided_on_the_training_tiles_and_kept(tmp_path: Path) -> None:
    stage = Given([["r00_c01"], ["r00_c02", "r00_c00"]])
    grid = assigned(tmp_path, stage)
    assert grid.groups == (("r00_c00", "r00_c02"),)
    assert stage.seen == {"r00_c00": [100, 200], "r00_c01": [104, 204], "r00_c02": [108, 208]}
    assert json.loads((tmp_path / "groups.json").read_text()) == {"groups": [["r00_c01"], ["r00_c02", "r00_c00"]]}
    assert "groups.json" in RunFolder(tmp_path).checksums()


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([["r00_c00"]], "left out 2: r00_c01, r00_c02"),
        ([["r00_c00", "r00_c01"], ["r00_c02", "r00_c01"]], "repeated 1: r00_c01"),
        ([["r00_c00", "r00_c01", "r00_c02"], ["r09_c00"]], "invented 1: r09_c00"),
    ],
)
def test_each_tile_must_be_in_one_group(tmp_path: Path, groups: list[list[str]], said: str) -> None:
    message = rf"^assignment Given \(.*\) must give each of the 3 tiles exactly once, but {said}\. Fix it"
    with pytest.raises(StageError, match=message):
        assigned(tmp_path, Given(groups))
    assert not (tmp_path / "groups.json").exists()


def test_a_group_must_have_tiles(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"must give groups of tiles, but gave an empty one\. Fix it\.$"):
        assigned(tmp_path, Given([["r00_c00", "r00_c01", "r00_c02"], []]))


def test_a_stage_that_fails_is_named(tmp_path: Path) -> None:
    class Failing(Assignment):
        def groups(self, grid: TileGrid, look: Look) -> Sequence[Sequence[str]]:
            del look
            return [[grid.tiles[99].name]]

    message = r"^assignment \S+Failing \(.*\) failed: IndexError: tuple index out of range\. Fix it"
    with pytest.raises(StageError, match=message) as raised:
        assigned(tmp_path, Failing())
    assert isinstance(raised.value.__cause__, IndexError)
