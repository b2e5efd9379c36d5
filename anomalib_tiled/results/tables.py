"""Numbers for people and programs: metrics, scores, tables."""

from __future__ import annotations

import csv
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.markup import escape
from rich.table import Column, Table

from anomalib_tiled.results.contradictions import contradiction
from anomalib_tiled.system.files import open_table, replacing, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch
    from anomalib.data import ImageBatch

    from anomalib_tiled.plugins.discovery import BrokenPlugin, Plugin, Plugins
    from anomalib_tiled.results.metric_adapter import Value
    from anomalib_tiled.results.metrics import Images, Results
    from anomalib_tiled.results.tile_metrics import TileResult

SCORE_COLUMNS = ("image_path", "gt_label", "pred_score", "pred_label", "contradiction")
TILE_COLUMNS = (
    *("tile", "top", "left", "images", "anomalous", "image_AUROC", "pixel_AUROC"),
    *("normal_mean", "normal_max", "anomalous_mean", "anomalous_min", "missed", "false_alarms"),
    "left_out",
)
SHOWN = 4
"""Numbers of a list that are shown in the terminal."""


def write_metrics(path: Path, metrics: Results) -> None:
    """Write metrics by name; one that is not defined is null."""
    write_json(path, metrics)


@contextmanager
def scores_file(path: Path) -> Iterator[Callable[[ImageBatch], None]]:
    """Write ``scores.csv`` batch by batch.

    Args:
        path: The finished file.

    Yields:
        Takes in a batch.
    """
    with replacing(path) as temporary, open_table(temporary, "w") as file:
        csv.writer(file, lineterminator="\n").writerow(SCORE_COLUMNS)
        yield lambda batch: _write_rows(file, batch)


def metrics_table(metrics: Results, images: Mapping[str, Images]) -> Table:
    """Give the metrics as a table for the terminal.

    Args:
        metrics: Values by names such as ``image_AUROC``.
        images: How many images the metrics of ``image`` and of ``pixel`` come from.
    """
    table = Table("metric", "value", "images")
    for name, value in metrics.items():
        table.add_row(escape(name), escape(_shown(value)), str(images[name.partition("_")[0]]))
    return table


def write_tiles(path: Path, tiles: Sequence[TileResult]) -> None:
    """Write ``tiles.csv``: a row for each tile location, empty where something is not defined."""
    with replacing(path) as temporary, open_table(temporary, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(TILE_COLUMNS)
        writer.writerows([_written(value) for value in astuple(tile)] for tile in tiles)


def tiles_table(tiles: Sequence[TileResult]) -> Table:
    """Give tile locations as a table for the terminal."""
    table = Table("tile", "image AUROC", "pixel AUROC", "missed", "false alarms", title="Weakest tile locations")
    for tile in tiles:
        normal = tile.images - tile.anomalous
        table.add_row(
            tile.tile,
            _shown(tile.image_auroc),
            _shown(tile.pixel_auroc),
            "" if tile.missed is None else f"{tile.missed} of {tile.anomalous}",
            "" if tile.false_alarms is None else f"{tile.false_alarms} of {normal}",
        )
    return table


def plugins_table(plugins: Plugins) -> Table:
    """Give what plugins bring as a table for the terminal."""
    short = (Column(name, no_wrap=True) for name in ("kind", "name"))
    table = Table(*short, "package", "entry point", Column("description", min_width=24))
    for choice in plugins.choices:
        _add_row(table, choice.kind, choice.name, choice.plugin, choice.description)
    for plugin in plugins.loaded:
        for hook, description in plugin.observations.items():
            _add_row(table, "is told", hook, plugin, description)
    for broken in plugins.broken:
        _add_row(table, "broken", "", broken, broken.error)
    return table


def _add_row(table: Table, kind: str, name: str, plugin: Plugin | BrokenPlugin, description: str) -> None:
    table.add_row(*map(escape, (kind, name, str(plugin.origin), plugin.entry_point, description)))


def _write_rows(file: TextIO, batch: ImageBatch) -> None:
    writer = csv.writer(file, lineterminator="\n")
    for item in batch:
        score = "" if item.pred_score is None else f"{float(item.pred_score):.9g}"
        words = contradiction(item.pred_label, item.pred_mask)
        writer.writerow([item.image_path, _label(item.gt_label), score, _label(item.pred_label), words])


def _written(value: str | float | None) -> str:
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _shown(value: Value) -> str:
    """Give a value in four digits; of a long list, its beginning."""
    if isinstance(value, list):
        more = [f"... {len(value)} in all"] if len(value) > SHOWN else []
        return f"[{', '.join([*map(_shown, value[:SHOWN]), *more])}]"
    if isinstance(value, int):
        return str(value)
    return "undefined" if value is None else f"{value:.4f}"


def _label(value: torch.Tensor | None) -> str:
    return "" if value is None else str(int(value))
