"""Files of numbers: metrics, scores, tiles."""

from __future__ import annotations

import csv
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from anomalib_tiled.results.contradictions import contradiction
from anomalib_tiled.system.files import open_table, replacing, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from anomalib.data import ImageBatch

    from anomalib_tiled.results.metrics import Results
    from anomalib_tiled.results.tile_metrics import TileResult

SCORE_COLUMNS = ("image_path", "gt_label", "pred_score", "pred_label", "contradiction")
TILE_COLUMNS = (
    *("tile", "top", "left", "images", "anomalous", "image_AUROC", "pixel_AUROC"),
    *("normal_mean", "normal_max", "anomalous_mean", "anomalous_min", "missed", "false_alarms"),
    "left_out",
)


def write_metrics(path: Path, metrics: Results) -> None:
    """Write metrics by name; an undefined one is null."""
    write_json(path, metrics)


@contextmanager
def scores_file(path: Path) -> Iterator[Callable[[ImageBatch], None]]:
    """Write ``scores.csv`` batch by batch.

    Args:
        path: The finished file.

    Yields:
        Function that writes a batch.
    """
    with replacing(path) as temporary, open_table(temporary, "w") as file:
        csv.writer(file, lineterminator="\n").writerow(SCORE_COLUMNS)
        yield lambda batch: _write_rows(file, batch)


def write_tiles(path: Path, tiles: Sequence[TileResult]) -> None:
    """Write ``tiles.csv``: a row for each tile location, with empty cells for undefined values."""
    with replacing(path) as temporary, open_table(temporary, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(TILE_COLUMNS)
        writer.writerows([_written(value) for value in astuple(tile)] for tile in tiles)


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


def _label(value: torch.Tensor | None) -> str:
    return "" if value is None else str(int(value))
