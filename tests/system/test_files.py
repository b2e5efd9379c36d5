from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from anomalib_tiled.errors import RunFolderError, StorageError
from anomalib_tiled.system.files import (
    json_line,
    read_json,
    refresh,
    replacing,
    write_json,
    write_text,
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "any.json"
    write_json(path, {"name": "tile", "sizes": [1, 2]})
    assert read_json(path) == {"name": "tile", "sizes": [1, 2]}
    assert [each.name for each in path.parent.iterdir()] == ["any.json"]


def test_the_old_file_stands_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "any.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_an_interruption_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    path = tmp_path / "any.txt"
    path.write_text("old")
    with pytest.raises(interruption), replacing(path) as temporary:  # noqa: PT012  # fails halfway
        temporary.write_text("half of the n")
        raise interruption
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_where_a_folder_belongs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(StorageError, match="a file is where a folder belongs"):
        write_text(tmp_path / "file" / "any.txt", "text")


def test_a_missing_json_file(tmp_path: Path) -> None:
    with pytest.raises(
        RunFolderError, match=r"any\.json is missing\. Finish the run with `anomalib tiled fit --ckpt_dir`"
    ):
        read_json(tmp_path / "any.json")


@pytest.mark.parametrize("content", [json.dumps({"a": 1})[:-1].encode(), b"", b"\xff\xfe"])
def test_a_damaged_json_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.json"
    path.write_bytes(content)
    with pytest.raises(
        RunFolderError, match=f"{path} cannot be read as JSON .* Delete it, and run `anomalib tiled fit"
    ):
        read_json(path)


def test_json_that_is_no_object(tmp_path: Path) -> None:
    path = tmp_path / "any.json"
    path.write_text("[1]")
    with pytest.raises(RunFolderError, match="must hold a JSON object, but holds a list"):
        read_json(path)


def test_a_line_of_json_can_be_written_whatever_a_name_consists_of() -> None:
    assert json_line({"name": "ä"}) == '{"name": "ä"}'
    odd = {"name": os.fsdecode(b"\xfc")}
    assert json.loads(json_line(odd).encode()) == odd


def test_a_temporary_name_is_no_longer_than_a_name_may_be(tmp_path: Path) -> None:
    for name in ("a" * 255, "图" * 85):
        with replacing(tmp_path / name) as temporary:
            temporary.touch()
        assert (tmp_path / name).exists()


def test_a_folder_is_changed_so_that_network_file_systems_look_anew(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.utime(tmp_path, (1, 1))
    refresh(tmp_path)
    assert tmp_path.stat().st_mtime > 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    refresh(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()
