from __future__ import annotations

import logging
import os
import platform
import shutil
from pathlib import Path

import pytest

from anomalib_tiled.runs.cleanup import remove_half_written, remove_results
from anomalib_tiled.system.files import temporary_name

DEAD = 999999999


def half_written(path: Path, process: int) -> Path:
    """Leave what a process was writing."""
    name = temporary_name(path.name).replace(f"-{os.getpid()}-", f"-{process}-")
    assert platform.node()[:3] in name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(name).touch()
    return path.with_name(name)


@pytest.mark.parametrize(
    "name",
    ["scores.csv", "validation_scores.npz", "calibration.json", "logs/fit.json", "images/000.png", "images/a/b/0.png"],
)
def test_what_killed_commands_were_writing_is_removed(tmp_path: Path, name: str) -> None:
    dead, alive = (half_written(tmp_path / name, process) for process in (DEAD, os.getppid()))
    remove_half_written(tmp_path)
    assert not dead.exists()
    assert alive.exists()


def test_only_names_of_ours_are_removed(tmp_path: Path) -> None:
    names = [".notes.tmp", ".scores.csv.here-0.tmp", "scores.csv.here-999999999-0a1b2c3d.tmp", "scores.csv"]
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1, 1))
    half_written(tmp_path / "predictions" / "predictions.csv", DEAD)  # a prediction may be gone on with
    remove_half_written(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*names, "predictions"}
    assert len(list((tmp_path / "predictions").iterdir())) == 1


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


def test_results_that_cannot_be_removed_are_told_of(measured: Path, caplog: pytest.LogCaptureFixture) -> None:
    (measured / "metrics.json").unlink()
    (measured / "metrics.json").mkdir()
    remove_results(measured)
    assert "could not be removed, and are of other models or stages" in caplog.text


def test_what_else_lies_among_pictures_stays(measured: Path) -> None:
    (measured / "images" / "bad" / "notes.txt").touch()
    remove_results(measured)
    assert [path.name for path in (measured / "images").rglob("*")] == ["bad", "notes.txt"]


@pytest.mark.parametrize("name", ["prediction.json", "images/prediction.json"])
def test_pictures_of_predictions_stay(measured: Path, name: str) -> None:
    (measured / name).touch()
    remove_results(measured)
    assert (measured / "images" / "bad" / "0.jpg.png").is_file()
    assert not (measured / "metrics.json").exists()


def test_folders_elsewhere_that_there_are_links_to_stay_as_they_are(
    measured: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    half = half_written(elsewhere / "0.png", DEAD)
    (elsewhere / "0.png").touch()
    for name in ("images/linked", "images", "logs"):
        if name == "images":
            shutil.rmtree(measured / name)
        (measured / name).symlink_to(elsewhere, target_is_directory=True)
        remove_half_written(measured)
        remove_results(measured)
    assert set(elsewhere.iterdir()) == {half, elsewhere / "0.png"}
