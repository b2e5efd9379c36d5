"""Tiles that share a model are predicted together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from anomalib.models.components import AnomalibModule

from anomalib_tiled.ensemble import tile_batches
from anomalib_tiled.ensemble.loaded_models import TileModels
from anomalib_tiled.ensemble.tile_batches import TileBatches
from anomalib_tiled.errors import NotFiniteError
from anomalib_tiled.grid import Size, TileGrid

GRID = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4)).grouped([["r00_c00", "r00_c02", "r01_c00", "r01_c02"]])
"""Two rows, three columns; the outer columns share a model."""

Brightness = Callable[[float], AnomalibModule]


class Counted:
    """Models that note which tile they were loaded for, and how many tiles they predict at a time."""

    def __init__(self, brightness: Brightness) -> None:
        self.brightness = brightness
        self.loaded: list[str] = []
        self.sizes: list[int] = []
        self.models = TileModels(self.load)

    def load(self, tile: object) -> AnomalibModule:
        self.loaded.append(tile.name)
        model = self.brightness(1.0 + tile.column)
        model.register_forward_pre_hook(lambda _, given: self.sizes.append(len(given[0])))
        return model


def test_the_tiles_of_a_model_are_one_batch(brightness: Brightness) -> None:
    counted, images = Counted(brightness), torch.rand(2, 3, 8, 12)
    batches = TileBatches(GRID, counted.models, images)
    for tile in GRID.tiles:
        factor = 1.0 + GRID.model_of(tile).column
        expected = factor * images[..., tile.rows, tile.columns].mean(dim=1, keepdim=True)
        raw = batches.predict(tile)
        torch.testing.assert_close(raw.maps, expected)
        torch.testing.assert_close(raw.scores, expected.amax(dim=(1, 2, 3)))
    assert counted.loaded == ["r00_c00", "r00_c01", "r01_c01"]
    assert counted.sizes == [8, 2, 2]


@pytest.mark.parametrize(("pixels", "sizes"), [(64, [4, 2, 4, 2]), (1, [2] * 6)])
def test_a_batch_has_no_more_pixels_than_fit(
    brightness: Brightness, monkeypatch: pytest.MonkeyPatch, pixels: int, sizes: list[int]
) -> None:
    monkeypatch.setattr(tile_batches, "TILE_PIXELS_AT_ONCE", pixels)
    counted, images = Counted(brightness), torch.rand(2, 3, 8, 12)
    batches = TileBatches(GRID, counted.models, images)
    waiting = []
    for tile in GRID.tiles:
        raw = batches.predict(tile)
        expected = images[..., tile.rows, tile.columns].mean(dim=1, keepdim=True)
        torch.testing.assert_close(raw.maps, (1.0 + GRID.model_of(tile).column) * expected)
        waiting.append(len(batches._waiting))
    assert counted.sizes == sizes
    assert max(waiting) < len(GRID.tiles) / 2


def test_a_batch_has_no_more_pixels_than_the_images(brightness: Brightness) -> None:
    dense = TileGrid(Size(8, 8), Size(4, 4), Size(1, 1))
    counted = Counted(brightness)
    batches = TileBatches(dense.grouped([[tile.name for tile in dense.tiles]]), counted.models, torch.rand(1, 3, 8, 8))
    for tile in dense.tiles:
        batches.predict(tile)
    assert counted.sizes == [4, 4, 4, 4, 4, 4, 1]


def test_what_is_not_finite_is_named_with_its_tile(brightness: Brightness) -> None:
    images = torch.rand(1, 3, 8, 12)
    images[..., 0:4, 8:12] = torch.nan
    message = "The model of tile r00_c02 predicts infinities or NaN"
    with pytest.raises(NotFiniteError, match=message):
        TileBatches(GRID, Counted(brightness).models, images).predict(GRID.tiles[0])
