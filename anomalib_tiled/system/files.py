"""Reading and writing files; a reader never sees a half-written one."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.system.bounds import parse_json, read_bytes
from anomalib_tiled.system.os_errors import readable, storage_errors
from anomalib_tiled.system.temporary import temporary_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOST_LINKS = 40
"""Links that Linux follows from one to the next; more lead in a circle."""

ANY_BYTES = "surrogateescape"
"""How tables store file names that are not UTF-8."""


def is_file(path: Path) -> bool:
    """Whether there is an accessible file; `Path.is_file` raises an error below a folder without permission."""
    return os.path.isfile(path)  # noqa: PTH113


def absolute(path: str | Path) -> Path:
    """Give an absolute path without ``..`` that leads to the same file.

    Links stay, except before ``..``: ``link/..`` is the parent of the folder that the link leads to.

    Args:
        path: May begin with ``~``, and need not exist.
    """
    typed = Path(os.path.expanduser(path)).absolute()  # noqa: PTH111  # Path.expanduser fails for unknown users
    if ".." not in typed.parts:
        return typed
    plain = Path(typed.anchor)
    for part in typed.parts[1:]:
        if part != "..":
            plain /= part
        else:
            plain = Path(os.path.realpath(plain) if os.path.islink(plain) else plain).parent  # noqa: PTH114  # never fails
    return plain


def without_own_link(path: Path) -> Path:
    """Give the file or folder that a path names, if it is a link such as ``latest``, which may lead elsewhere later.

    Links in the way to it stay: on another machine, they may lead to where the same disk is mounted there.

    Args:
        path: An absolute path; it need not exist.
    """
    for _ in range(MOST_LINKS):
        if not os.path.islink(path):  # noqa: PTH114  # never fails
            break
        path = absolute(path.parent / path.readlink())
    return path


def refresh(folder: Path) -> None:
    """Let a network file system look anew for the files of a folder, after another machine has written there.

    NFS remembers for up to a minute that a file was missing, unless the folder is changed from this machine.

    Args:
        folder: The folder; nothing happens if there is none.
    """
    if folder.is_dir():
        with storage_errors(changed := folder / temporary_name("refresh")):
            changed.touch()
            changed.unlink()


def remove_below(folder: Path, ending: str) -> None:
    """Remove the files of one kind below a folder, and the folders that are empty afterwards.

    Args:
        folder: The folder; links in it are not followed.
        ending: What the names of the files end with; other files belong to the user.
    """
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            if name.endswith(ending):
                Path(place, name).unlink(missing_ok=True)
        with suppress(OSError):
            Path(place).rmdir()


def leads_out(path: Path) -> bool:
    """Whether a path is a symbolic link that leads out of its folder.

    Args:
        path: The file or folder; it need not exist.
    """
    return path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(path.parent))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name, and rename it when it is complete.

    Args:
        path: Name of the finished file. This makes its folder if it is missing.

    Yields:
        The temporary name, beside ``path``. After an error, the temporary file is removed and ``path`` is unchanged.
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
    """Give JSON in one line that can be written as UTF-8, even where file names hold other bytes."""
    text = json.dumps(content, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(content)
    return text


def open_table(path: Path, mode: str) -> TextIO:
    """Open a CSV file for writing."""
    return cast("TextIO", path.open(mode, newline="", encoding="utf-8", errors=ANY_BYTES))


def read_table(path: Path) -> StringIO:
    """Read a CSV file.

    Args:
        path: The file.

    Raises:
        ValueError: The file is too large, or is a pipe, a socket or a device.
        OSError: The file cannot be read.
    """
    return table_of(read_bytes(path))


def table_of(content: bytes) -> StringIO:
    """Read the content of a CSV file."""
    return StringIO(content.decode(errors=ANY_BYTES), newline="")


def read_json(
    path: Path, advice: str = "Delete it, and run `anomalib tiled fit --ckpt_dir` on the run."
) -> dict[str, object]:
    """Read a JSON object.

    Args:
        path: The file.
        advice: What to do if it cannot be read as JSON; a sentence.

    Raises:
        RunFolderError: The file is missing, cut short, unreadable, too large, or holds something else.
    """
    with readable(path):
        try:
            content = parse_json(read_bytes(path))
        except FileNotFoundError as error:
            message = f"{path} is missing. Finish the run with `anomalib tiled fit --ckpt_dir`."
            raise RunFolderError(message) from error
        except ValueError as error:
            message = f"{path} cannot be read as JSON ({error}). {advice}"
            raise RunFolderError(message) from error
    if not isinstance(content, dict):
        message = f"{path} must hold a JSON object, but holds a {type(content).__name__}."
        raise RunFolderError(message)
    return content


def read_json_if_any(path: Path) -> dict[str, object]:
    """Read a JSON object; give an empty one if there is none, or its process has not written it yet.

    It opens the file at once: NFS looks anew for a file that a process opens, but may answer `exists` from memory.
    """
    with suppress(RunFolderError):
        return read_json(path)
    return {}
