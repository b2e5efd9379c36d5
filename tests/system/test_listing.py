"""Many small files are looked at once, and opened once: afterwards the index has their content."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.system import listing as listing_module
from anomalib_tiled.system.files import read_json, write_json
from anomalib_tiled.system.listing import INDEX, FileState, Listing

NAMES = ["a.json", "b.json"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        write_json(tmp_path / "many" / name, {"number": number})
    return tmp_path / "many"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the JSON files that are opened from now on."""
    names: list[str] = []

    def read(path: Path) -> dict[str, object]:
        names.append(path.name)
        return read_json(path)

    monkeypatch.setattr(listing_module, "read_json", read)
    return names


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert "a.json" not in Listing(tmp_path / "none")


def test_what_a_folder_holds_is_that_of_one_moment(folder: Path) -> None:
    seen = Listing(folder)
    (folder / "a.json").unlink()
    (folder / "c.json").touch()
    (folder / "sub").mkdir()
    assert [name in seen for name in ("a.json", "b.json", "c.json", "sub")] == [True, True, False, False]
    assert [name in Listing(folder) for name in ("a.json", "b.json", "c.json", "sub")] == [False, True, True, False]


def test_what_was_removed_meanwhile_is_named(folder: Path) -> None:
    seen = Listing(folder)
    (folder / "a.json").unlink()
    with pytest.raises(RunFolderError, match=r"a\.json cannot be read: No such file or directory"):
        seen.state("a.json")


def test_the_state_is_that_of_the_system(folder: Path) -> None:
    status = (folder / "b.json").stat()
    assert Listing(folder).state("b.json") == FileState.of(status)
    assert FileState.of(status)[:3] == (status.st_ino, status.st_size, status.st_mtime_ns)


def test_files_in_the_index_are_not_opened(folder: Path, opened: list[str]) -> None:
    Listing(folder).write_index(NAMES)
    assert opened == NAMES
    opened.clear()
    seen = Listing(folder)
    assert [seen.content(name) for name in NAMES] == [{"number": 0}, {"number": 1}]
    assert opened == [INDEX]


@pytest.mark.parametrize("keep_time", [False, True], ids=["changed", "changed, with its old time and size"])
def test_a_file_that_was_changed_is_opened_again(folder: Path, opened: list[str], *, keep_time: bool) -> None:
    Listing(folder).write_index(NAMES)
    opened.clear()
    path, before = folder / "a.json", (folder / "a.json").stat()
    path.write_text(path.read_text().replace("0", "7"))
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    seen = Listing(folder)
    assert [seen.content(name) for name in NAMES] == [{"number": 7}, {"number": 1}]
    assert opened == [INDEX, "a.json"]


def test_the_index_is_written_where_it_lacks_something_and_forgets_what_is_gone(folder: Path) -> None:
    Listing(folder).write_index(NAMES)
    first = (folder / INDEX).stat().st_ino
    Listing(folder).write_index(NAMES)
    assert (folder / INDEX).stat().st_ino == first
    write_json(folder / "c.json", {})
    (folder / "a.json").unlink()
    Listing(folder).write_index(["b.json", "c.json"])
    assert list(read_json(folder / INDEX)) == ["b.json", "c.json"]


@pytest.mark.parametrize("content", ["{", "[]", '{"a.json": 1}', '{"a.json": [[1], {}]}', '{"a.json": [[1,2,3,4]]}'])
def test_an_index_that_is_damaged_costs_time_alone(folder: Path, content: str) -> None:
    (folder / INDEX).write_text(content)
    assert Listing(folder).content("a.json") == {"number": 0}
    Listing(folder).write_index(NAMES)
    assert list(read_json(folder / INDEX)) == NAMES


def test_a_file_that_cannot_be_read_stays_out_of_the_index(folder: Path) -> None:
    (folder / "a.json").write_text("{")
    Listing(folder).write_index(NAMES)
    assert list(json.loads((folder / INDEX).read_text())) == ["b.json"]
    with pytest.raises(RunFolderError, match=r"a\.json cannot be read as JSON"):
        Listing(folder).content("a.json")


def test_a_folder_that_must_not_be_read_is_named(
    shared_folder: Path, forbidden: Callable[[Path], AbstractContextManager[None]]
) -> None:
    with forbidden(shared_folder), pytest.raises(RunFolderError, match=rf"{shared_folder} cannot be read: Permission"):
        Listing(shared_folder)
