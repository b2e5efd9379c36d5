from __future__ import annotations

import pickle
import re
from copy import deepcopy

import numpy as np
import pytest

from anomalib_tiled import grid as grid_module
from anomalib_tiled.errors import GridError
from anomalib_tiled.grid import Size, TileGrid, WholeImage


def test_blocks_cover_every_pixel_once(grid: TileGrid) -> None:
    covered = np.zeros(grid.image_size, dtype=int)
    for block in grid.blocks:
        covered[block.rows, block.columns] += 1
    assert (covered == 1).all()


def test_every_tile_is_a_union_of_whole_blocks(grid: TileGrid) -> None:
    for tile in grid.tiles:
        inside = np.zeros(grid.image_size, dtype=bool)
        inside[tile.rows, tile.columns] = True
        for block in grid.blocks:
            part = inside[block.rows, block.columns]
            assert part.all() or not part.any()


def test_tiles_cover_every_pixel_and_have_full_size(grid: TileGrid) -> None:
    covered = np.zeros(grid.image_size, dtype=bool)
    for tile in grid.tiles:
        covered[tile.rows, tile.columns] = True
        assert (tile.rows.stop - tile.rows.start, tile.columns.stop - tile.columns.start) == grid.tile_size
    assert covered.all()


def test_the_covering_tiles_change_at_cuts_only_and_at_every_cut(grid: TileGrid) -> None:
    def covering(row: int) -> set[int]:
        return {tile.row for tile in grid.tiles if tile.rows.start <= row < tile.rows.stop}

    changes = [row for row in range(1, grid.image_size.height) if covering(row - 1) != covering(row)]
    assert tuple(changes) == grid.row_seams


def test_the_last_tile_ends_at_the_border(grid: TileGrid) -> None:
    last = grid.tiles[-1]
    assert (last.rows.stop, last.columns.stop) == grid.image_size
    assert grid.shape == (last.row + 1, last.column + 1)
    assert len(grid.tiles) == grid.shape[0] * grid.shape[1]


def test_rows_and_columns_are_alike_when_the_grid_is_turned(grid: TileGrid) -> None:
    turned = TileGrid(*(Size(width, height) for height, width in (grid.image_size, grid.tile_size, grid.stride)))
    assert (turned.row_cuts, turned.row_seams) == (grid.column_cuts, grid.column_seams)


@pytest.mark.parametrize(
    ("sides", "cuts"),
    [
        ((10, 4, 3), (0, 3, 4, 6, 7, 10)),
        ((640, 256, 192), (0, 192, 256, 384, 448, 640)),  # no cut at 576, where a fourth regular tile would begin
        ((11, 4, 4), (0, 4, 7, 8, 11)),
        ((8, 8, 1), (0, 8)),
    ],
)
def test_cuts(sides: tuple[int, int, int], cuts: tuple[int, ...]) -> None:
    assert TileGrid(*(Size(side, side) for side in sides)).row_cuts == cuts


def test_names_and_description() -> None:
    grid = TileGrid(Size(8, 20), Size(4, 4), Size(4, 4))
    assert [tile.name for tile in grid.tiles][:6] == ["r00_c00", "r00_c01", "r00_c02", "r00_c03", "r00_c04", "r01_c00"]
    assert grid.tile("r01_c03") == grid.tiles[8]
    assert str(grid) == "2 x 5 tiles of 4 x 4 pixels, stride 4 x 4, in images of 8 x 20 pixels"
    assert grid.to_json() == {"image_size": [8, 20], "tile_size": [4, 4], "stride": [4, 4]}


def test_a_tile_that_is_not_there() -> None:
    grid = TileGrid(Size(8, 20), Size(4, 4), Size(4, 4))
    with pytest.raises(GridError, match=r"no tile 'r02_c00' in this grid: it has 2 rows and 5 columns"):
        grid.tile("r02_c00")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            (Size(8, 8), Size(8, 9), Size(8, 9)),
            "tile width is 9 pixels, image width is 8 pixels. Lower tiling.tile_size or raise tiling.image_size.",
        ),
        ((Size(8, 8), Size(4, 4), Size(0, 4)), "stride is 0, tile height is 4 pixels. Change tiling.stride."),
        (
            (Size(8, 8), Size(4, 4), Size(5, 4)),
            "or tiles would not cover every pixel: stride is 5, tile height is 4 pixels.",
        ),
        ((Size(8, 8), Size(0, 4), Size(4, 4)), "must be at least 1 pixel: image 8, tile 0. Change tiling."),
    ],
)
def test_sizes_that_do_not_fit_together(sizes: tuple[Size, Size, Size], message: str) -> None:
    with pytest.raises(GridError, match=re.escape(message)):
        TileGrid(*sizes)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            ((1000, 101), (1, 1), (1, 1)),
            "A grid may have at most 100000 tiles, but would have 1000 x 101. Raise tiling.tile_size",
        ),
        (((10**7, 10**7), (10**7, 10**7), (1, 1)), "may have at most 1073741824 pixels, but has 10000000 x 10000000."),
    ],
)
def test_a_grid_that_nobody_can_use_is_not_laid(
    sizes: tuple[tuple[int, int], ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid_module, "_starts", lambda *_: pytest.fail("it was laid"))
    with pytest.raises(GridError, match=re.escape(message)):
        TileGrid(*(Size(*size) for size in sizes))


def test_tiles_are_counted_as_they_are_laid(grid: TileGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    number, sizes = len(grid.tiles), (grid.image_size, grid.tile_size, grid.stride)
    monkeypatch.setattr(grid_module, "MOST_TILES", number)
    assert TileGrid(*sizes) == grid
    monkeypatch.setattr(grid_module, "MOST_TILES", number - 1)
    with pytest.raises(GridError, match=f"A grid may have at most {number - 1} tiles"):
        TileGrid(*sizes)


SIX = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4))


def test_without_groups_each_tile_has_its_own_model(grid: TileGrid) -> None:
    assert grid.models is grid.tiles
    assert grid.model_locations is grid.locations
    assert all(grid.model_of(tile) is tile and grid.members(tile) == (tile,) for tile in grid.tiles)
    assert grid.grouped([tile.name] for tile in grid.tiles) == grid


def test_the_model_of_a_group_is_named_after_its_first_tile() -> None:
    grid = SIX.grouped([["r01_c02", "r00_c02"], ["r01_c00"], ["r01_c01", "r00_c00", "r00_c01"]])
    assert grid.groups == (("r00_c00", "r00_c01", "r01_c01"), ("r00_c02", "r01_c02"))
    assert [tile.name for tile in grid.models] == ["r00_c00", "r00_c02", "r01_c00"]
    assert [grid.model_of(tile).name[-3:] for tile in grid.tiles] == ["c00", "c00", "c02", "c00", "c00", "c02"]
    assert [[tile.name for tile in grid.members(model)] for model in grid.models] == [
        *map(list, grid.groups),
        ["r01_c00"],
    ]
    assert grid.tiles == SIX.tiles


def test_a_group_is_left_out_as_a_whole() -> None:
    grid = SIX.grouped([["r00_c00", "r00_c01"], ["r00_c02", "r01_c02"]]).without(["r00_c00", "r00_c01"])
    assert [tile.name for tile in grid.models] == ["r00_c02", "r01_c00", "r01_c01"]
    assert [tile.name for tile in grid.model_locations] == ["r00_c00", "r00_c02", "r01_c00", "r01_c01"]


def test_groups_are_pickled_but_not_the_locations() -> None:
    grid = SIX.grouped([["r00_c00", "r00_c01"]])
    assert grid.models
    copied = pickle.loads(pickle.dumps(grid))  # noqa: S301  # our own
    assert copied == grid
    assert set(vars(copied)) == {"image_size", "tile_size", "stride", "left_out", "ignored", "groups", "shrunk"}
    many = TileGrid(Size(100, 100), Size(1, 1), Size(1, 1))
    assert len(pickle.dumps(many.grouped([[tile.name for tile in many.tiles]]))) < 120_000


def test_the_blocks_of_an_area_are_those_that_lie_in_it(grid: TileGrid) -> None:
    areas = [(tile.rows, tile.columns) for tile in grid.tiles]
    for rows, columns in [grid.whole, (slice(1, 3), slice(0, 2)), *areas]:
        inside = [
            (number, block)
            for number, block in enumerate(grid.blocks)
            if rows.start <= block.rows.start
            and block.rows.stop <= rows.stop
            and columns.start <= block.columns.start
            and block.columns.stop <= columns.stop
        ]
        assert list(grid.blocks_in(rows, columns)) == inside


def test_ignored_locations_are_nowhere_but_among_the_positions() -> None:
    whole = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4))
    grid = whole.ignoring({"r00_c00", "r01_c00", "r01_c02"})
    assert [tile.name for tile in grid.tiles] == ["r00_c01", "r00_c02", "r01_c01"]
    assert grid.locations == grid.tiles
    assert grid.positions == whole.locations
    assert grid.shape == whole.shape
    assert grid.without({"r00_c01"}).ignored == grid.ignored
    assert [tile.name for tile in grid.without({"r00_c01"}).locations] == ["r00_c01", "r00_c02", "r01_c01"]
    assert deepcopy(grid) == grid, "by what a pickle holds"
    assert str(grid).endswith("in images of 8 x 12 pixels, 3 of 6 tiles ignored")
    with pytest.raises(GridError, match="no tile 'r00_c00'"):
        grid.tile("r00_c00")


def test_beside_ignored_locations_there_is_no_seam() -> None:
    whole = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4))
    assert (whole.row_seams, whole.column_seams) == ((4,), (4, 8))
    left = whole.ignoring({"r00_c00", "r01_c00"})
    assert (left.row_seams, left.column_seams) == ((4,), (8,))
    assert whole.ignoring({"r00_c00"}).column_seams == (4, 8), "one in the row below"
    assert left.row_cuts == whole.row_cuts, "images are cut as before"


def test_seams_of_overlapping_tiles_beside_ignored_ones() -> None:
    grid = TileGrid(Size(4, 10), Size(4, 4), Size(4, 3))
    assert grid.column_seams == (3, 4, 6, 7)
    assert grid.ignoring({"r00_c02"}).column_seams == (3, 4), "from 4 to 7, only the middle one covers pixels"
    assert grid.ignoring({"r00_c01"}).column_seams == ()


def test_a_global_model_is_one_more_item_that_covers_the_image() -> None:
    grid = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4), shrunk=Size(4, 6))
    whole = grid.whole_image
    assert isinstance(whole, WholeImage)
    assert (whole.name, whole.size, whole.rows, whole.columns) == ("whole", (4, 6), *grid.whole)
    assert grid.tiles[0].size == (4, 4)
    assert grid.models == grid.predicted == (*grid.tiles, whole)
    assert grid.model_locations == (*grid.locations, whole)
    assert grid.kinds == (grid.tiles[0], whole)
    shared = grid.grouped([["r00_c00", "r00_c01"]])
    assert shared.named == (*grid.locations, whole)
    assert shared.models == (*(tile for tile in grid.tiles if tile.name != "r00_c01"), whole)
    assert shared.model_of(whole) == whole
    assert shared.tile("r00_c01").name == "r00_c01"
    assert str(grid).endswith("; the whole image shrunk to 4 x 6")
    assert grid.tile("whole") == whole
    assert pickle.loads(pickle.dumps(grid)) == grid  # noqa: S301  # our own


def test_without_a_global_model_all_items_are_tiles() -> None:
    grid = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4)).without(["r00_c01"])
    assert grid.whole_image is None
    assert grid.models == grid.predicted == grid.tiles
    assert grid.model_locations == grid.locations


@pytest.mark.parametrize("shrunk", [Size(9, 12), Size(8, 13), Size(0, 4)])
def test_the_whole_image_is_not_enlarged(shrunk: Size) -> None:
    with pytest.raises(GridError, match=f"global_model.image_size is {shrunk}, the image has 8 x 12 pixels"):
        TileGrid(Size(8, 12), Size(4, 4), Size(4, 4), shrunk=shrunk)
