"""What is laid side by side is what would have been written in place."""

from __future__ import annotations

import pytest
import torch

from anomalib_tiled.ensemble.uninspected import uninspected_pixels
from anomalib_tiled.export.graph_merging import for_graphs
from anomalib_tiled.grid import Tile, TileGrid
from anomalib_tiled.stages.merging import Gaussian, Max, Merger


class Last(Max):
    """A merger with a rule of its own."""

    def add(self, tile: Tile, maps: torch.Tensor) -> None:
        self._merged[..., tile.rows, tile.columns] = maps


def merged(merger: Merger, grid: TileGrid) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    merger.start(grid, 2)
    for tile in grid.tiles:
        merger.add(tile, torch.rand(2, 1, *grid.tile_size, generator=random))
    return merger.finish()


EACH = pytest.mark.parametrize("merger", [Gaussian(0.3), Max()], ids=lambda each: type(each).__name__)


@EACH
def test_mergers_for_graphs_give_the_same_maps(merger: Merger, grid: TileGrid) -> None:
    replaced = for_graphs(merger, grid)
    assert replaced is not merger
    torch.testing.assert_close(merged(replaced, grid), merged(merger, grid), rtol=1e-6, atol=1e-6)
    if len(grid.tiles) > 1:
        lacking = grid.without([grid.tiles[0].name])
        seen = ~torch.from_numpy(uninspected_pixels(lacking))
        found, expected = (merged(each, lacking)[..., seen] for each in (for_graphs(merger, lacking), merger))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_merger_with_a_rule_of_its_own_is_left_alone(grid: TileGrid) -> None:
    merger = Last()
    assert for_graphs(merger, grid) is merger
