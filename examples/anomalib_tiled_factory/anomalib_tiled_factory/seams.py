"""Seam smoothing with a median, which removes narrow ridges and keeps the edges of defects sharp."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from anomalib_tiled import SeamSmoother, TileGrid


class MedianSeams(SeamSmoother):
    """Median across every seam, for narrow ridges of too high scores along the borders of tiles.

    Networks pad their input with zeros, also where a tile ends inside the image. Maps may have a ridge there, which a
    blur makes wider. A median removes it: a ridge of ``reach`` pixels to either side of a seam is less than half of
    the window, and anything wider than half of the window stays. So do steps; those are for ``GaussianSeams``.

        ────────────┐
           ridge    │ reach     window of 4 × reach + 1 pixels,
        ─── seam ───┤           across the seam, around each
           ridge    │ reach     pixel between these lines
        ────────────┘

    Args:
        reach: Pixels to either side of a seam that are filtered.
    """

    def __init__(self, reach: int = 2) -> None:
        if reach < 1:
            message = f"MedianSeams needs a reach of at least 1 pixel, got {reach}. Use null for no smoothing."
            raise ValueError(message)
        self.reach = reach

    def smooth(self, maps: torch.Tensor, grid: TileGrid) -> torch.Tensor:
        """Filter across row seams, then across column seams, so that no ridge is left where they cross."""
        filtered = self._filtered(maps.cpu().numpy(), grid.row_seams, axis=2)
        filtered = self._filtered(filtered, grid.column_seams, axis=3)
        return torch.from_numpy(filtered).to(maps.device)

    def _filtered(self, maps: NDArray[np.float32], seams: tuple[int, ...], axis: int) -> NDArray[np.float32]:
        """Filter the strips along seams in one direction, reading as many neighbours as the window needs."""
        result = maps.copy()
        source, target = np.moveaxis(maps, axis, 0), np.moveaxis(result, axis, 0)
        for seam in seams:
            begin, start = max(0, seam - 3 * self.reach), max(0, seam - self.reach)
            around = median_filter(source[begin : seam + 3 * self.reach], (4 * self.reach + 1, 1, 1, 1))
            strip = target[start : seam + self.reach]
            strip[:] = around[start - begin :][: len(strip)]
        return result
