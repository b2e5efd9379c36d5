"""The regions of a run are kept in its folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomalib_tiled.config.settings import ClassSpec, Settings
from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.runs.run_regions import read_regions, without_ignored, write_regions
from anomalib_tiled.stages.regions import RegionMap

GRID = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4))


@pytest.fixture
def regions() -> RegionMap:
    """The left half but a corner is ignored, and there are two named regions."""
    random, ignored = np.random.default_rng(0), np.zeros((8, 12), dtype=np.bool_)
    ignored[:, :6] = True
    ignored[7, 0] = False
    return RegionMap(ignored, {name: random.random((8, 12)) > 0.5 for name in ("Stecker ß", "screw 1")})


@pytest.fixture
def with_regions(settings: Settings) -> Settings:
    """Settings that name regions, which are never read from there again."""
    spec = ClassSpec("anomalib_tiled.stages.regions.Regions", {"ignore": "gone.png"})
    return replace(settings, stages={**settings.stages, "regions": spec})


@pytest.fixture
def folder(make_run: Callable[[Path, Settings], RunFolder], tmp_path: Path, with_regions: Settings) -> RunFolder:
    """A run folder."""
    return make_run(tmp_path / "v0", with_regions)


def test_regions_are_read_as_they_were_written(folder: RunFolder, regions: RegionMap, with_regions: Settings) -> None:
    write_regions(folder, regions)
    found = read_regions(folder, with_regions)
    assert found is not None
    assert (found.ignored == regions.ignored).all()
    assert [*found.named] == ["Stecker ß", "screw 1"]
    assert all((found.named[name] == mask).all() for name, mask in regions.named.items())
    assert without_ignored(GRID, found).ignored == {"r00_c00"}


def test_a_run_without_regions(folder: RunFolder, settings: Settings) -> None:
    assert read_regions(folder, settings) is None
    assert without_ignored(GRID, None) == GRID


@pytest.mark.parametrize(("change", "message"), [(b"x", "was changed after"), (None, "is missing")])
def test_regions_that_were_changed(
    folder: RunFolder, regions: RegionMap, with_regions: Settings, change: bytes | None, message: str
) -> None:
    write_regions(folder, regions)
    path = folder.regions_file
    if change is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + change)
    advice = "It holds the regions that the run was trained with: restore it, or fit a new run."
    with pytest.raises(RunFolderError, match=f"{re.escape(str(path))} {message}.*{re.escape(advice)}"):
        read_regions(folder, with_regions)
