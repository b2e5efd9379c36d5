"""A file that was cut short or altered is noticed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from hashlib import sha256
from pathlib import Path

import pytest

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.system import checksums as seals
from anomalib_tiled.system.checksums import CheckedFiles, Seal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "finished.bin"
    path.write_bytes(bytes(range(200)))
    return path


def test_a_seal_is_size_and_checksum(path: Path) -> None:
    assert Seal.of(path) == Seal(200, sha256(path.read_bytes()).hexdigest())
    Seal.of(path).check(path, "")


def test_a_large_file_is_read_in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Seal.of(path)
    monkeypatch.setattr(seals, "PIECE", 7)
    assert Seal.of(path) == whole


def test_a_file_that_was_cut_short(path: Path) -> None:
    seal = Seal.of(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        RunFolderError, match=r"finished.bin had 200 bytes when it was finished, and has 199 now. Do it."
    ):
        seal.check_size(path, "Do it.")


def test_a_file_with_one_other_byte(path: Path) -> None:
    seal = Seal.of(path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    seal.check_size(path, "")
    with pytest.raises(RunFolderError, match=r"finished.bin was altered after it was finished. Do it again."):
        seal.check(path, "Do it again.")


def test_a_file_is_checked_once_unless_it_changes(path: Path) -> None:
    files, checked = CheckedFiles(), []
    for content in (None, None, b"a", None, b"b"):
        if content is not None:
            path.write_bytes(content)
        files.once(path, lambda: checked.append(path.read_bytes()))
    assert checked == [bytes(range(200)), b"a", b"b"]


def test_a_file_that_was_refused_is_checked_again(path: Path) -> None:
    files = CheckedFiles()
    for _ in range(2):
        with pytest.raises(RunFolderError, match="had 1 bytes"):
            files.once(path, lambda: Seal(1, "").check(path, ""))


def test_a_file_that_must_not_be_read(
    shared_folder: Path, forbidden: Callable[[Path], AbstractContextManager[None]]
) -> None:
    (path := shared_folder / "inner" / "finished.bin").parent.mkdir()
    path.touch()
    seal, message = Seal.of(path), f"{path} cannot be read: Permission denied. Change its permissions, or those of the"
    for forbid, read in {path: Seal.of, path.parent: lambda path: seal.check_size(path, "")}.items():
        with forbidden(forbid), pytest.raises(RunFolderError, match=message):
            read(path)
