"""Merging: from anomaly maps of tiles to anomaly maps of images."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch

from anomalib_tiled.grid import Size, Tile, TileGrid


class Merger(ABC):
    """How the anomaly maps of tiles become the map of an image.

    Called as ``start``, then ``add`` once for each tile of ``grid.tiles``, then ``finish``. Locations without a model
    are not among these tiles; the result at pixels that no tile covers is not used, and may be NaN.
    Only one batch is merged at a time. Memory must not depend on the number of tiles.
    """

    @abstractmethod
    def start(self, grid: TileGrid, batch: int, *, device: torch.device | None = None) -> None:
        """Begin with empty images.

        Args:
            grid: Where the tiles lie.
            batch: Number of images in the batch.
            device: Device of the maps and of the result.
        """

    @abstractmethod
    def add(self, tile: Tile, maps: torch.Tensor) -> None:
        """Add the maps of one tile location.

        Args:
            tile: The location.
            maps: Score per pixel, higher is more anomalous, shape (batch, 1, tile height, tile width).
        """

    @abstractmethod
    def finish(self) -> torch.Tensor:
        """Give the maps of the images, shape (batch, 1, image height, image width)."""


class WindowMerger(Merger):
    """Weighted mean of all tiles that cover a pixel: sum of weight × score over sum of weights."""

    @abstractmethod
    def window(self, size: Size) -> torch.Tensor:
        """Weight of each pixel of a tile.

        Args:
            size: Height and width of a tile in pixels.

        Returns:
            Positive weights of shape (height, width).
        """

    def start(self, grid: TileGrid, batch: int, *, device: torch.device | None = None) -> None:
        """Begin with empty images."""
        self._window = self.window(grid.tile_size).to(device)
        self._weighted = torch.zeros((batch, 1, *grid.image_size), device=device)
        self._weights = torch.zeros(tuple(grid.image_size), device=device)

    def add(self, tile: Tile, maps: torch.Tensor) -> None:
        """Add the weighted maps of one tile location."""
        self._weighted[..., tile.rows, tile.columns] += maps * self._window
        self._weights[tile.rows, tile.columns] += self._window

    def finish(self) -> torch.Tensor:
        """Divide by the weights, and free the sums."""
        merged = self._weighted.div_(self._weights)
        del self._weighted, self._weights
        return merged


class Mean(WindowMerger):
    """Mean of all tiles that cover a pixel, as in anomalib's own tiled ensemble."""

    def window(self, size: Size) -> torch.Tensor:
        """Give every pixel the same weight."""
        return torch.ones(tuple(size))


class Gaussian(WindowMerger):
    """Mean of all tiles that cover a pixel, weighted by a Gaussian around the middle of each tile.

    Args:
        sigma: Standard deviation as a fraction of the tile side.
    """

    def __init__(self, sigma: float = 0.25) -> None:
        if not 0 < sigma < math.inf:
            message = f"Gaussian merging needs a positive sigma, a fraction of the tile side, got {sigma}."
            raise ValueError(message)
        self.sigma = sigma

    def window(self, size: Size) -> torch.Tensor:
        """Weigh pixels by their distance from the middle of the tile."""
        return torch.outer(self._profile(size.height), self._profile(size.width))

    def _profile(self, side: int) -> torch.Tensor:
        distance = (torch.arange(side) - (side - 1) / 2) / (self.sigma * side)
        return torch.exp(-0.5 * distance.square()).clamp_min(1e-6)


class Hann(WindowMerger):
    """Mean of all tiles that cover a pixel, weighted by a Hann window, which falls to almost zero at tile borders."""

    def window(self, size: Size) -> torch.Tensor:
        """Weigh pixels by half a cosine wave in each direction."""
        return torch.outer(self._profile(size.height), self._profile(size.width)).clamp_min(1e-6)

    @staticmethod
    def _profile(side: int) -> torch.Tensor:
        # The window of side + 2 pixels without its two zeros: every pixel keeps a positive weight.
        return torch.hann_window(side + 2, periodic=False)[1:-1]


class Max(Merger):
    """Highest score of all tiles that cover a pixel."""

    def start(self, grid: TileGrid, batch: int, *, device: torch.device | None = None) -> None:
        """Begin with images of minus infinity."""
        self._merged = torch.full((batch, 1, *grid.image_size), float("-inf"), device=device)

    def add(self, tile: Tile, maps: torch.Tensor) -> None:
        """Keep the higher score at each pixel."""
        area = self._merged[..., tile.rows, tile.columns]
        torch.maximum(area, maps, out=area)

    def finish(self) -> torch.Tensor:
        """Return the maps, and free them."""
        merged = self._merged
        del self._merged
        return merged
