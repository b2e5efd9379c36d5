"""The state of each tile of a run, as the command ``status`` shows it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from anomalib_tiled.runs.run_grid import read_grid
from anomalib_tiled.runs.run_regions import read_regions
from anomalib_tiled.system.files import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomalib_tiled.grid import Tile
    from anomalib_tiled.runs.run_folder import RunFolder
    from anomalib_tiled.runs.tile_record import TileRecord

IGNORED = "the regions ignore all of its pixels"


@dataclass(frozen=True)
class TileStatus:
    """The state of one tile, or of several that share a model.

    Args:
        tile: The tile; the first of those that share its model.
        state: ``done``, ``left out``, ``ignored``, ``failed``, ``damaged`` or ``missing``.
        detail: Why the tile failed, is damaged or is left out; whether it will be trained again; whether its normal
            scores hardly vary. Empty if there is nothing to say.
        record: When, where and how it was trained; ``None`` unless it is done.
        members: Names of the tiles that share its model; empty if it has its own.
    """

    tile: Tile
    state: str
    detail: str
    record: TileRecord | None = None
    members: tuple[str, ...] = ()


def tile_statuses(folder: RunFolder) -> list[TileStatus]:
    """Give the state of every model, in the order of their first tiles, row by row from the top left.

    Raises:
        RunFolderError: The configuration or the calibration was changed, or a tile was trained with another
            configuration.
    """
    settings, seen = folder.settings(), folder.seen()
    grid, lenders = read_grid(folder, settings, read_regions(folder, settings)), _lenders(folder)
    left_out, models = seen.left_out(grid, settings), {model.name for model in grid.models}
    statuses = []
    for tile in grid.positions:
        if tile.name in grid.ignored:
            statuses.append(TileStatus(tile, "ignored", IGNORED))
        elif tile.name in models:
            members = tuple(member.name for member in grid.members(tile))
            notes = [_note(name, lenders[name], members) for name in members if name in lenders]
            status = _status(seen, tile, settings.training_hash, left_out.get(tile.name), notes)
            statuses.append(replace(status, members=members if len(members) > 1 else ()))
    return statuses


def _lenders(folder: RunFolder) -> dict[str, str]:
    """Give the tiles that use the thresholds and scales of another one, with the name of the other one."""
    path = folder.calibration_file
    return cast("dict[str, str]", read_json(path).get("borrowed", {}) if path.is_file() else {})


def _note(name: str, lender: str, members: tuple[str, ...]) -> str:
    """Say that the normal scores of a tile hardly vary."""
    named = f" of {name}" if len(members) > 1 else ""
    return f"normal scores{named} hardly vary: thresholds and scales from those of {lender}"


def _status(
    folder: RunFolder, tile: Tile, configuration: str, left_out: str | None, notes: Sequence[str]
) -> TileStatus:
    again = ["to be trained again"] if folder.is_to_be_trained_again(tile) else []
    if (damage := folder.damage(tile)) is not None:
        return TileStatus(tile, "damaged", "; ".join([*again, damage]))
    failure, is_done = folder.failure(tile), folder.is_done(tile, configuration)
    if not is_done and left_out is not None:
        return TileStatus(tile, "left out", "; ".join([*again, left_out]))
    if not is_done:
        return TileStatus(tile, "missing" if failure is None else "failed", failure or "")
    failed = [f"failed: {failure}"] if failure and again else []
    return TileStatus(tile, "done", "; ".join([*again, *failed, *notes]), folder.record(tile))
