"""The split of a run and its copy in columns: the copy saves time, and never decides anything."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from anomalib_tiled.data.split import Sample, Split, StoredSamples
from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.runs.run_split import open_split, read_split, write_split

SPLIT = Split((Sample("train", Path("/a.png"), None, 0), Sample("test", Path("/b.png"), Path("/mask.png"), 1)))
OTHER = Split((Sample("train", Path("/c.png"), None, 0),))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "v0").mkdir()
    folder = RunFolder(tmp_path / "v0")
    write_split(folder, SPLIT)
    return folder


def test_the_split_is_opened_without_being_parsed(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Split, "parse", lambda *_: pytest.fail("the split is parsed"))
    assert open_split(folder) == read_split(folder) == SPLIT


@pytest.mark.parametrize("damage", ["missing", "changed", "of another split"])
def test_a_copy_that_cannot_be_used_is_made_again(folder: RunFolder, damage: str) -> None:
    path = folder.split_table_file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "changed":
        path.write_bytes(content[:-1])
    else:
        OTHER.table.write(path, "0a" * 32)
    assert open_split(folder) == SPLIT
    assert read_split(folder) == SPLIT
    assert path.read_bytes() == content


def test_a_split_that_was_exchanged_knowingly_is_the_one_that_is_used(folder: RunFolder) -> None:
    OTHER.write(folder.split_file)
    folder.note_checksum(folder.split_file)
    assert open_split(folder) == OTHER
    assert read_split(folder) == OTHER
    assert isinstance(open_split(folder).samples, StoredSamples)


@pytest.mark.parametrize("read", [read_split, open_split])
def test_a_split_that_was_changed_is_refused(folder: RunFolder, read: Callable[[RunFolder], Split]) -> None:
    text = folder.split_file.read_text()
    folder.split_file.write_text(text + "\n")
    with pytest.raises(RunFolderError, match=r"split\.csv had \d+ bytes .* It lists the training images: restore it"):
        read(folder)
    folder.split_file.unlink()
    with pytest.raises(RunFolderError, match=r"split\.csv is missing\. It lists the training images: restore it"):
        read(folder)


def test_a_command_notices_a_change_that_keeps_the_size(folder: RunFolder) -> None:
    """Processes that a command starts go by the split as it was."""
    folder.split_file.write_text(folder.split_file.read_text().replace("/a.png", "/z.png"))
    assert open_split(folder) == SPLIT
    with pytest.raises(RunFolderError, match=r"split\.csv was changed after it was finished\. It lists the training"):
        read_split(folder)


def test_a_run_in_which_no_copy_can_be_written_is_read(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    folder.split_table_file.unlink()
    folder.split_table_file.mkdir()
    assert read_split(folder) == open_split(folder) == SPLIT
    assert "The split is read without a copy that opens faster" in caplog.text
    assert f"{folder.split_table_file} cannot be written" in caplog.text
