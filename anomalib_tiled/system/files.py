"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import json
import os
import platform
import re
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, TextIO, cast

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.system.bounds import parse_json, read_bytes
from anomalib_tiled.system.os_errors import readable, storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

A_DAY = 24 * 60 * 60
"""Seconds after which a file is not being written any more, whoever has begun it."""

WRITER = re.compile(r"\.(?P<host>[^.]*)-(?P<process>\d+)-[0-9a-f]{8}\.tmp$")
"""End of a temporary name: who writes the file."""

_HOST = re.sub(r"[^A-Za-z0-9-]", "_", platform.node())[-64:]
"""This machine in names of files, where dots part other things."""

AS_THEY_ARE = "surrogateescape"
"""How names of files that are not UTF-8 are written into tables, and read from them."""

LONGEST_BEGINNING = 128
"""Bytes of a name that its temporary name begins with, so that this one is not too long where the other is not."""


def is_file(path: Path) -> bool:
    """Whether there is a file that may be looked at; `Path.is_file` raises where a folder on the way must not be."""
    return os.path.isfile(path)  # noqa: PTH113


def leads_out(path: Path) -> bool:
    """Whether a file or folder is a symbolic link that leads out of the folder that it lies in.

    Args:
        path: The file or folder; it need not be there.
    """
    return path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(path.parent))


def temporary_name(name: str) -> str:
    """Name a file that is not complete yet, after the machine and the process that write it, and like no other.

    Args:
        name: Name of the finished file.
    """
    beginning = os.fsencode(name)[:LONGEST_BEGINNING].decode(errors="ignore")  # no half characters
    return f".{beginning}.{_HOST}-{os.getpid()}-{os.urandom(4).hex()}.tmp"


def is_abandoned(path: Path) -> bool:
    """Whether nobody will finish a file with a temporary name.

    Its process has ended; that of another machine, which cannot be asked, has not written to it for a day.

    Args:
        path: The file.
    """
    if (writer := WRITER.search(path.name)) and writer["host"] == _HOST:
        return not is_running(writer["process"])
    with suppress(FileNotFoundError):
        return time() - path.stat().st_mtime > A_DAY
    return False


def is_idle(folder: Path) -> bool:
    """Whether nobody has written to a folder, or to what lies in it, for a day."""
    with suppress(OSError):  # something is gone meanwhile, or not ours to look at
        return time() - max(path.lstat().st_mtime for path in (folder, *folder.rglob("*"))) > A_DAY
    return False


def is_running(process: str) -> bool:
    """Whether there is a process of a number on this machine."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to, and rename it once everything is written.

    Args:
        path: Name of the finished file. Its folder is made if it is missing.

    Yields:
        The temporary name. If anything goes wrong it is removed, and ``path`` stays as it was.
    """
    temporary = path.with_name(temporary_name(path.name))
    with storage_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file in one go."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON file in one go, indented for people to read."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def json_line(content: Mapping[str, object]) -> str:
    """Give JSON in one line that can be written as UTF-8, whatever bytes names of files consist of."""
    text = json.dumps(content, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(content)
    return text


def open_table(path: Path, mode: str) -> TextIO:
    """Open a table of CSV to write to."""
    return cast("TextIO", path.open(mode, newline="", encoding="utf-8", errors=AS_THEY_ARE))


def read_table(path: Path) -> StringIO:
    """Read a table of CSV.

    Args:
        path: The file.

    Raises:
        ValueError: It is too large, or no file.
        OSError: It cannot be read.
    """
    return StringIO(read_bytes(path).decode(errors=AS_THEY_ARE), newline="")


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object.

    Args:
        path: The file.

    Raises:
        RunFolderError: The file is missing, cut short, must not be read, is too large, or holds something else.
    """
    with readable(path):
        try:
            content = parse_json(read_bytes(path))
        except FileNotFoundError as error:
            message = f"{path} is missing. Finish the run with `anomalib tiled fit --ckpt_dir`."
            raise RunFolderError(message) from error
        except ValueError as error:
            advice = "Delete it, and run `anomalib tiled fit --ckpt_dir` on the run."
            message = f"{path} cannot be read as JSON ({error}). {advice}"
            raise RunFolderError(message) from error
    if not isinstance(content, dict):
        message = f"{path} must hold a JSON object, found a {type(content).__name__}."
        raise RunFolderError(message)
    return content
