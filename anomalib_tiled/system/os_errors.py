"""Errors of the operating system as errors that say what to do; the one place that knows their numbers."""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from anomalib_tiled.errors import RunFolderError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FULL = {errno.ENOSPC, errno.EDQUOT}
"""Error numbers of a full disk and of a used-up quota."""

FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
"""Error numbers of missing permissions and of a write-protected disk."""

IN_THE_WAY = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY}
"""Error numbers of a file where a folder belongs, or the other way round."""

PARTLY_WRITTEN = re.compile(r"\d+ requested and \d+ written")
"""Message of NumPy's error, which has no number, when the system writes only some of the bytes."""

ADVICE: Mapping[int | None, str] = {
    **dict.fromkeys(FULL, "Make room, then resume."),
    **dict.fromkeys(FORBIDDEN, "Change its permissions, or those of the folders that it lies in."),
    errno.EFBIG: "Raise the limit for the size of files (`ulimit -f`), or use a disk that takes files of this size.",
    errno.ENAMETOOLONG: "Shorten the name, or use a folder with a shorter path.",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Raise the limit for open files (`ulimit -n`)."),
    errno.ELOOP: "Remove the link, or those that lead in a circle.",
    errno.ENOMEM: "Close other programs, or use a machine with more memory.",
}
"""What to do about an error number, for reading and for writing."""

TO_READ = "Restore it, or check its disk."
"""What to do about any other error while reading."""

TO_WRITE: Mapping[int | None, str] = {
    **ADVICE,
    **dict.fromkeys(FORBIDDEN, "Change its permissions or choose another folder."),
    **dict.fromkeys(IN_THE_WAY, "Move it away."),
}

ELSEWHERE = "Check its disk, or choose another folder."
"""What to do about any other error while writing."""


def is_of_system(error: BaseException) -> TypeGuard[OSError]:
    """Whether an error comes from the operating system: it has a number, or is a short write."""
    return isinstance(error, OSError) and (error.errno is not None or _is_short(error))


def is_full(error: BaseException | None) -> bool:
    """Whether there was no room: the disk or quota is full, the file is too large, or a write was cut short."""
    return isinstance(error, OSError) and (error.errno in {*FULL, errno.EFBIG} or _is_short(error))


def refusal(error: OSError) -> str:
    """Say what the system refused and what to do, for an error that no other code has explained.

    Args:
        error: An error of the operating system.
    """
    if not error.filename:
        return f"{_reason(error)}. {ADVICE.get(error.errno, ELSEWHERE)}"
    return f"{os.fsdecode(error.filename)}: {_reason(error)}. {ADVICE.get(error.errno, TO_READ)}"


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn errors while reading a file of a run into one that says what to do.

    Args:
        path: The file.

    Raises:
        RunFolderError: The file cannot be read.
    """
    try:
        yield
    except OSError as error:
        if not is_of_system(error) or error.errno == errno.ENOMEM:
            raise
        message = f"{path} cannot be read: {_reason(error)}. {ADVICE.get(error.errno, TO_READ)}"
        raise RunFolderError(message) from error


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn errors while writing into one that says what to do.

    Args:
        path: The file or folder. Where the system names a file elsewhere, the message names that one.

    Raises:
        StorageError: The disk is full, or the system refuses to write for another reason.
    """
    try:
        with full_disk(path):
            yield
    except OSError as error:
        if not is_of_system(error) or error.errno == errno.ENOMEM:
            raise
        in_the_way = error.errno in IN_THE_WAY
        reason = "a file is where a folder belongs, or the other way round" if in_the_way else _reason(error)
        message = f"{_culprit(error, path)} cannot be written: {reason}. {TO_WRITE.get(error.errno, ELSEWHERE)}"
        raise StorageError(message) from error


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Turn errors of a full disk into one that says what to do; all other errors stay unchanged.

    Args:
        path: The file or folder.

    Raises:
        StorageError: The disk is full, the quota is used up, or the file is larger than the system allows.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        if error.errno in FULL:
            message = f"No space left on the disk while writing {path}. {ADVICE[errno.ENOSPC]}"
        else:
            message = f"Only a part of {path} could be written: {_reason(error)}. {ADVICE[errno.EFBIG]}"
            if _is_short(error):
                message = f"{message} Or the disk is full: {ADVICE[errno.ENOSPC].lower()}"
        raise StorageError(message) from error


def _is_short(error: OSError) -> bool:
    return bool(PARTLY_WRITTEN.search(str(error)))


def _reason(error: OSError) -> str:
    """Give the system's own words."""
    return str(error.strerror or error).rstrip(".")


def _culprit(error: OSError, path: Path) -> Path:
    """Give the file that the system names, unless it is in, beside or above the path."""
    if not isinstance(error.filename, str) or not error.filename:
        return path
    whole, other = path.absolute(), Path(error.filename).absolute()
    is_near = other.parent == whole.parent or whole.is_relative_to(other) or other.is_relative_to(whole)
    return path if is_near else other
