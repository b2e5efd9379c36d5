from __future__ import annotations

import os
from pathlib import Path

import pytest

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.runs import saved_settings as run_settings
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.runs.saved_settings import read_settings


@pytest.fixture
def looked_into(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders whose configuration was looked into."""
    folders: list[Path] = []
    monkeypatch.setattr(run_settings, "refuse_code_in", lambda folder, _: folders.append(folder))
    return folders


def test_the_same_text_is_looked_into_once(tmp_path: Path, settings: Settings, looked_into: list[Path]) -> None:
    run = RunFolder.create(tmp_path, settings)
    first, second = run.settings(), run.settings()
    assert first == second == settings
    assert first is not second, "who changes one does not change the next"
    assert looked_into == [run.path]


def test_other_text_of_the_same_length_is_read_anew(tmp_path: Path, settings: Settings) -> None:
    run = RunFolder.create(tmp_path, settings)
    status = run.config_file.stat()
    text = run.config_file.read_text(encoding="utf-8")
    seed = f"seed_everything: {run.settings().seed_everything}"
    assert seed in text
    run.config_file.write_text(text.replace(seed, f"{seed[:-1]}{(int(seed[-1]) + 1) % 10}"), encoding="utf-8")
    os.utime(run.config_file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert run.settings().seed_everything != settings.seed_everything


def test_from_another_folder_classes_may_be_others(
    tmp_path: Path, settings: Settings, looked_into: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.create(tmp_path / "runs", settings)
    run.settings()
    monkeypatch.chdir(run.path)
    run.settings()
    monkeypatch.syspath_prepend(tmp_path)
    run.settings()
    assert looked_into == [run.path] * 3


def test_a_working_folder_that_was_deleted_is_none_of_the_runs_concern(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.create(tmp_path / "runs", settings)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert read_settings(run.config_file) == settings


def test_what_is_wrong_is_said_each_time(tmp_path: Path, settings: Settings) -> None:
    run = RunFolder.create(tmp_path, settings)
    run.config_file.write_text("tiling: {}")
    for _ in range(2):
        with pytest.raises(RunFolderError, match=r"config\.yaml cannot be used any more"):
            read_settings(run.config_file)


@pytest.mark.parametrize(("text", "held"), [("", "nothing"), ("- 1", r"\[1\]")])
def test_a_configuration_without_settings_is_named(tmp_path: Path, settings: Settings, text: str, held: str) -> None:
    run = RunFolder.create(tmp_path, settings)
    run.config_file.write_text(text)
    with pytest.raises(RunFolderError, match=rf"must hold settings by their names, but holds {held}\. Restore it"):
        read_settings(run.config_file)
