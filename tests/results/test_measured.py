from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from anomalib.data import ImageBatch

from anomalib_tiled.results.measured import Measured, score_rows, scores_file
from anomalib_tiled.results.tile_metrics import TileResult

TILES = [
    TileResult("r00_c00", 0, 0, 3, 1, 0.5, 1 / 3, 0.25, 0.75, 123456.789, 0.5, 1, 0),
    TileResult("r00_c01", 0, 256, 2, 0, None, None, 0.125, 0.5, None, None, None, None),
]


def batch(*paths: str, **predictions: torch.Tensor) -> ImageBatch:
    return ImageBatch(image=torch.zeros(len(paths), 3, 2, 2), image_path=list(paths), **predictions)


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_metrics_keep_their_order_and_an_undefined_one_is_null(tmp_path: Path) -> None:
    Measured({"image_AUROC": 0.123456789, "image_F1Score": None, "a": 1.0}, {}, []).write(tmp_path / "new")
    text = (tmp_path / "new" / "metrics.json").read_text()
    assert '"image_F1Score": null' in text
    assert list(json.loads(text).items()) == [("image_AUROC", 0.123456789), ("image_F1Score", None), ("a", 1.0)]


def test_scores_are_written_batch_by_batch(tmp_path: Path) -> None:
    with scores_file(tmp_path / "scores.csv") as write:
        first = batch(
            "a.png",
            'with, comma and "quotes".png',
            gt_label=torch.tensor([0, 1]),
            pred_score=torch.tensor([0.25, 123456.79]),
            pred_label=torch.tensor([False, True]),
            pred_mask=torch.ones(2, 2, 2, dtype=torch.bool),
        )
        one = torch.tensor([1])
        for each in (first, batch("ü.png", gt_label=one, pred_score=torch.tensor([1e-7]), pred_label=one)):
            write(score_rows(each))
    assert rows(tmp_path / "scores.csv") == [
        ["image_path", "gt_label", "pred_score", "pred_label", "contradiction"],
        ["a.png", "0", "0.25", "0", "normal, but with anomalous pixels"],
        ['with, comma and "quotes".png', "1", "123456.789", "1", ""],
        ["ü.png", "1", "1.00000001e-07", "1", ""],
    ]


def test_scores_can_be_read_back_without_loss(tmp_path: Path) -> None:
    scores = torch.rand(200, generator=torch.Generator().manual_seed(0)) ** 8
    with scores_file(tmp_path / "scores.csv") as write:
        write(score_rows(batch(*(f"{number}.png" for number in range(200)), pred_score=scores)))
    read = torch.tensor([float(row[2]) for row in rows(tmp_path / "scores.csv")[1:]])
    assert torch.equal(read, scores)


def test_what_is_unknown_is_left_empty(tmp_path: Path) -> None:
    with scores_file(tmp_path / "scores.csv") as write:
        write(score_rows(batch("a.png")))
    assert rows(tmp_path / "scores.csv")[1:] == [["a.png", "", "", "", ""]]


def test_scores_that_were_not_finished_do_not_replace_earlier_ones(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("earlier")
    with pytest.raises(TypeError, match="not iterable"), scores_file(path) as write:
        write(None)
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_tiles_are_written_with_nothing_where_something_is_not_defined(tmp_path: Path) -> None:
    Measured({}, {}, TILES).write(tmp_path)
    head, first, second = rows(tmp_path / "tiles.csv")
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
