"""Predicting the tiles of whole images: those that share a model together."""

from __future__ import annotations

from functools import cached_property
from itertools import dropwhile, islice
from typing import TYPE_CHECKING

import torch

from anomalib_tiled.data.tile_dataset import shrunk
from anomalib_tiled.ensemble.shared_features import SharedFeatures
from anomalib_tiled.ensemble.tile_model import TilePrediction
from anomalib_tiled.ensemble.tile_predictions import check_finite
from anomalib_tiled.grid import Tile, TileGrid, WholeImage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomalib_tiled.ensemble.loaded_models import TileModels

TILE_PIXELS_AT_ONCE = 2**20
"""Most pixels in a batch of tiles: it bounds the memory even if the batch size of the data module is large."""

TILES_OF_AN_IMAGE = 4
"""Most tiles of one image whose features are computed together; more are no faster, and change the last digits."""


class TileBatches:
    """Predicts the tiles of a batch of images. With one tile come the next ones of its model that fit into a batch.

    So few predictions wait, however many tiles share a model: at most a batch of tiles for each model.

    Args:
        grid: Where the tiles lie, and which share a model.
        models: The models.
        images: The images on the device of the models, shape (batch, 3, height, width).
    """

    def __init__(self, grid: TileGrid, models: TileModels, images: torch.Tensor) -> None:
        self._grid, self._models, self._images = grid, models, images
        self._waiting: dict[str, TilePrediction] = {}
        self._features = SharedFeatures(self._following)

    def predict(self, tile: Tile) -> TilePrediction:
        """Give the prediction of a tile for all images; to be called once for each tile, in the order of the grid.

        Raises:
            NotFiniteError: The model predicts infinities or NaN.
        """
        if tile.name not in self._waiting:
            self._predict_from(tile)
        return self._waiting.pop(tile.name)

    def _predict_from(self, tile: Tile) -> None:
        """Predict a tile, and the next ones of its model."""
        model = self._grid.model_of(tile)
        together = self._next_of(tile, self._grid.members(model))
        cut = [seen_by(each, self._images) for each in together]
        tiles, features = (cut[0], self._features) if len(cut) == 1 else (torch.cat(cut), None)
        raw = self._models.predict(model, tiles, features)
        for each, prediction in zip(together, _divided(raw, len(together)), strict=True):
            check_finite(each, prediction)
            self._waiting[each.name] = prediction

    @cached_property
    def _alone(self) -> dict[str, Tile]:
        """The tiles that share no model, by name."""
        return {each.name: each for each in self._grid.tiles if len(self._grid.members(self._grid.model_of(each))) == 1}

    def _following(self, name: str) -> dict[str, torch.Tensor]:
        """Give a tile and the next ones that share no model, as many as a backbone takes together, by name.

        Tiles of several images are a batch already: with more of them, the last digits would change, not the speed.
        """
        if len(self._images) > 1:
            return {}
        height, width = self._grid.tile_size
        most = min(TILES_OF_AN_IMAGE, TILE_PIXELS_AT_ONCE // (height * width))
        from_it_on = dropwhile(lambda each: each.name != name, self._alone.values())
        return {each.name: seen_by(each, self._images) for each in islice(from_it_on, most)}

    def _next_of(self, tile: Tile, members: tuple[Tile, ...]) -> tuple[Tile, ...]:
        """Give the members from a tile on, as many as have no more pixels together than the images, or than a batch."""
        if len(members) == 1:
            return members
        pixels = min(TILE_PIXELS_AT_ONCE, self._images[:, 0].numel())
        most = pixels // self._images[:, 0, tile.rows, tile.columns].numel()
        first = members.index(tile)
        return members[first : first + max(1, most)]


def seen_by(tile: Tile, images: torch.Tensor) -> torch.Tensor:
    """Give what the model of a tile sees of whole images; the global model sees all of it, shrunk."""
    area = images[..., tile.rows, tile.columns]
    return shrunk(area, tile.shrunk) if isinstance(tile, WholeImage) else area


def _divided(raw: TilePrediction, tiles: int) -> Iterator[TilePrediction]:
    """Divide the prediction of several tiles, one after the other."""
    if tiles == 1:
        yield raw
        return
    maps = [None] * tiles if raw.maps is None else raw.maps.chunk(tiles)
    yield from map(TilePrediction, raw.scores.chunk(tiles), maps)
