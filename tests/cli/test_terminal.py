from __future__ import annotations

import io
from dataclasses import replace

import pluggy
from rich.console import Console
from rich.table import Table

from anomalib_tiled.cli.terminal import image_line, metrics_table, plugins_table, tiles_table
from anomalib_tiled.grid import Size
from anomalib_tiled.plugins.discovery import BrokenPlugin, Choice, Plugin, Plugins, find_plugins
from anomalib_tiled.plugins.hookspecs import EVENT_HOOKS
from anomalib_tiled.results.metrics import ImageCounts
from anomalib_tiled.results.prediction_row import PredictedImage
from anomalib_tiled.results.regions import Region
from anomalib_tiled.results.tile_metrics import TileResult
from anomalib_tiled.stages import merging, scoring
from anomalib_tiled.system.packages import Origin

ONE = Plugin(Origin("one", "1.2"), "first", pluggy.PluginManager("anomalib_tiled"))
THIRD = BrokenPlugin(Origin("third", "0.1"), "mine", "ImportError: no such thing")


def cells(table: Table) -> list[list[str]]:
    """What stands in a table, its head first; no cell may hold markup that its text was not meant to be."""
    console = Console(file=io.StringIO(), width=400)
    console.print(table)
    lines = [line for line in console.file.getvalue().splitlines() if line[:1] in {"┃", "│"}]
    return [[cell.strip() for cell in line.replace("┃", "│").strip("│").split("│")] for line in lines]


def test_metrics_for_the_terminal() -> None:
    images = {"image": ImageCounts(normal=5, anomalous=4), "pixel": ImageCounts(normal=5, anomalous=3)}
    shown = cells(metrics_table({"image_AUROC": 0.98765, "pixel_AUPRO": None}, images))
    assert shown == [
        ["metric", "value", "images"],
        ["image_AUROC", "0.9877", "5 normal, 4 anomalous"],
        ["pixel_AUPRO", "undefined", "5 normal, 3 anomalous"],
    ]


def test_several_numbers_are_shown_in_short() -> None:
    values = {"image_confusion": [[7, 1], [0, 8]], "image_pair": [0.25, None], "image_many": [0.5] * 9}
    shown = cells(metrics_table(values, {"image": ImageCounts()}))
    assert [row[1] for row in shown[1:]] == [
        "[[7, 1], [0, 8]]",
        "[0.2500, undefined]",
        "[0.5000, 0.5000, 0.5000, 0.5000, ... 9 in all]",
    ]


def test_plugins_for_the_terminal() -> None:
    plugins = Plugins((), (Choice("merging", merging.Hann, ONE), Choice("scoring", scoring.TopK, ONE)), (THIRD,))
    shown = cells(plugins_table(plugins))
    assert shown[0] == ["kind", "name", "package", "entry point", "description"]
    assert [row[:4] for row in shown[1:3]] == [
        ["merging", "Hann", "one 1.2", "first"],
        ["scoring", "TopK", "one 1.2", "first"],
    ]
    assert shown[1][4].startswith("Mean of all tiles that cover a pixel, weighted by a Hann window")
    assert shown[3] == ["broken", "", "third 0.1", "mine", "ImportError: no such thing"]


def test_the_event_hooks_of_a_plugin_are_listed() -> None:
    built_in, *_ = find_plugins().loaded
    (_, *rows) = cells(plugins_table(Plugins((built_in,), (), ())))
    assert [row[:2] for row in rows] == [["hook", name] for name in EVENT_HOOKS]
    assert all(row[4] for row in rows)


def test_square_brackets_in_what_others_wrote_are_shown() -> None:
    broken = replace(THIRD, error="TypeError: list[int] [/red] is no class")
    assert cells(plugins_table(Plugins((), (), (broken,))))[1][4] == "TypeError: list[int] [/red] is no class"


def test_tiles_are_shown_with_what_went_wrong() -> None:
    first = TileResult("r00_c00", 0, 0, 3, 1, 0.5, 1 / 3, 0.25, 0.75, 1.5, 0.5, 1, 0)
    second = TileResult("r00_c01", 0, 256, 2, 0, None, None, 0.125, 0.5, None, None, None, None)
    assert cells(tiles_table([first, second])) == [
        ["tile", "image AUROC", "pixel AUROC", "missed", "false alarms"],
        ["r00_c00", "0.5000", "0.3333", "1 of 1", "0 of 2"],
        ["r00_c01", "undefined", "undefined", "", ""],
    ]


def test_a_predicted_image_is_a_line_whatever_its_name() -> None:
    region = Region((1, 2, 3, 4), 5, (1.5, 2.5), (1, 2), 0.7, 0.6)
    found = PredictedImage("/in/a.png", Size(8, 12), 0.697985508, 0.5, 1, (region,))
    assert image_line(found) == "anomalous  0.697986   1 region    /in/a.png"
    odd = replace(found, image_path="/in/\u00fc\n\x1b[31m\udcff.png", pred_label=0, regions=())
    assert image_line(odd) == "normal     0.697986   no regions  /in/\u00fc\\n\\x1b[31m\\udcff.png"
    assert image_line(replace(found, is_uncertain=True, regions=(region,) * 2)) == (
        "uncertain  0.697986   2 regions   /in/a.png"
    )
    lost = replace(found, pred_score=None, unaligned="Nothing in it fits.", regions=())
    assert image_line(lost) == "anomalous  no score   no part     /in/a.png"
