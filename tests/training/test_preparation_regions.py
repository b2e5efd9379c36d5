"""Regions are read before a run, and belong to it from then on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_tiled.config.settings import CacheSettings, ClassSpec, Settings
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.runs.tile_status import tile_statuses
from anomalib_tiled.training import preparation

WHOLE = (slice(0, 8), slice(0, 12))


def with_regions(settings: Settings, columns: int, path: Path) -> Settings:
    """Ignore columns from the left."""
    mask = np.zeros((8, 12), dtype=np.uint8)
    mask[:, :columns] = 255
    Image.fromarray(mask).save(path)
    spec = ClassSpec("anomalib_tiled.stages.regions.Regions", {"ignore": str(path)})
    return replace(settings, stages={**settings.stages, "regions": spec})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("cached", [False, True])
def test_the_run_keeps_the_regions(settings: Settings, tmp_path: Path, cached: bool) -> None:  # noqa: FBT001
    drawn, cache = tmp_path / "ignore.png", CacheSettings(str(tmp_path / "cache")) if cached else None
    run = preparation.prepare(replace(with_regions(settings, 6, drawn), cache=cache))
    drawn.unlink()
    opened = Run.open(run.folder)
    for each in (run, opened, opened.with_images_of(opened.datamodule)):
        assert each.grid.ignored == {"r00_c00", "r01_c00"}
        (first, *_) = each.split.subset("test")
        hidden = each.source.hidden(first, *WHOLE)
        assert hidden is not None
        assert hidden[:, :6].all()
        assert not hidden[:, 6:].any()
    assert (opened.source.fingerprint is not None) == cached
    assert [tile.name for tile in opened.folder.to_train(opened.grid, opened.settings)] == [
        *("r00_c01", "r00_c02", "r01_c01", "r01_c02")
    ]
    note = "The regions ignore 50 % of the pixels of an image; 2 of 6 tile locations have no model."
    assert opened.ignored_note() == note


@pytest.mark.usefixtures("unchecked")
def test_the_state_of_ignored_tiles(settings: Settings, tmp_path: Path) -> None:
    run = preparation.prepare(with_regions(settings, 6, tmp_path / "ignore.png"))
    states = {each.tile.name: (each.state, each.detail) for each in tile_statuses(run.folder)}
    assert states["r00_c00"] == states["r01_c00"] == ("ignored", "the regions ignore all of its pixels")
    assert {states[name] for name in ("r00_c01", "r00_c02", "r01_c01", "r01_c02")} == {("missing", "")}


@pytest.mark.usefixtures("unchecked")
def test_regions_that_cannot_be_used_leave_nothing_behind(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="but ignore all 96 of an image of 8 x 12"):
        preparation.prepare(with_regions(settings, 12, tmp_path / "ignore.png"))
    assert not [path for path in Path(settings.default_root_dir).rglob("*") if path.is_file()]


@pytest.mark.usefixtures("unchecked")
def test_a_run_without_regions_has_no_file_of_them(settings: Settings) -> None:
    run = preparation.prepare(settings)
    assert not run.folder.regions_file.exists()
    assert run.ignored_note() is None
    assert run.regions is None
