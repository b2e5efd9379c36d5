"""Assigning: decide once, for a new run, which tiles share a model."""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from anomalib_tiled.errors import StageError
from anomalib_tiled.runs.run_grid import has_groups, write_groups
from anomalib_tiled.stages.assignment import Assignment
from anomalib_tiled.stages.contracts import errors_naming_stage, name_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from anomalib_tiled.config.settings import Settings
    from anomalib_tiled.data.cache import PixelSource
    from anomalib_tiled.data.split import Split
    from anomalib_tiled.grid import Tile, TileGrid
    from anomalib_tiled.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)


def assign(folder: RunFolder, settings: Settings, grid: TileGrid, split: Split, source: PixelSource) -> TileGrid:
    """Give the grid of a new run with its groups, which are written into the run folder.

    Args:
        folder: The run folder.
        settings: The configuration.
        grid: The grid; its tiles are assigned.
        split: Which image is used for what.
        source: Source of the pixels.

    Raises:
        ConfigurationError: The assignment does not fit the grid.
        StageError: The assignment raised an error, or did not give each tile exactly once.
    """
    if not has_groups(settings):
        return grid
    assignment = settings.stages["assignment"].build(Assignment)
    with errors_naming_stage(assignment):
        groups = [[*group] for group in assignment.groups(grid, partial(_looked_at, split, source))]
    _check(assignment, grid, groups)
    write_groups(folder, groups)
    logger.info("%d tiles share %d models.", len(grid.tiles), len(groups))
    return grid.grouped(groups)


def _looked_at(split: Split, source: PixelSource, tile: Tile) -> Iterator[NDArray[np.uint8]]:
    """Give the normal training tiles of a location."""
    for sample in split.subset("train"):
        if sample.label == 0:
            yield source.image(sample, tile.rows, tile.columns)


def _check(assignment: Assignment, grid: TileGrid, groups: Sequence[Sequence[str]]) -> None:
    """Check that each tile is in exactly one group."""
    times, tiles = Counter(name for group in groups for name in group), {tile.name for tile in grid.tiles}
    lacking, twice = tiles - times.keys(), {name for name in times if times[name] > 1}
    for names, how in ((lacking, "left out"), (times.keys() - tiles, "invented"), (twice, "repeated")):
        if names:
            message = (
                f"{name_of(assignment)} must give each of the {len(tiles)} tiles exactly once, but {how} "
                f"{len(names)}: {', '.join(sorted(names))}. Fix it, or choose another stage."
            )
            raise StageError(message)
    if not all(groups):
        message = f"{name_of(assignment)} must give groups of tiles, but gave an empty one. Fix it."
        raise StageError(message)
