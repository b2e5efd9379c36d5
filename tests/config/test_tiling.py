from __future__ import annotations

import pytest

from anomalib_tiled.config.settings import TilingSettings
from anomalib_tiled.config.tiling import check_sizes, grid_of, models_named
from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.grid import Size, TileGrid


def test_a_number_is_a_square_and_the_stride_is_the_tile() -> None:
    assert grid_of(TilingSettings(tile_size=4, image_size=(8, 12))) == TileGrid(Size(8, 12), Size(4, 4), Size(4, 4))
    tiling = TilingSettings(tile_size=(4, 6), stride=2, image_size=12)
    assert grid_of(tiling) == TileGrid(Size(12, 12), Size(4, 6), Size(2, 2))


def test_the_size_of_the_images_must_be_known() -> None:
    with pytest.raises(RunFolderError, match=r"must hold tiling\.image_size, but it does not\. Restore it"):
        grid_of(TilingSettings(tile_size=4, image_size=None))


def test_tiles_are_found_by_their_names() -> None:
    grid = TileGrid(Size(8, 8), Size(4, 4), Size(4, 4))
    assert models_named(grid, ["r01_c00", "r00_c01"]) == [grid.tiles[2], grid.tiles[1]]
    with pytest.raises(ConfigurationError, match=r"^--tiles names 'r02_c00', but .* Allowed: r00_c00, .*r01_c01\."):
        models_named(grid, ["r00_c00", "r02_c00"])


def test_a_tile_that_the_regions_ignore_has_no_model_to_train() -> None:
    grid = TileGrid(Size(8, 8), Size(4, 4), Size(4, 4)).ignoring(["r00_c01"])
    message = r"^--tiles names 'r00_c01', but the regions ignore all of its pixels, so it has none\. Remove it\.$"
    with pytest.raises(ConfigurationError, match=message):
        models_named(grid, ["r00_c00", "r00_c01"])


def test_any_tile_names_the_model_that_it_shares() -> None:
    grid = TileGrid(Size(8, 8), Size(4, 4), Size(4, 4)).grouped([["r00_c01", "r01_c00"]])
    assert models_named(grid, ["r01_c00", "r01_c01", "r00_c01"]) == [grid.tiles[1], grid.tiles[3]]


@pytest.mark.parametrize("size", ["256", (64,), 64.0, (64, 64.0), (1, 2, 3), True, None])
def test_a_size_is_one_or_two_whole_numbers(size: object) -> None:
    check_sizes(TilingSettings(tile_size=(4, 6), image_size=None, stride=2))
    with pytest.raises(
        ConfigurationError, match=r"tiling\.tile_size must be a whole number of pixels, or \[height, wi"
    ):
        check_sizes(TilingSettings(tile_size=size))
    if size is not None:
        with pytest.raises(ConfigurationError, match=r"tiling\.stride must be .*, but is "):
            check_sizes(TilingSettings(tile_size=4, stride=size))
