"""Make the grid from settings, and find tiles by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from anomalib_tiled.config.settings import Plain, Settings, TilingSettings, as_size
from anomalib_tiled.errors import ConfigurationError, RunFolderError, allowed_names
from anomalib_tiled.grid import Tile, TileGrid

SIDES = 2
"""Height and width."""


def check_sizes(tiling: TilingSettings) -> None:
    """Check that sizes are whole numbers or pairs of them.

    Raises:
        ConfigurationError: One is not.
    """
    for name in ("image_size", "tile_size", "stride"):
        value = getattr(tiling, name)
        if not (_is_size(value) or (value is None and name != "tile_size")):
            found = [*value] if isinstance(value, tuple) else value
            message = f"tiling.{name} must be a whole number of pixels, or [height, width], but is {found!r}."
            raise ConfigurationError(message)


def _is_size(value: Plain) -> bool:
    sides = value if isinstance(value, tuple) and len(value) == SIDES else (value,)
    return all(type(side) is int for side in sides)


def grid_of(tiling: TilingSettings) -> TileGrid:
    """Make the grid of the settings.

    Raises:
        GridError: The sizes do not fit together.
        RunFolderError: The settings have no image size.
    """
    if tiling.image_size is None:
        message = (
            "The configuration of a run must hold tiling.image_size, but it does not. Restore it, or fit a new run."
        )
        raise RunFolderError(message)
    tile_size = as_size(tiling.tile_size)
    stride = tile_size if tiling.stride is None else as_size(tiling.stride)
    return TileGrid(as_size(tiling.image_size), tile_size, stride)


def grid_of_run(settings: Settings) -> TileGrid:
    """Make the grid of the settings, with the whole image if there is a global model.

    Raises:
        GridError: The sizes do not fit together.
        RunFolderError: The settings have no image size.
    """
    return replace(grid_of(settings.tiling), shrunk=settings.whole_size)


def models_named(grid: TileGrid, names: Sequence[str]) -> list[Tile]:
    """Give the tiles that ``--tiles`` names; for tiles that share a model, the one that the model is named after.

    Args:
        grid: The grid.
        names: Names such as ``r00_c03``; ``whole`` for the global model.

    Raises:
        ConfigurationError: The grid lacks one of them, or the regions ignore it.
    """
    tiles = {tile.name: tile for tile in grid.named}
    for name in names:
        if name in grid.ignored:
            message = f"--tiles names {name!r}, but the regions ignore all of its pixels, so it has none. Remove it."
            raise ConfigurationError(message)
        if name not in tiles:
            message = f"--tiles names {name!r}, but the grid has no such tile. {allowed_names(name, tiles)}"
            raise ConfigurationError(message)
    return [*{model.name: model for model in (grid.model_of(tiles[name]) for name in names)}.values()]
