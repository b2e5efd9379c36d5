"""Tiles of models with one frozen backbone: it sees several tiles at once, and predictions stay the same."""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import pytest
import torch
from anomalib.models import Padim
from anomalib.models.components import AnomalibModule, TimmFeatureExtractor

from anomalib_tiled.ensemble import tile_batches
from anomalib_tiled.ensemble.accelerated import accelerate
from anomalib_tiled.ensemble.loaded_models import TileModels
from anomalib_tiled.ensemble.tile_batches import TileBatches, seen_by
from anomalib_tiled.ensemble.tile_model import predict_tile
from anomalib_tiled.grid import Size, Tile, TileGrid

GRID = TileGrid(Size(64, 192), Size(64, 64), Size(64, 64))
"""Three tiles in a row."""


class Recording(TimmFeatureExtractor):
    """A backbone that notes how many tiles it sees at a time."""

    def forward(self, inputs: torch.Tensor) -> dict[str | int, torch.Tensor]:
        self.seen.append(len(inputs))
        return super().forward(inputs)


@cache
def first() -> Padim:
    arguments = {"backbone": "resnet18", "layers": ["layer1"], "n_features": 4, "pre_trained": False}
    model = Padim(**arguments, post_processor=False, evaluator=False, visualizer=False)
    model.pre_processor = None
    accelerate(model)
    model.model.feature_extractor.__class__ = Recording
    model.model.feature_extractor.seen = []
    return model.eval()


@cache
def model_of(name: str) -> Padim:
    """A model with the backbone of the first, and Gaussians of its own."""
    model, backbone = first(), first().model.feature_extractor
    copy = deepcopy(model)
    copy.model.feature_extractor = backbone
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    copy.model.gaussian.fit(torch.rand(9, 4, 16, 16, generator=generator))
    return copy


@pytest.fixture
def seen() -> list[int]:
    seen = first().model.feature_extractor.seen
    seen.clear()
    return seen


def check(batches: TileBatches, images: torch.Tensor, load: dict[str, AnomalibModule]) -> None:
    found = {tile.name: batches.predict(tile) for tile in GRID.tiles}
    for tile in GRID.tiles:
        expected = predict_tile(load[tile.name], seen_by(tile, images))
        torch.testing.assert_close(found[tile.name].maps, expected.maps, rtol=1e-4, atol=1e-5)


def models() -> dict[str, AnomalibModule]:
    return {tile.name: model_of(tile.name) for tile in GRID.tiles}


def batches_of(load: dict[str, AnomalibModule], images: torch.Tensor) -> TileBatches:
    return TileBatches(GRID, TileModels(lambda tile: load[tile.name], budget=0), images)


@pytest.mark.parametrize(("images", "most", "expected"), [(1, 4, [3]), (1, 2, [2, 1]), (2, 4, [2, 2, 2])])
def test_a_backbone_sees_the_tiles_of_one_image_together(
    seen: list[int], monkeypatch: pytest.MonkeyPatch, images: int, most: int, expected: list[int]
) -> None:
    monkeypatch.setattr(tile_batches, "TILES_OF_AN_IMAGE", most)
    batches = batches_of(models(), torch.rand(images, 3, 64, 192))
    for tile in GRID.tiles:
        batches.predict(tile)
    assert seen == expected


def test_predictions_stay_the_same() -> None:
    images = torch.rand(1, 3, 64, 192)
    check(batches_of(models(), images), images, models())


def test_a_model_with_another_backbone_computes_its_own_features(seen: list[int]) -> None:
    images, load = torch.rand(1, 3, 64, 192), models()
    other = deepcopy(load["r00_c01"])
    with torch.no_grad():
        next(other.model.feature_extractor.parameters()).mul_(2)
    load["r00_c01"] = other
    check(batches_of(load, images), images, load)
    assert seen[0] == 3
    assert other.model.feature_extractor.seen == [1, 1]


def test_a_model_that_changes_its_tiles_computes_its_own_features(seen: list[int]) -> None:
    images, load = torch.rand(1, 3, 64, 192), models()
    changed = deepcopy(load["r00_c02"])
    changed.model.feature_extractor = first().model.feature_extractor
    changed.model.register_forward_pre_hook(lambda _, given: (given[0] + 1,))
    load["r00_c02"] = changed
    check(batches_of(load, images), images, load)
    assert seen[:2] == [3, 1]


def test_models_without_a_backbone_predict_as_before(brightness: type[AnomalibModule]) -> None:
    images = torch.rand(1, 3, 64, 192)
    load: dict[str, AnomalibModule] = {tile.name: brightness(1.0 + tile.column) for tile in GRID.tiles}
    check(batches_of(load, images), images, load)


def test_a_backbone_computes_again_after_a_prediction(seen: list[int]) -> None:
    """Nothing of a batch stays in the model."""
    images = torch.rand(1, 3, 64, 192)
    tiles: tuple[Tile, ...] = GRID.tiles
    batches_of(models(), images).predict(tiles[0])
    predict_tile(model_of(tiles[0].name), seen_by(tiles[1], images))
    assert seen == [3, 1]


def test_no_more_is_computed_in_advance_once_a_model_cannot_use_it(
    seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tile_batches, "TILES_OF_AN_IMAGE", 2)
    grid = TileGrid(Size(64, 256), Size(64, 64), Size(64, 64))
    load = {tile.name: model_of(tile.name) for tile in grid.tiles}
    load["r00_c01"] = deepcopy(load["r00_c01"])
    batches = TileBatches(grid, TileModels(lambda tile: load[tile.name], budget=0), torch.rand(1, 3, 64, 256))
    for tile in grid.tiles:
        batches.predict(tile)
    assert seen == [2, 1, 1]
