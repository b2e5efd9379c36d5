"""Seam smoothing: where predictions of different tiles meet."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch.nn import functional

from anomalib_tiled.grid import TileGrid

WIDEST_BLUR = 100
"""Largest sigma in pixels: the blur reaches four times as far, and needs memory for all pixels within its reach."""


class SeamSmoother(ABC):
    """How the anomaly map is smoothed where tiles meet."""

    @abstractmethod
    def smooth(self, maps: torch.Tensor, grid: TileGrid) -> torch.Tensor:
        """Smooth anomaly maps near the seams of a grid.

        Args:
            maps: Merged maps, shape (batch, 1, height, width).
            grid: Where the seams are.

        Returns:
            Maps of the same shape; only pixels near seams differ.
        """


class GaussianSeams(SeamSmoother):
    """Gaussian blur in strips along every seam.

    A strip reaches ``width`` × tile side to either side of its seam. Every strip is blurred from the merged
    map, so crossings of strips are blurred once, in both directions:

        ░░░░▒▒░░░░
        ▒▒▒▒▒▒▒▒▒▒  ◀ strip along a row seam
        ░░░░▒▒░░░░
            ▲ strip along a column seam

    Args:
        sigma: Standard deviation of the blur in pixels, at most 100.
        width: Reach of a strip to either side of its seam as a fraction of the tile side.
    """

    def __init__(self, sigma: float = 2.0, width: float = 0.1) -> None:
        if not 0 < sigma <= WIDEST_BLUR:
            message = (
                f"GaussianSeams needs a positive sigma of at most {WIDEST_BLUR} pixels, got {sigma}. "
                "Use null for no smoothing."
            )
            raise ValueError(message)
        if not 0 < width <= 1:
            message = f"GaussianSeams needs a width between 0 and 1 of the tile side, got {width}."
            raise ValueError(message)
        self.sigma = sigma
        self.width = width

    def smooth(self, maps: torch.Tensor, grid: TileGrid) -> torch.Tensor:
        """Blur the strips along all seams."""
        smoothed = maps.clone()
        for rows in _strips(grid.row_seams, self._reach(grid.tile_size.height), grid.image_size.height):
            smoothed[:, :, rows] = self._blurred_rows(maps, rows)
        for columns in _strips(grid.column_seams, self._reach(grid.tile_size.width), grid.image_size.width):
            blurred = self._blurred_rows(maps.transpose(2, 3), columns)
            smoothed[:, :, :, columns] = blurred.transpose(2, 3)
        return smoothed

    def _reach(self, side: int) -> int:
        """Give the reach of a strip in pixels: at least 1, so that a small tile is smoothed too."""
        return max(1, int(self.width * side))

    def _blurred_rows(self, maps: torch.Tensor, rows: slice) -> torch.Tensor:
        """Blur some rows in both directions; reads as many neighbouring rows as the kernel needs."""
        kernel = self._kernel(maps)
        radius = len(kernel) // 2
        height = maps.shape[2]
        top, bottom = max(0, rows.start - radius), min(height, rows.stop + radius)
        # At the image's border the map is mirrored; inside it the neighbouring rows are there already.
        above, below = radius - (rows.start - top), radius - (bottom - rows.stop)
        padded = _mirrored(maps[:, :, top:bottom], (above, below), dim=2)
        padded = _mirrored(padded, (radius, radius), dim=3)
        vertical = functional.conv2d(padded, kernel.view(1, 1, -1, 1))
        return functional.conv2d(vertical, kernel.view(1, 1, 1, -1))

    def _kernel(self, maps: torch.Tensor) -> torch.Tensor:
        """Give the Gaussian weights out to four standard deviations, on the device of the maps."""
        radius = int(4 * self.sigma + 0.5)
        distance = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
        weights = torch.exp(-0.5 * (distance / self.sigma).square())
        return weights / weights.sum()


def _strips(seams: tuple[int, ...], reach: int, side: int) -> list[slice]:
    """Give the strips around seams; strips that touch or overlap are joined."""
    strips: list[slice] = []
    for seam in seams:
        start, stop = max(0, seam - reach), min(side, seam + reach)
        if strips and start <= strips[-1].stop:
            strips[-1] = slice(strips[-1].start, stop)
        else:
            strips.append(slice(start, stop))
    return strips


def _mirrored(maps: torch.Tensor, padding: tuple[int, int], dim: int) -> torch.Tensor:
    """Extend maps by mirroring at the outermost pixel, as often as the padding needs."""
    before, after = padding
    if not before and not after:
        return maps
    side = maps.shape[dim]
    position = torch.arange(-before, side + after, device=maps.device)
    period = max(1, 2 * (side - 1))
    position = (position.remainder(period) - (side - 1)).abs()
    return maps.index_select(dim, (side - 1) - position)
