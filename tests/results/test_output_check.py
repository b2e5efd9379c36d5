from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from anomalib_tiled.errors import ConfigurationError, RunFolderError, StorageError
from anomalib_tiled.results.output_check import check_free, holds_results
from anomalib_tiled.results.prediction_folder import PredictionFolder
from anomalib_tiled.results.request import PredictionSettings

NOTHING_KEPT: dict[str, Any] = {}
ALL_KEPT = {"overlays": True, "masks": True, "maps": "npy", "coco": True}


@pytest.fixture
def folder(tmp_path: Path) -> PredictionFolder:
    return PredictionFolder(tmp_path)


@pytest.mark.parametrize("resume", [True, False])
def test_a_new_folder_and_one_with_other_things_are_free(folder: PredictionFolder, *, resume: bool) -> None:
    check_free(PredictionFolder(folder.path / "new"), PredictionSettings(), resume=resume)
    (folder.path / "other").mkdir()
    (folder.path / "other" / "000.png").write_text("somebody's")
    (folder.path / "masks").mkdir()  # empty
    folder.rows_file.touch()
    before = sorted(folder.path.rglob("*"))
    check_free(folder, PredictionSettings(**ALL_KEPT), resume=resume)
    assert sorted(folder.path.rglob("*")) == before, "it only looks"
    assert not (folder.path / "new").exists()


def test_predictions_are_gone_on_with_only_if_that_is_asked_for(folder: PredictionFolder) -> None:
    folder.begin(PredictionSettings(), common="/data")
    folder.lines_file.write_text("{}")
    check_free(folder, PredictionSettings(), resume=True)
    with pytest.raises(ConfigurationError, match=r"holds predictions already\. Choose another folder with --output"):
        check_free(folder, PredictionSettings(), resume=False)


@pytest.mark.parametrize("resume", [True, False])
def test_a_prediction_that_failed_before_its_first_result_is_in_nobodys_way(
    folder: PredictionFolder, *, resume: bool
) -> None:
    folder.begin(PredictionSettings(), common="/data")
    folder.repair()
    folder.failures_file.write_text("a.png,too large")
    assert not holds_results(folder)
    check_free(folder, PredictionSettings(**ALL_KEPT), resume=resume)


@pytest.mark.parametrize("name", ["masks/a/000.png", "images/0.png", "maps/0.npy", "coco.json"])
def test_whatever_a_prediction_has_left_is_a_result(folder: PredictionFolder, name: str) -> None:
    (path := folder.path / name).parent.mkdir(parents=True, exist_ok=True)
    path.write_text("begun")
    assert not holds_results(folder), "it may be anybody's"
    folder.begin(PredictionSettings(), common="/data")
    assert holds_results(folder)
    check_free(folder, PredictionSettings(), resume=True)
    with pytest.raises(ConfigurationError, match="holds predictions already"):
        check_free(folder, PredictionSettings(), resume=False)


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_that_must_not_be_looked_into(
    shared_folder: Path, forbidden: Callable[[Path], AbstractContextManager[None]], *, resume: bool
) -> None:
    (inner := shared_folder / "inner").mkdir()
    message = rf"{inner} cannot be written: Permission denied\. Change its permissions or choose another folder"
    with forbidden(inner), pytest.raises(StorageError, match=message):
        check_free(PredictionFolder(inner), PredictionSettings(), resume=resume)


@pytest.mark.parametrize("resume", [True, False])
def test_predictions_that_do_not_say_how_they_were_made(folder: PredictionFolder, *, resume: bool) -> None:
    folder.lines_file.write_text("{}")
    message = (
        r"predictions\.jsonl holds predictions, but prediction\.json with their settings is missing .*\. Restore it, or"
    )
    with pytest.raises(RunFolderError, match=message):
        check_free(folder, PredictionSettings(), resume=resume)


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize(
    ("name", "asked"),
    {
        "images/a/000.png": {"overlays": True},
        "masks/000.png": {"masks": True},
        "maps/000.npy": {"maps": "npy"},
        "coco.json": {"coco": True},
        "predictions.csv": NOTHING_KEPT,
        "failures.csv": NOTHING_KEPT,
    }.items(),
)
def test_nothing_of_others_is_written_over(
    folder: PredictionFolder, name: str, asked: dict[str, Any], *, resume: bool
) -> None:
    path = folder.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("somebody's")
    message = rf"would overwrite {name.partition('/')[0]} there\. Choose another folder with --output, or"
    with pytest.raises(ConfigurationError, match=message):
        check_free(folder, PredictionSettings(**asked), resume=resume)
    if asked:
        others = {key: value for key, value in ALL_KEPT.items() if key not in asked}
        check_free(folder, PredictionSettings(**others), resume=resume)
    assert path.read_text() == "somebody's"


def test_all_that_is_in_the_way_is_named(folder: PredictionFolder) -> None:
    for name in ("masks", "images"):
        (folder.path / name).mkdir()
        (folder.path / name / "000.png").touch()
    with pytest.raises(ConfigurationError, match="would overwrite images, masks"):
        check_free(folder, PredictionSettings(**ALL_KEPT), resume=True)
