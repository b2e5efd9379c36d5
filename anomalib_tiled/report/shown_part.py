"""The part with its grid: what the results say of each tile location, the weakest first."""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING

from anomalib_tiled.data.image_files import read_scaled
from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.report.content import Part, ShownTile
from anomalib_tiled.report.shown_pictures import LARGEST_SIDE, address_of
from anomalib_tiled.system.files import is_file, read_table
from anomalib_tiled.system.os_errors import readable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from anomalib_tiled.grid import Tile
    from anomalib_tiled.report.reported_run import ReportedRun

Row = dict[str, str]


def read_tiles(path: Path) -> dict[str, Row]:
    """Read ``tiles.csv``: the row of each location, by its name.

    Raises:
        RunFolderError: The file is missing, or was changed.
    """
    try:
        with readable(path):
            return {row["tile"]: row for row in csv.DictReader(read_table(path))}
    except (FileNotFoundError, KeyError, ValueError, csv.Error) as error:
        message = f"{path} must hold the results of tile locations, but cannot be read ({error!r}). Test the run again."
        raise RunFolderError(message) from error


def part_of(run: ReportedRun, rows: Mapping[str, Row], drifted: Mapping[str, str]) -> Part:
    """Give the part with its grid.

    Args:
        run: The run.
        rows: Rows of ``tiles.csv`` by the names of the tiles; none if nothing is known of them.
        drifted: Words on how scores have moved, by the names of the tiles.

    Raises:
        RunFolderError: A row was changed.
    """
    height, width = run.grid.image_size
    try:
        tiles = [_tile(run, tile, rows.get(tile.name, {}), drifted.get(tile.name, "")) for tile in run.grid.locations]
    except (ValueError, TypeError) as error:
        message = f"tiles.csv must hold numbers, but was changed ({error}). Test the run again."
        raise RunFolderError(message) from error
    picture, mean = None, run.folder.mean_normal_picture
    if is_file(mean):
        picture = address_of(read_scaled(mean, LARGEST_SIDE))
    return Part(height, width, sorted(tiles, key=_strength), picture)


def _tile(run: ReportedRun, tile: Tile, row: Row, drifted: str) -> ShownTile:
    return ShownTile(
        name=tile.name,
        top=tile.rows.start,
        left=tile.columns.start,
        height=tile.size.height,
        width=tile.size.width,
        auroc=_number(row, "image_AUROC"),
        false_alarms=_count(row, "false_alarms"),
        missed=_count(row, "missed"),
        anomalous=_count(row, "anomalous"),
        normal_mean=_number(row, "normal_mean"),
        left_out=tile.name in run.grid.left_out,
        drifted=drifted,
    )


def _number(row: Row, name: str) -> float | None:
    if not row.get(name):
        return None
    if not math.isfinite(number := float(row[name])):
        message = f"{name} is {number}"
        raise ValueError(message)
    return number


def _count(row: Row, name: str) -> int | None:
    return int(row[name]) if row.get(name) else None


def _strength(tile: ShownTile) -> tuple[bool, float, int]:
    """Order tiles: those that have drifted first, then by AUROC and wrong decisions, as a test prints them."""
    return not tile.drifted, 1.0 if tile.auroc is None else tile.auroc, -(tile.missed or 0) - (tile.false_alarms or 0)
