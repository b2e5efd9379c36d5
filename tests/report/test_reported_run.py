"""The threshold that images were decided by, where the run alone does not tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.report.reported_run import ReportedRun
from anomalib_tiled.results.prediction_row import PredictedImage
from anomalib_tiled.runs.image_decisions import ImageDecisions
from anomalib_tiled.runs.run_folder import RunFolder


def images(**labels: float) -> list[PredictedImage]:
    """Images with scores: those named ``anomalous...`` are labelled so."""
    return [PredictedImage(name, Size(4, 4), score, score, int(name[0] == "a"), ()) for name, score in labels.items()]


@pytest.fixture
def reported(configuration: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> ReportedRun:
    """A run with a threshold at 0.5."""
    monkeypatch.setattr(ImageDecisions, "read", lambda _: ImageDecisions(0.5))
    grid = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4))
    return ReportedRun(RunFolder(Path("/a run/v0")), Settings.from_mapping(configuration), grid, {"image": None})


def test_the_threshold_of_the_run_is_kept_where_it_gives_the_labels(reported: ReportedRun) -> None:
    assert reported.threshold_for(images(n=0.1, normal=0.5, a=0.6)) == (0.5, "")
    missing = PredictedImage("x", Size(4, 4), None, None, 1, (), unaligned="nothing fits")
    assert reported.threshold_for([missing]) == (0.5, "")


def test_another_threshold_is_found_between_the_labels(reported: ReportedRun) -> None:
    assert reported.threshold_for(images(n=0.1, normal=0.7, a=0.9)) == (pytest.approx(0.8), "")
    assert reported.threshold_for(images(normal=0.7)) == (0.7, "")
    threshold, note = reported.threshold_for(images(a=0.3, anomalous=0.4))
    assert threshold < 0.3
    assert not note


def test_labels_that_no_threshold_gives_are_noted(reported: ReportedRun) -> None:
    threshold, note = reported.threshold_for(images(n1=0.1, n2=0.2, n3=0.25, a1=0.15, a2=0.8, a3=0.9))
    assert threshold == pytest.approx(0.25), "one label is wrong at it"
    assert "each tile has a threshold of its own" in note


def test_the_run_folder_is_quoted_for_a_shell(reported: ReportedRun) -> None:
    assert reported.quoted == "'/a run/v0'"
    assert reported.configured_by == "manual", "images are normalized, and tiles thresholded"
