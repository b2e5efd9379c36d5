"""A file that was cut short or changed is noticed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from hashlib import sha256
from pathlib import Path

import pytest

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.system import checksums
from anomalib_tiled.system.checksums import Checksum


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "finished.bin"
    path.write_bytes(bytes(range(200)))
    return path


def test_a_checksum_holds_the_size_too(path: Path) -> None:
    assert Checksum.of(path) == Checksum(200, sha256(path.read_bytes()).hexdigest())
    Checksum.of(path).check(path, "")


def test_a_large_file_is_read_in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Checksum.of(path)
    monkeypatch.setattr(checksums, "PIECE", 7)
    assert Checksum.of(path) == whole


def test_a_file_that_was_cut_short(path: Path) -> None:
    checksum = Checksum.of(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        RunFolderError, match=r"finished.bin had 200 bytes when it was finished, and has 199 now. Do it."
    ):
        checksum.check_size(path, "Do it.")


def test_a_file_with_one_other_byte(path: Path) -> None:
    checksum = Checksum.of(path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    checksum.check_size(path, "")
    with pytest.raises(RunFolderError, match=r"finished.bin was changed after it was finished. Do it again."):
        checksum.check(path, "Do it again.")


def test_a_file_that_must_not_be_read(
    shared_folder: Path, forbidden: Callable[[Path], AbstractContextManager[None]]
) -> None:
    (path := shared_folder / "inner" / "finished.bin").parent.mkdir()
    path.touch()
    checksum, message = (
        Checksum.of(path),
        f"{path} cannot be read: Permission denied. Change its permissions, or those of the",
    )
    for forbid, read in {path: Checksum.of, path.parent: lambda path: checksum.check_size(path, "")}.items():
        with forbidden(forbid), pytest.raises(RunFolderError, match=message):
            read(path)
