"""Lines and tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TextIO

    from anomalib_tiled.plugins.discovery import BrokenPlugin, Plugin, Plugins
    from anomalib_tiled.results.class_metrics import Value
    from anomalib_tiled.results.metrics import ImageCounts, Results
    from anomalib_tiled.results.prediction_row import PredictedImage
    from anomalib_tiled.results.tile_metrics import TileResult

SHOWN = 4
"""How many numbers of a list to show in the terminal."""


def say(text: str, console: Console | None = None) -> None:
    """Print text as it is, without wrapping lines, so that paths can be copied.

    Args:
        text: The text.
        console: Where to print it; ``None`` for standard output.
    """
    (console or Console()).print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)


def image_line(image: PredictedImage) -> str:
    """Give the line about a predicted image: verdict, score, regions, path; in this order, so that columns align.

    Args:
        image: The prediction.
    """
    score = "no score" if image.pred_score is None else f"{image.pred_score:.6g}"
    number = len(image.regions)
    regions = "no part" if image.unaligned else f"{number or 'no'} region{'' if number == 1 else 's'}"
    path = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in image.image_path)  # one line stays one
    return f"{image.verdict:<9}  {score:<9}  {regions:<10}  {path}"


def show_image(image: PredictedImage, stream: TextIO | None) -> None:
    """Print the line about a predicted image at once, as another program may wait for it.

    Args:
        image: The prediction.
        stream: Where to print it; ``None`` if that was closed before Python started.

    Raises:
        OSError: The other program has ended, or the disk is full. (A console of rich would take its own measures.)
    """
    if stream is None:
        return
    try:
        print(image_line(image), file=stream, flush=True)
    except OSError as error:
        error.filename = "Standard output"  # for the message
        raise


def metrics_table(metrics: Results, images: Mapping[str, ImageCounts]) -> Table:
    """Make the table of metrics.

    Args:
        metrics: Values by names such as ``image_AUROC``.
        images: Number of images behind the metrics of ``image`` and of ``pixel``.
    """
    table = Table("metric", "value", "images")
    for name, value in metrics.items():
        table.add_row(escape(name), escape(_shown(value)), str(images[name.partition("_")[0]]))
    return table


def tiles_table(tiles: Sequence[TileResult]) -> Table:
    """Make the table of the weakest tile locations."""
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
    """Make the table of stages, event hooks and broken plugins."""
    short = (Column(name, no_wrap=True) for name in ("kind", "name"))
    table = Table(*short, "package", "entry point", Column("description", min_width=24))
    for choice in plugins.choices:
        _add_row(table, choice.kind, choice.name, choice.plugin, choice.description)
    for plugin in plugins.loaded:
        for hook, description in plugin.event_hooks.items():
            _add_row(table, "hook", hook, plugin, description)
    for broken in plugins.broken:
        _add_row(table, "broken", "", broken, broken.error)
    return table


def _add_row(table: Table, kind: str, name: str, plugin: Plugin | BrokenPlugin, description: str) -> None:
    table.add_row(*map(escape, (kind, name, str(plugin.origin), plugin.entry_point, description)))


def _shown(value: Value) -> str:
    """Write a value with four digits; of a long list, only the beginning."""
    if isinstance(value, list):
        more = [f"... {len(value)} in all"] if len(value) > SHOWN else []
        return f"[{', '.join([*map(_shown, value[:SHOWN]), *more])}]"
    if isinstance(value, int):
        return str(value)
    return "undefined" if value is None else f"{value:.4f}"
