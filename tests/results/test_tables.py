from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pluggy
import pytest
import torch
from anomalib.data import ImageBatch
from rich.console import Console
from rich.table import Table

from anomalib_tiled.cli.terminal import metrics_table, plugins_table, tiles_table
from anomalib_tiled.plugins.discovery import BrokenPlugin, Choice, Plugin, Plugins, find_plugins
from anomalib_tiled.plugins.hookspecs import EVENT_HOOKS
from anomalib_tiled.results.metrics import Images
from anomalib_tiled.results.tables import scores_file, write_metrics, write_tiles
from anomalib_tiled.results.tile_metrics import TileResult
from anomalib_tiled.stages import merging, scoring
from anomalib_tiled.system.packages import Origin

TILES = [
    TileResult("r00_c00", 0, 0, 3, 1, 0.5, 1 / 3, 0.25, 0.75, 123456.789, 0.5, 1, 0),
    TileResult("r00_c01", 0, 256, 2, 0, None, None, 0.125, 0.5, None, None, None, None),
]


def batch(*paths: str, **predictions: torch.Tensor) -> ImageBatch:
    return ImageBatch(image=torch.zeros(len(paths), 3, 2, 2), image_path=list(paths), **predictions)


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def cells(table: Table) -> list[list[str]]:
    """What stands in a table, its head first; no cell may hold markup that its text was not meant to be."""
    console = Console(file=io.StringIO(), width=400)
    console.print(table)
    lines = [line for line in console.file.getvalue().splitlines() if line[:1] in {"┃", "│"}]
    return [[cell.strip() for cell in line.replace("┃", "│").strip("│").split("│")] for line in lines]


def test_metrics_keep_their_order_and_an_undefined_one_is_null(tmp_path: Path) -> None:
    write_metrics(tmp_path / "new" / "metrics.json", {"image_AUROC": 0.123456789, "image_F1Score": None, "a": 1.0})
    text = (tmp_path / "new" / "metrics.json").read_text()
    assert '"image_F1Score": null' in text
    assert list(json.loads(text).items()) == [("image_AUROC", 0.123456789), ("image_F1Score", None), ("a", 1.0)]


def test_scores_are_written_batch_by_batch(tmp_path: Path) -> None:
    with scores_file(tmp_path / "scores.csv") as write:
        write(
            batch(
                "a.png",
                'with, comma and "quotes".png',
                gt_label=torch.tensor([0, 1]),
                pred_score=torch.tensor([0.25, 123456.79]),
                pred_label=torch.tensor([False, True]),
                pred_mask=torch.ones(2, 2, 2, dtype=torch.bool),
            )
        )
        write(batch("ü.png", gt_label=torch.tensor([1]), pred_score=torch.tensor([1e-7]), pred_label=torch.tensor([1])))
    assert rows(tmp_path / "scores.csv") == [
        ["image_path", "gt_label", "pred_score", "pred_label", "contradiction"],
        ["a.png", "0", "0.25", "0", "normal, but with anomalous pixels"],
        ['with, comma and "quotes".png', "1", "123456.789", "1", ""],
        ["ü.png", "1", "1.00000001e-07", "1", ""],
    ]


def test_scores_can_be_read_back_without_loss(tmp_path: Path) -> None:
    scores = torch.rand(200, generator=torch.Generator().manual_seed(0)) ** 8
    with scores_file(tmp_path / "scores.csv") as write:
        write(batch(*(f"{number}.png" for number in range(200)), pred_score=scores))
    read = torch.tensor([float(row[2]) for row in rows(tmp_path / "scores.csv")[1:]])
    assert torch.equal(read, scores)


def test_what_is_unknown_is_left_empty(tmp_path: Path) -> None:
    with scores_file(tmp_path / "scores.csv") as write:
        write(batch("a.png"))
    assert rows(tmp_path / "scores.csv")[1:] == [["a.png", "", "", "", ""]]


def test_scores_that_were_not_finished_do_not_replace_earlier_ones(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("earlier")
    with pytest.raises(TypeError, match="not iterable"), scores_file(path) as write:
        write(None)
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_metrics_for_the_terminal() -> None:
    images = {"image": Images(normal=5, anomalous=4), "pixel": Images(normal=5, anomalous=3)}
    shown = cells(metrics_table({"image_AUROC": 0.98765, "pixel_AUPRO": None}, images))
    assert shown == [
        ["metric", "value", "images"],
        ["image_AUROC", "0.9877", "5 normal, 4 anomalous"],
        ["pixel_AUPRO", "undefined", "5 normal, 3 anomalous"],
    ]


ONE = Plugin(Origin("one", "1.2"), "first", pluggy.PluginManager("anomalib_tiled"))
THIRD = BrokenPlugin(Origin("third", "0.1"), "mine", "ImportError: no such thing")


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


def test_several_numbers_are_shown_in_short() -> None:
    values = {"image_confusion": [[7, 1], [0, 8]], "image_pair": [0.25, None], "image_many": [0.5] * 9}
    shown = cells(metrics_table(values, {"image": Images()}))
    assert [row[1] for row in shown[1:]] == [
        "[[7, 1], [0, 8]]",
        "[0.2500, undefined]",
        "[0.5000, 0.5000, 0.5000, 0.5000, ... 9 in all]",
    ]


def test_tiles_are_written_with_nothing_where_something_is_not_defined(tmp_path: Path) -> None:
    write_tiles(tmp_path / "new" / "tiles.csv", TILES)
    head, first, second = rows(tmp_path / "new" / "tiles.csv")
    assert dict(zip(head, first, strict=True)) == {
        "tile": "r00_c00",
        "top": "0",
        "left": "0",
        "images": "3",
        "anomalous": "1",
        "image_AUROC": "0.5",
        "pixel_AUROC": "0.333333333",
        "normal_mean": "0.25",
        "normal_max": "0.75",
        "anomalous_mean": "123456.789",
        "anomalous_min": "0.5",
        "missed": "1",
        "false_alarms": "0",
        "left_out": "no",
    }
    assert second == ["r00_c01", "0", "256", "2", "0", "", "", "0.125", "0.5", "", "", "", "", "no"]


def test_tiles_are_shown_with_what_went_wrong() -> None:
    assert cells(tiles_table(TILES)) == [
        ["tile", "image AUROC", "pixel AUROC", "missed", "false alarms"],
        ["r00_c00", "0.5000", "0.3333", "1 of 1", "0 of 2"],
        ["r00_c01", "undefined", "undefined", "", ""],
    ]
