"""The list of images that could not be read."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.results.csv_files import append, row
from anomalib_tiled.system.files import read_table, replacing
from anomalib_tiled.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

COLUMNS = ("image_path", "error")


def append_failure(path: Path, image_path: Path, error: str) -> None:
    """Note an image that could not be read.

    Args:
        path: The list.
        image_path: The image.
        error: The reason.
    """
    append(path, ("" if path.exists() else row(COLUMNS)) + row([image_path, error]))


def forget_failures(path: Path, images: Container[str]) -> None:
    """Remove images from the list, and the list itself if it is empty then.

    Args:
        path: The list.
        images: The images; others stay in the list.
    """
    with storage_errors(path):
        others = [cells for cells in _failures(path) if cells[0] not in images]
        if not others:
            path.unlink(missing_ok=True)
            return
    with replacing(path) as temporary:
        append(temporary, "".join(map(row, [COLUMNS, *others])))


def _failures(path: Path) -> list[list[str]]:
    """Read the list, without a last row that was cut off.

    Raises:
        RunFolderError: The file was changed, and is no such list.
    """
    if not path.exists():
        return []
    try:
        return [cells for cells in csv.reader(read_table(path)) if len(cells) == len(COLUMNS)][1:]
    except (ValueError, csv.Error) as error:
        message = f"{path} must be a list of images that failed, but was changed ({error}). Move it away."
        raise RunFolderError(message) from error
