from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest

from anomalib_tiled.errors import RunFolderError, StorageError
from anomalib_tiled.system.files import replacing
from anomalib_tiled.system.os_errors import full_disk, is_full, is_of_system, readable, refusal, storage_errors

RUN = Path("/run/config.yaml")
NUMBERS = (errno.EACCES, errno.EEXIST, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENOSPC)
SENTENCE = r"[A-Z`][^.]*\.( [A-Z][^.]*\.)?"


def refused(number: int, *filename: str) -> OSError:
    """Make the error that Python makes of a number."""
    return OSError(number, os.strerror(number), *filename)


@pytest.mark.parametrize("number", NUMBERS)
def test_whatever_the_system_refuses_to_read_is_said_with_what_to_do(number: int) -> None:
    expected = rf"^/run/config\.yaml cannot be read: {re.escape(os.strerror(number))}\. {SENTENCE}$"
    with pytest.raises(RunFolderError, match=expected), readable(RUN):
        raise refused(number)


@pytest.mark.parametrize("number", NUMBERS)
def test_whatever_the_system_refuses_to_write_is_said_with_what_to_do(number: int, tmp_path: Path) -> None:
    path = tmp_path / "any.txt"
    path.write_text("old")
    with pytest.raises(StorageError, match=rf"^[^.]*{path}.* [A-Z].*\.$") as raised, replacing(path):
        raise refused(number)
    assert isinstance(raised.value.__cause__, OSError)
    assert [each.name for each in tmp_path.iterdir()] == ["any.txt"]
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refused(errno.EACCES), "Permission denied. Change its permissions, or those of the folders that it lies in."),
        (refused(errno.EIO), "Input/output error. Restore it, or check its disk."),
        (refused(errno.ENOENT), "No such file or directory. Restore it, or check its disk."),
        (refused(errno.EMFILE), "Too many open files. Raise the limit for open files (`ulimit -n`)."),
    ],
)
def test_what_cannot_be_read(error: Exception, message: str) -> None:
    with pytest.raises(RunFolderError) as raised, readable(RUN):
        raise error
    assert str(raised.value) == f"/run/config.yaml cannot be read: {message}"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refused(errno.ENOSPC), "No space left on the disk while writing {}. Make room, then resume."),
        (refused(errno.EDQUOT), "No space left on the disk while writing {}. Make room, then resume."),
        (refused(errno.EFBIG), "Only a part of {} could be written: File too large. Raise the limit for the size of"),
        (
            OSError("90 requested and 12 written"),
            "Only a part of {} could be written: 90 requested and 12 written. Raise",
        ),
        (refused(errno.EROFS), "{} cannot be written: Read-only file system. Change its permissions or choose another"),
        (refused(errno.ENAMETOOLONG), "{} cannot be written: File name too long. Shorten the name, or use a folder"),
        (refused(errno.ENOENT), "{} cannot be written: No such file or directory. Check its disk, or choose another"),
        (refused(errno.EISDIR), "{} cannot be written: a file is where a folder belongs, or the other way round. Move"),
    ],
)
def test_what_cannot_be_written(error: Exception, message: str) -> None:
    with pytest.raises(StorageError) as raised, storage_errors(RUN):
        raise error
    assert str(raised.value).startswith(message.format(RUN))


def test_a_file_that_lies_elsewhere_is_named() -> None:
    with pytest.raises(StorageError, match=r"^/images/1\.png cannot be written: "), storage_errors(RUN):
        raise refused(errno.EIO, "/images/1.png")
    for near in ("/run/.config.yaml.1.tmp", "/run", "/"):
        with pytest.raises(StorageError, match=r"^/run/config\.yaml cannot be written: "), storage_errors(RUN):
            raise refused(errno.EIO, near)


def test_numpy_says_by_itself_what_was_cut_short(tmp_path: Path, limited_files: None) -> None:
    path = tmp_path / "map.npy"
    with (
        pytest.raises(StorageError, match=rf"^Only a part of {path} could be written: .* Or the disk is full: make"),
        replacing(path) as temporary,
        temporary.open("wb") as file,
    ):
        np.save(file, np.zeros(100_000))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOMEM, "Cannot allocate memory"), ValueError("other"), TimeoutError("a lock"), OSError("x")],
)
def test_all_else_stays_what_it_is(error: Exception) -> None:
    for meanwhile in (readable, storage_errors, full_disk):
        with pytest.raises(type(error)) as raised, meanwhile(RUN):
            raise error
        assert raised.value is error


def test_only_a_lack_of_room_is_a_full_disk() -> None:
    full = [number for number in errno.errorcode if is_full(refused(number))]
    assert sorted(full) == sorted({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
    with pytest.raises(PermissionError), full_disk(RUN):
        raise refused(errno.EACCES)


def test_what_nobody_has_named_names_what_the_system_names() -> None:
    assert refusal(refused(errno.EIO, "/a")) == "/a: Input/output error. Restore it, or check its disk."
    assert refusal(refused(errno.EIO)) == "Input/output error. Check its disk, or choose another folder."
    assert all(is_of_system(refused(number)) for number in errno.errorcode)
    assert not any(map(is_of_system, (OSError("out of luck"), TimeoutError(), ValueError("null"), KeyError("a"))))
