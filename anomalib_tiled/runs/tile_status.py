"""The state of each tile of a run, as the command ``status`` shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from anomalib_tiled.config.tiling import grid_of
from anomalib_tiled.system.files import read_json

if TYPE_CHECKING:
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.runs.run_folder import RunFolder


@dataclass(frozen=True)
class TileStatus:
    """The state of one tile.

    Args:
        tile: The tile.
        state: ``done``, ``left out``, ``failed`` or ``missing``.
        detail: Why the tile failed or is left out; whether it will be trained again; whether its normal scores hardly
            vary. Empty if there is nothing to say.
    """

    tile: Tile
    state: str
    detail: str


def tile_statuses(folder: RunFolder) -> list[TileStatus]:
    """Give the state of every tile, row by row from the top left.

    Raises:
        RunFolderError: The configuration, the calibration or the record of a tile was changed.
    """
    settings = folder.settings()
    grid, configuration, lenders = grid_of(settings.tiling), settings.training_hash, _lenders(folder)
    left_out = folder.left_out(grid, settings)
    return [
        _left_out(folder, tile, left_out[tile.name])
        if tile.name in left_out and not folder.is_done(tile, configuration)
        else _status(folder, tile, configuration, lenders.get(tile.name))
        for tile in grid.tiles
    ]


def _lenders(folder: RunFolder) -> dict[str, str]:
    """Give the tiles that use the thresholds and scales of another one, with the name of the other one."""
    path = folder.calibration_file
    return cast("dict[str, str]", read_json(path).get("borrowed", {}) if path.is_file() else {})


def _left_out(folder: RunFolder, tile: Tile, reason: str) -> TileStatus:
    return TileStatus(tile, "left out", "; ".join([*_to_train_again(folder, tile), reason]))


def _status(folder: RunFolder, tile: Tile, configuration: str, lender: str | None) -> TileStatus:
    failure = folder.failure(tile)
    if not folder.is_done(tile, configuration):
        return TileStatus(tile, "missing" if failure is None else "failed", failure or "")
    again = _to_train_again(folder, tile)
    failed = [f"failed: {failure}"] if failure and again else []
    flat = [] if lender is None else [f"normal scores hardly vary: thresholds and scales from those of {lender}"]
    return TileStatus(tile, "done", "; ".join([*again, *failed, *flat]))


def _to_train_again(folder: RunFolder, tile: Tile) -> list[str]:
    return ["to be trained again"] if folder.retrain_file(tile).is_file() else []
