"""Finds the images to predict: by file, folder, pattern, or list."""

from __future__ import annotations

import os
from functools import cache
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib_tiled.data.endings import image_endings
from anomalib_tiled.data.folder_search import GONE, Search
from anomalib_tiled.errors import DataError
from anomalib_tiled.system.files import absolute

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LISTED = "-"
"""Name for a list of images on standard input."""

BYTE_ORDER_MARK = "\ufeff"
"""Character that some programs put before the first line of a file."""


LONGEST_LINE = 2**16
"""Characters of a line of the list; no path is as long."""


def find_images(given: Iterable[str], listed: Iterable[str], *, apart_from: Sequence[Path]) -> list[Path]:
    """Find images, each once, in the given order; those of a folder in order of their names.

    Args:
        given: Files, folders (searched with all subfolders), patterns such as ``parts/**/*.png``, or ``-`` for the
            list.
        listed: Lines of the list: one file, folder or pattern each.
        apart_from: Folders of pictures of predictions, which are no images to predict.

    Returns:
        Absolute paths. They include lines of the list that name no image, and unreadable folders: reading them reports
        the fault, without stopping the others.

    Raises:
        DataError: A name does not exist or is unreadable, a folder holds no image, nothing matches a pattern, or the
            list is empty.
    """
    results = [Path(os.path.realpath(folder)) for folder in apart_from]

    @cache
    def holds_results(folder: Path) -> bool:
        real = Path(os.path.realpath(folder))
        return any(real.is_relative_to(each) for each in results)

    found: dict[Path, None] = {}
    for name in given:
        paths = _of_list(listed) if name == LISTED else _of_argument(name)
        found.update(dict.fromkeys(path for path in paths if not holds_results(path.parent)))
    if not found:
        folders = ", ".join(map(str, apart_from))
        message = f"--data must name images apart from the pictures of predictions in {folders}. Name other images."
        raise DataError(message)
    return list(found)


def _of_list(listed: Iterable[str]) -> list[Path]:
    try:
        lines = list(map(_checked, listed))
    except OSError as error:
        message = f"--data - reads a list of images from standard input, which cannot be read: {error.strerror}."
        raise DataError(message) from error
    names = [line.removeprefix(BYTE_ORDER_MARK).rstrip("\r\n") for line in lines]  # blanks may belong to a name
    if any("\0" in name for name in names):
        message = "--data - reads a list with one image in each line, but it holds zero bytes. Leave -print0 out."
        raise DataError(message)
    found = [path for name in names if name.strip() for path in _of_line(name)]
    if not found:
        message = "--data - reads a list with one image in each line from standard input, which is empty or closed."
        raise DataError(message)
    return found


def _checked(line: str) -> str:
    if len(line) > LONGEST_LINE:
        message = (
            f"--data - reads a list with one image in each line, but a line is longer than {LONGEST_LINE} characters."
        )
        raise DataError(message)
    return line


def _of_line(name: str) -> list[Path]:
    try:
        return _of_name(name)
    except (DataError, OSError):
        return [absolute(name)] if (stripped := name.strip()) == name else _of_line(stripped)


def _of_argument(name: str) -> list[Path]:
    if not name:
        message = "--data must name files or folders, but one name is empty. Check for an unset shell variable."
        raise DataError(message)
    try:
        return _of_name(name)
    except OSError as error:
        message = (
            f"--data must name files or folders that can be read, but {absolute(name)} cannot: {error.strerror}. "
            "Correct the name, or change the permissions."
        )
        raise DataError(message) from error


def _of_name(name: str) -> list[Path]:
    path = absolute(name)
    if _exists(path):
        return _of_folder(path) if path.is_dir() else [path]
    if has_magic(name):
        return _of_pattern(name)
    message = f"--data must name files or folders that exist, but there is no {path}."
    raise DataError(message)


def _exists(path: Path) -> bool:
    """Whether a file or folder exists.

    Raises:
        OSError: The system cannot say, because a folder is unreadable or the path is invalid.
    """
    try:
        path.stat()
    except OSError as error:
        if error.errno in GONE:
            return False
        raise
    return True


def _of_folder(folder: Path) -> list[Path]:
    search = Search()
    found = _images_below(folder, search)
    if not found:
        endings = ", ".join(image_endings())
        message = f"There must be images in {folder} or its subfolders, but there are none. Use one of {endings}."
        raise DataError(_reason(search) or message)
    return found + list(search.unreadable)


def _of_pattern(pattern: str) -> list[Path]:
    typed, search = Path(os.path.expanduser(pattern)), Search()  # noqa: PTH111  # it never fails
    # The name of the working directory may look like a pattern.
    start, parts = (Path(typed.anchor), typed.parts[1:]) if typed.is_absolute() else (Path.cwd(), typed.parts)
    matching = sorted({absolute(match) for match in search.matching(start, parts)})
    folders = dict.fromkeys(match for match in matching if os.path.isdir(match))  # noqa: PTH112  # it never fails
    found = [match for match in matching if match.suffix.lower() in image_endings() and match not in folders]
    # With **, the images of a folder match themselves; a pattern that matches only folders means their images.
    if not found or pattern.endswith(os.sep):
        found = [image for folder in folders for image in _images_below(folder, search)]
    if not found:
        message = f"No image matches {pattern}. Quote it to keep the shell from expanding it, or name a folder."
        raise DataError(_reason(search) or message)
    return found + list(search.unreadable)


def _images_below(folder: Path, search: Search) -> list[Path]:
    """Give images in order of their names, folder by folder, the files of a folder before its subfolders."""
    found = [
        root / name for root, names in search.walk(folder) for name in names if name.lower().endswith(image_endings())
    ]
    return sorted(found, key=lambda path: [*((1, part) for part in path.parts[:-1]), (0, path.name)])


def _reason(search: Search) -> str | None:
    """Say which folder could not be searched; ``None`` if all could."""
    for folder, reason in search.unreadable.items():
        return f"There must be images to predict, but {folder} cannot be searched: {reason}. Change its permissions."
    return None
