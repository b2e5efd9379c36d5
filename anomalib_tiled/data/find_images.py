"""Finds the images to predict: by file, folder, pattern, or list."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from functools import cache
from glob import has_magic
from pathlib import Path

from anomalib_tiled.data.image_files import image_endings
from anomalib_tiled.errors import DataError
from anomalib_tiled.system.files import absolute

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
    holds_results = inside(apart_from)
    paths = (path for name in given for path in (_of_list(listed) if name == LISTED else _of_name(name)))
    found = dict.fromkeys(path for path in paths if not holds_results(path.parent))
    if not found:
        folders = ", ".join(map(str, apart_from))
        message = f"--data must name images apart from the pictures of predictions in {folders}. Name other images."
        raise DataError(message)
    return list(found)


def inside(folders: Sequence[Path]) -> Callable[[Path], bool]:
    """Give a function that says whether a folder is one of these, or in one of them."""
    outer = [Path(os.path.realpath(folder)) for folder in folders]

    @cache
    def is_inside(folder: Path) -> bool:
        real = Path(os.path.realpath(folder))
        return any(real.is_relative_to(each) for each in outer)

    return is_inside


def _of_list(listed: Iterable[str]) -> list[Path]:
    try:
        names = [_name_in(line) for line in listed]
    except OSError as error:
        message = f"--data - reads a list of images from standard input, which cannot be read: {error.strerror}."
        raise DataError(message) from error
    found = [path for name in names if name.strip() for path in _of_line(name)]
    if not found:
        message = "--data - reads a list with one image in each line from standard input, which is empty or closed."
        raise DataError(message)
    return found


def _name_in(line: str) -> str:
    if len(line) > LONGEST_LINE or "\0" in line:
        message = (
            "--data - reads a list with one image in each line, but a line holds zero bytes or more than "
            f"{LONGEST_LINE} characters. If `find` wrote it, leave out -print0."
        )
        raise DataError(message)
    return line.removeprefix(BYTE_ORDER_MARK).rstrip("\r\n")  # blanks may belong to a name


def _of_line(name: str) -> list[Path]:
    try:
        return _of_name(name)
    except DataError:
        return [absolute(name)] if (stripped := name.strip()) == name else _of_line(stripped)


def _of_name(name: str) -> list[Path]:
    if not name:
        message = "--data must name files or folders, but one name is empty. Check for an unset shell variable."
        raise DataError(message)
    path = absolute(name)
    if os.path.isdir(path):  # noqa: PTH112  # it never fails
        return _of_folder(path)
    if os.path.exists(path):  # noqa: PTH110  # it never fails
        return [path]
    if has_magic(name):
        return _of_pattern(name)
    message = (
        f"--data must name files or folders that exist, but there is no {path}. Correct the name, or the permissions "
        "of the folders that it lies in."
    )
    raise DataError(message)


def _of_folder(folder: Path) -> list[Path]:
    if not (found := list(images_below(folder))):
        endings = ", ".join(image_endings())
        message = f"There must be images in {folder} or its subfolders, but there are none. Use one of {endings}."
        raise DataError(message)
    return found


def images_below(
    top: Path, known: Container[str] = (), left_out: Callable[[Path], bool] = lambda _: False
) -> Iterator[Path]:
    """Yield images in order of their names, those of a folder before its subfolders; then unreadable folders.

    Links are followed, but a folder comes once, so circles of links end. Hidden files and folders are left out.

    Args:
        top: The folder.
        known: Paths of images to leave out, which costs less than to yield them.
        left_out: Whether to leave a folder out, with its subfolders.
    """
    endings = image_endings()
    unreadable: list[OSError] = []
    seen: set[str] = set()
    for root, folders, names in os.walk(top, onerror=unreadable.append, followlinks=True):
        if (real := os.path.realpath(root)) in seen or left_out(Path(root)):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        start = os.path.join(root, "")  # noqa: PTH118  # a path for each of 100,000 known names takes half a second
        others = (name for name in names if start + name not in known and not name.startswith("."))
        yield from (Path(start + name) for name in sorted(others) if name.lower().endswith(endings))
    yield from (Path(error.filename) for error in unreadable)


def _of_pattern(pattern: str) -> list[Path]:
    start, parts = Path.cwd(), Path(os.path.expanduser(pattern)).parts  # noqa: PTH111  # it never fails
    # The first folders may have names that look like patterns, as the working directory may.
    while len(parts) > 1 and os.path.isdir(start / parts[0]):  # noqa: PTH112  # it never fails
        start, parts = start / parts[0], parts[1:]
    matches = start.glob("/".join(part if part == "**" else re.sub(r"\*+", "*", part) for part in parts))
    seen = (match for match in matches if _is_hidden(parts) or not _is_hidden(match.relative_to(start).parts))
    matching = sorted({absolute(match) for match in seen})
    folders = [match for match in matching if os.path.isdir(match)]  # noqa: PTH112  # it never fails
    found = [match for match in matching if match.suffix.lower() in image_endings() and match not in folders]
    # With **, the images of a folder match themselves; a pattern that matches only folders means their images.
    if not found or pattern.endswith(os.sep):
        found = [image for folder in folders for image in images_below(folder)]
    if not found:
        message = f"No image matches {pattern}. Quote it to keep the shell from expanding it, or name a folder."
        raise DataError(message)
    return found


def _is_hidden(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") for part in parts)
