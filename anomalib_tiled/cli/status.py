"""The command ``status``, in a module of its own: it reads small files, and waits for no import of PyTorch."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from anomalib_tiled.cli.parser import folder_named, run_parser
from anomalib_tiled.cli.terminal import say
from anomalib_tiled.runs.package_versions import changed_origins
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.runs.tile_status import tile_statuses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomalib_tiled.runs.tile_status import TileStatus

COLUMNS = ("tile", "shared by", "state", "seconds", "host", "device", "detail")

NAMED = 4
"""Tiles that share a model, of which a row names at most so many."""


def status(arguments: Sequence[str], prog: str) -> None:
    """Show the state of each tile of a run."""
    parsed = run_parser(
        prog, "Show which tiles are done, left out, damaged, missing or failed, and where each was trained."
    ).parse_args(list(arguments))
    folder = RunFolder.open(folder_named("--ckpt_dir", parsed.ckpt_dir))
    for note in changed_origins(folder.origins()):
        say(f"Note: {note}")
    tiles = tile_statuses(folder)
    say("\n".join(lines([COLUMNS, *map(cells, tiles)])))
    counts = Counter(each.state for each in tiles)
    calibrated = "calibrated" if folder.calibration_file.is_file() else "not calibrated yet"
    others = "".join(f", {counts[state]} {state}" for state in ("left out", "ignored", "damaged") if counts[state])
    say(f"{counts['done']} of {len(tiles)} tiles done{others}, {calibrated}.")


def cells(tile: TileStatus) -> tuple[str, ...]:
    """Write the state of a tile as the texts of a row; empty where nothing is known."""
    record = tile.record
    where = ("", "", "") if record is None else (f"{record.seconds:.1f}", record.host or "", record.device or "")
    return (tile.tile.name, _sharing(tile.members), tile.state, *where, tile.detail)


def _sharing(members: Sequence[str]) -> str:
    """Name the tiles that share a model; empty if there is only one."""
    more = f" and {len(members) - NAMED} more" if len(members) > NAMED else ""
    return f"{', '.join(members[:NAMED])}{more}"


def lines(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lay out rows below each other, without columns that are empty but for their title.

    rich takes longer for a table of ten thousand rows than all else together. Long texts come last and are not wrapped,
    so that what they advise can be copied.

    Args:
        rows: The titles, then the rows.
    """
    shown = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in shown]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in zip(*shown, strict=True)]
