from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.case import Case
from benchmarks.map_quality import Quality
from benchmarks.prediction_plot import draw
from benchmarks.prediction_report import Measured, Predictions, Prepared, Row
from benchmarks.timing import Timing

QUALITY = Quality(0.75, 0.5, 0.25, defects=7, found=5, small=4, small_found=2, largest_small=80)
FAST = Measured(Timing(9.5, [0.5, 0.125, 0.25], 4), 1_500_000_000, QUALITY)
COMMAND = Measured(Timing(12.25, [], 2), 2_000_000_000, QUALITY)
ROWS = [Row("in Python", FAST), Row("command", COMMAND), Row("export", None, "not installed:\nonnx | openvino")]
PREPARED = [Prepared("tiled ensemble: fit", 30, 3_000_000_000, 12_000_000)]


@pytest.fixture
def predictions(machine: dict[str, str | int]) -> Predictions:
    return Predictions(Case(train=4, test=2), machine, 0.001, PREPARED, ROWS)


def test_each_way_has_a_row_and_what_is_left_out_says_why(predictions: Predictions) -> None:
    described, _, titles, _, *lines = predictions.to_markdown().splitlines()
    assert "2 cores of slow, 8 GB, anomalib 2.7.0" in described
    assert "that 0.10% of the pixels of normal images are above; there are 7, and the 4 small ones have 80" in described
    assert lines[:3] == [
        "| in Python | 9.5 | 0.250 | 4.00 | 1.50 | 0.7500 | 0.5000 | 0.2500 | 5 of 7 | 2 of 4 |",
        "| command | 12.2 | – | 2.00 | 2.00 | 0.7500 | 0.5000 | 0.2500 | 5 of 7 | 2 of 4 |",
        "| export | left out: not installed: onnx / openvino |  |  |  |  |  |  |  |  |",
    ]
    assert {line.count("|") for line in (titles, *lines[:3])} == {11}
    assert lines[-1] == "| tiled ensemble: fit | 30.0 | 3.00 | 0.012 |"


def test_a_rate_that_could_not_be_told_is_neither_in_the_table_nor_in_the_picture(
    machine: dict[str, str | int], tmp_path: Path
) -> None:
    slow = Measured(Timing(12.25, [], None), 2_000_000_000, QUALITY)
    predictions = Predictions(Case(train=4, test=2), machine, 0.001, [], [ROWS[0], Row("command", slow)])
    assert "| command | 12.2 | – | – | 2.00 |" in predictions.to_markdown()
    draw(predictions, tmp_path / "results.svg")
    assert "<!-- command -->" not in (tmp_path / "results.svg").read_text()


def test_a_table_of_nothing_but_reasons(machine: dict[str, str | int]) -> None:
    text = Predictions(Case(train=4, test=2), machine, 0.001, [], ROWS[2:]).to_markdown()
    assert text.count("\n| ") == 3
    assert "Defects" not in text


def test_everything_is_written_as_numbers(predictions: Predictions, tmp_path: Path) -> None:
    predictions.write_json(tmp_path / "results.json")
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["rows"][0]["measured"]["timing"]["latencies"] == [0.5, 0.125, 0.25]
    assert content["rows"][0]["measured"]["quality"]["small_found"] == 2
    assert content["rows"][2] == {"title": "export", "measured": None, "reason": ROWS[2].reason}
    assert (content["case"]["train"], content["rate"]) == (4, 0.001)


def test_the_picture_shows_each_way_that_was_measured(predictions: Predictions, tmp_path: Path) -> None:
    draw(predictions, tmp_path / "results.svg")
    labels = (tmp_path / "results.svg").read_text()
    assert labels.count("<!-- in Python -->") == labels.count("<!-- command -->") == 2
    assert "<!-- export -->" not in labels
    assert "<!-- small defects found -->" in labels
