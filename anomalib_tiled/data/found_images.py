"""Finding the images to predict: by file, folder, pattern, or a list of them."""

from __future__ import annotations

import os
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING

from torchvision.datasets.folder import IMG_EXTENSIONS

from anomalib_tiled.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LISTED = "-"
"""What stands for a list of images on standard input."""


def find_images(given: Iterable[str], listed: Iterable[str], *, apart_from: Path) -> list[Path]:
    """Find images, each once, in the order in which they are named; those of a folder by name.

    Args:
        given: Files, folders (searched with all folders in them), patterns such as ``parts/**/*.png``, or ``-`` for
            the list.
        listed: Lines of the list: one file, folder or pattern each. What names no image is found all the same: reading
            it reports that, and one wrong line does not stop all others.
        apart_from: Folder of results, whose pictures are no images to predict.

    Returns:
        Absolute paths.

    Raises:
        DataError: Nothing has the name, a folder holds no image, nothing matches a pattern, or the list is empty.
    """
    found: dict[Path, None] = {}
    for name in given:
        paths = _of_list(listed) if name == LISTED else _of_name(name)
        found.update(dict.fromkeys(path for path in paths if not path.is_relative_to(apart_from.absolute())))
    if not found:
        message = f"There must be images outside the folder of the results, {apart_from}, but there are none."
        raise DataError(message)
    return list(found)


def _of_list(listed: Iterable[str]) -> list[Path]:
    names = [line.strip() for line in listed]
    found = [path for name in names if name for path in _of_line(name)]
    if not found:
        message = "--data - reads a list of images, one in each line, from standard input, but the list is empty."
        raise DataError(message)
    return found


def _of_line(name: str) -> list[Path]:
    path = Path(name).expanduser().absolute()
    try:
        return _of_name(name)
    except DataError:
        return [path]


def _of_name(name: str) -> list[Path]:
    path = Path(name).expanduser().absolute()
    if path.is_dir():
        return _of_folder(path)
    if path.exists():
        return [path]
    if not has_magic(name):
        message = f"--data must name files or folders that exist, but there is no {path}."
        raise DataError(message)
    relative = str(Path(name).expanduser())  # the folder that this is called in may have a name like a pattern
    matching = sorted(Path(match).absolute() for match in glob(relative, recursive=True))  # noqa: PTH207  # takes **
    folders = [match for match in matching if match.is_dir()]
    found = [match for match in matching if match.is_file() and (match.suffix.lower() in IMG_EXTENSIONS)]
    # With **, the images of a folder match by themselves; a pattern that matches folders alone means what is in them.
    found = found or [image for folder in folders for image in _images_below(folder)]
    if not found:
        message = f"No image matches {name}. Put it in quotes if the shell should not read it, or name a folder."
        raise DataError(message)
    return found


def _of_folder(folder: Path) -> list[Path]:
    found = list(_images_below(folder))
    if not found:
        endings = ", ".join(sorted(IMG_EXTENSIONS))
        message = f"There must be images in {folder} or in folders in it, but there are none. Looked for {endings}."
        raise DataError(message)
    return found


def _images_below(folder: Path) -> Iterator[Path]:
    """Yield images in order of their names, folder by folder; nothing that is hidden."""
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(IMG_EXTENSIONS):
                yield Path(root) / name
