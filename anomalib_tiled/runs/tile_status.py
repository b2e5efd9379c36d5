"""The state of each tile of a run, as the command ``status`` shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from anomalib_tiled.config.tiling import grid_of_run
from anomalib_tiled.system.files import read_json

if TYPE_CHECKING:
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.runs.run_folder import RunFolder
    from anomalib_tiled.runs.tile_record import TileRecord


@dataclass(frozen=True)
class TileStatus:
    """The state of one tile.

    Args:
        tile: The tile.
        state: ``done``, ``left out``, ``failed``, ``damaged`` or ``missing``.
        detail: Why the tile failed, is damaged or is left out; whether it will be trained again; whether its normal
            scores hardly vary. Empty if there is nothing to say.
        record: When, where and how it was trained; ``None`` unless it is done.
    """

    tile: Tile
    state: str
    detail: str
    record: TileRecord | None = None


def tile_statuses(folder: RunFolder) -> list[TileStatus]:
    """Give the state of every tile, row by row from the top left.

    Raises:
        RunFolderError: The configuration or the calibration was changed, or a tile was trained with another
            configuration.
    """
    settings, seen = folder.settings(), folder.seen()
    grid, configuration, lenders = grid_of_run(settings), settings.training_hash, _lenders(folder)
    left_out = seen.left_out(grid, settings)
    return [_status(seen, tile, configuration, left_out.get(tile.name), lenders.get(tile.name)) for tile in grid.models]


def _lenders(folder: RunFolder) -> dict[str, str]:
    """Give the tiles that use the thresholds and scales of another one, with the name of the other one."""
    path = folder.calibration_file
    return cast("dict[str, str]", read_json(path).get("borrowed", {}) if path.is_file() else {})


def _status(folder: RunFolder, tile: Tile, configuration: str, left_out: str | None, lender: str | None) -> TileStatus:
    again = ["to be trained again"] if folder.is_to_be_trained_again(tile) else []
    if (damage := folder.damage(tile)) is not None:
        return TileStatus(tile, "damaged", "; ".join([*again, damage]))
    failure, is_done = folder.failure(tile), folder.is_done(tile, configuration)
    if not is_done and left_out is not None:
        return TileStatus(tile, "left out", "; ".join([*again, left_out]))
    if not is_done:
        return TileStatus(tile, "missing" if failure is None else "failed", failure or "")
    failed = [f"failed: {failure}"] if failure and again else []
    flat = [] if lender is None else [f"normal scores hardly vary: thresholds and scales from those of {lender}"]
    return TileStatus(tile, "done", "; ".join([*again, *failed, *flat]), folder.record(tile))
