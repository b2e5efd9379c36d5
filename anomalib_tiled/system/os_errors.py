"""What the operating system refuses, as errors that say what to do: the one place that knows its numbers."""

from __future__ import annotations

import errno
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib_tiled.errors import RunFolderError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CHANGE_PERMISSIONS = "Change its permissions, or those of the folders that it lies in."

FULL = {errno.ENOSPC, errno.EDQUOT}
"""Numbers of a disk that is full, and of a quota that is used up."""

FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
"""Numbers of what permissions, or a disk that is write-protected, do not allow."""

IN_THE_WAY = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY}
"""Numbers of a file where a folder belongs, or the other way round."""

PARTLY_WRITTEN = re.compile(r"\d+ requested and \d+ written")
"""What NumPy says in an error without a number if the system takes only some of what it writes."""

ZERO_BYTE = re.compile(r"embedded null (?:byte|character)")
"""What Python says in a ``ValueError`` of a path that no system has."""

ADVICE: Mapping[int | None, str] = {
    **dict.fromkeys(FULL, "Make room, then go on."),
    **dict.fromkeys(FORBIDDEN, CHANGE_PERMISSIONS),
    errno.EFBIG: "Raise the limit for the size of files (`ulimit -f`), or use a disk that takes files of this size.",
    errno.ENAMETOOLONG: "Shorten the name, or use a folder with a shorter path.",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Raise the limit for open files (`ulimit -n`)."),
    errno.ELOOP: "Remove the link, or those that lead in a circle.",
    errno.ENOMEM: "Close other programs, or use a machine with more memory.",
}
"""What to do about a number, whether something is read or written."""

TO_READ = "Restore it, or see to its disk."
"""What to do about any other number where something is read."""

TO_WRITE = "Change its permissions or choose another folder."
"""What to do about a number of `FORBIDDEN` where something is written."""

ELSEWHERE = "See to its disk, or choose another folder."
"""What to do about any other number where something is written."""


def is_of_system(error: BaseException) -> bool:
    """Whether the operating system has refused something: an error with a number, a short write, or a zero byte."""
    if isinstance(error, OSError):
        return error.errno is not None or _is_short(error)
    return isinstance(error, ValueError) and bool(ZERO_BYTE.search(str(error)))


def is_full(error: BaseException | None) -> bool:
    """Whether there was no room: a disk or quota is full, a file has become too large, or a write was cut short."""
    return isinstance(error, OSError) and (error.errno in {*FULL, errno.EFBIG} or _is_short(error))


def refusal(error: BaseException) -> str:
    """Say what the system refuses and what to do, where nobody has said yet what it was for.

    Args:
        error: A refusal of the operating system.
    """
    named = getattr(error, "filename", None)
    name = named.decode(errors="backslashreplace") if isinstance(named, bytes) else named
    subject = "" if name is None else f"{name}: "
    return f"{subject}{_reason(error)}. {ADVICE.get(_number(error), TO_READ if subject else ELSEWHERE)}"


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Say what to do if a file of a run, or a folder that it lies in, cannot be looked at meanwhile.

    Args:
        path: The file.

    Raises:
        RunFolderError: It must not be read, or cannot be.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if not is_of_system(error) or _number(error) == errno.ENOMEM:
            raise
        message = f"{path} cannot be read: {_reason(error)}. {ADVICE.get(_number(error), TO_READ)}"
        raise RunFolderError(message) from error


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Say what to do if something cannot be written meanwhile.

    Args:
        path: What is being written. Where the system names a file that lies elsewhere, the message names that one.

    Raises:
        StorageError: The disk is full, or the system refuses to write for any other reason.
    """
    try:
        with full_disk(path):
            yield
    except (OSError, ValueError) as error:
        if not is_of_system(error) or (number := _number(error)) == errno.ENOMEM:
            raise
        reason, advice = _reason(error), TO_WRITE if number in FORBIDDEN else ADVICE.get(number, ELSEWHERE)
        if number in IN_THE_WAY:
            reason, advice = "a file is where a folder belongs, or the other way round", "Move it away."
        message = f"{_culprit(error, path)} cannot be written: {reason}. {advice}"
        raise StorageError(message) from error


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Say what to do if there is no room for something meanwhile; all other errors stay as they are.

    Args:
        path: What is being written.

    Raises:
        StorageError: The disk is full, the quota is used up, or the file has become larger than a file may be.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        if error.errno in FULL:
            message = f"No space left on the disk while writing {path}. {ADVICE[errno.ENOSPC]}"
        else:
            message = f"{path} could be written in part only: {_reason(error)}. {ADVICE[errno.EFBIG]}"
            if _is_short(error):
                message = f"{message} Or the disk is full: {ADVICE[errno.ENOSPC].lower()}"
        raise StorageError(message) from error


def _is_short(error: OSError) -> bool:
    return bool(PARTLY_WRITTEN.search(str(error)))


def _number(error: BaseException) -> int | None:
    return getattr(error, "errno", None)


def _reason(error: BaseException) -> str:
    """Give the system's own words."""
    if ZERO_BYTE.search(str(error)):
        return "its name holds a zero byte"
    return str(getattr(error, "strerror", None) or error).rstrip(".")


def _culprit(error: BaseException, path: Path) -> Path:
    """Give the file that the system names, unless it is what is written, or lies in, beside or above that."""
    named = getattr(error, "filename", None)
    if not isinstance(named, str) or not named:
        return path
    whole, other = path.absolute(), Path(named).absolute()
    is_near = other.parent == whole.parent or whole.is_relative_to(other) or other.is_relative_to(whole)
    return path if is_near else other
