"""Results: which folder may take them, and which files of them go when models or stages change."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.runs.result_files import check_output, remove_results


def test_results_do_not_go_into_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "split.csv"):
        (run / name).touch()
    (run.parent / "latest").symlink_to(run)
    for path, reason in {
        run: "is",
        run.parent / "latest": "is",
        run / "tiles": "belongs to",
        run / "images" / "new": "belongs to",
        run / "raw" / ".." / "logs": "belongs to",
    }.items():
        with pytest.raises(
            ConfigurationError, match=rf"--output must be .* but {path} {reason} the run folder {run}\. "
        ):
            check_output(path)
    for path in (run / "predictions", run / "export" / "onnx", run / "mine", run.parent, run.parent / "new"):
        check_output(path)


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A run folder with results of a test, and other files."""
    for name in ("metrics.json", "scores.csv", "tiles.csv", "calibration.json", "images/0.png", "images/bad/0.jpg.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_results_are_removed_and_it_is_said(measured: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(2):
        remove_results(measured)
    assert [path.name for path in measured.iterdir()] == ["calibration.json"]
    assert caplog.messages == [
        f"Removing the results of the last test, which are of other models or stages, from {measured}."
    ]


def test_results_that_cannot_be_removed_are_named(measured: Path, caplog: pytest.LogCaptureFixture) -> None:
    (measured / "metrics.json").unlink()
    (measured / "metrics.json").mkdir()
    remove_results(measured)
    assert "could not be removed, and are of other models or stages" in caplog.text


def test_what_else_lies_among_pictures_stays(measured: Path) -> None:
    (measured / "images" / "bad" / "notes.txt").touch()
    remove_results(measured)
    assert [path.name for path in (measured / "images").rglob("*")] == ["bad", "notes.txt"]


def test_folders_elsewhere_that_there_are_links_to_stay_as_they_are(
    measured: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "0.png").touch()
    for name in ("images/linked", "images"):
        if name == "images":
            shutil.rmtree(measured / name)
        (measured / name).symlink_to(elsewhere, target_is_directory=True)
        remove_results(measured)
    assert list(elsewhere.iterdir()) == [elsewhere / "0.png"]
