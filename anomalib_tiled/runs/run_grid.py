"""The grid of a run, with the groups of tiles that share a model: ``groups.json``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from anomalib_tiled.config.tiling import grid_of_run
from anomalib_tiled.runs.run_regions import without_ignored
from anomalib_tiled.stages.kinds import STAGE_KINDS
from anomalib_tiled.system.files import write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomalib_tiled.config.settings import Settings
    from anomalib_tiled.grid import TileGrid
    from anomalib_tiled.runs.run_folder import RunFolder
    from anomalib_tiled.stages.regions import RegionMap

ADVICE = "It says which tiles share a model: restore it. If the fit was ended before it was written, fit a new run."


def has_groups(settings: Settings) -> bool:
    """Whether tiles of a run may share models."""
    default = next(kind.default for kind in STAGE_KINDS if kind.name == "assignment")
    return settings.stages["assignment"].class_path != default


def write_groups(folder: RunFolder, groups: Sequence[Sequence[str]]) -> None:
    """Write the groups of a new run.

    Args:
        folder: The run folder.
        groups: Names of the tiles of each group.

    Raises:
        StorageError: The disk cannot be written.
    """
    write_json(folder.groups_file, {"groups": [[*group] for group in groups]})
    folder.note_checksum(folder.groups_file)


def read_grid(folder: RunFolder, settings: Settings, regions: RegionMap | None) -> TileGrid:
    """Give the grid of a run, without the locations that its regions ignore, and with its groups.

    Args:
        folder: The run folder.
        settings: Its configuration.
        regions: Its regions; ``None`` if there are none.

    Raises:
        RunFolderError: The groups are missing, or were changed.
    """
    grid = without_ignored(grid_of_run(settings), regions)
    if not has_groups(settings):
        return grid
    return grid.grouped(json.loads(folder.read(folder.groups_file, ADVICE))["groups"])
