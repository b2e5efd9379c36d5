"""From the settings of a run to its grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalib_tiled.config import as_size
from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.grid import TileGrid

if TYPE_CHECKING:
    from anomalib_tiled.config import TilingSettings


def grid_of(tiling: TilingSettings) -> TileGrid:
    """Lay the grid that the settings describe; the image size must be known by now.

    Raises:
        GridError: The sizes do not fit together.
    """
    if tiling.image_size is None:
        message = "The configuration of a run must hold tiling.image_size. It was altered; fit a new run."
        raise RunFolderError(message)
    tile_size = as_size(tiling.tile_size)
    stride = tile_size if tiling.stride is None else as_size(tiling.stride)
    return TileGrid(as_size(tiling.image_size), tile_size, stride)
