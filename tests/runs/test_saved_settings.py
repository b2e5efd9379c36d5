from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.runs.saved_settings import read_settings

NewRunFolder = Callable[[Path, Settings], RunFolder]


def test_a_working_folder_that_was_deleted_is_none_of_the_runs_concern(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, new_run_folder: NewRunFolder
) -> None:
    run = new_run_folder(tmp_path / "runs", settings)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert read_settings(run.config_file) == settings


@pytest.mark.parametrize(("text", "held"), [("", "nothing"), ("- 1", r"\[1\]")])
def test_a_configuration_without_settings_is_named(
    tmp_path: Path, settings: Settings, text: str, held: str, new_run_folder: NewRunFolder
) -> None:
    run = new_run_folder(tmp_path, settings)
    run.config_file.write_text(text)
    with pytest.raises(RunFolderError, match=rf"must hold settings by their names, but holds {held}\. Restore it"):
        read_settings(run.config_file)
