"""The list of images that could not be read."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from anomalib_tiled.files import replacing
from anomalib_tiled.results.rows import append, opened, row
from anomalib_tiled.system_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

COLUMNS = ("image_path", "error")


def append_failure(path: Path, image_path: Path, error: str) -> None:
    """Note an image that could not be read.

    Args:
        path: The list.
        image_path: The image.
        error: Why.
    """
    append(path, ("" if path.exists() else row(COLUMNS)) + row([image_path, error]))


def forget_failures(path: Path, images: Container[str]) -> None:
    """Take images from the list; with the last of them it goes.

    Args:
        path: The list.
        images: The images; others that could not be read stay in it.
    """
    with storage_errors(path):
        others = [cells for cells in _failures(path) if cells[0] not in images]
        if not others:
            path.unlink(missing_ok=True)
            return
    with replacing(path) as temporary:
        append(temporary, "".join(map(row, [COLUMNS, *others])))


def _failures(path: Path) -> list[list[str]]:
    """Read the list; a last row that is cut off is none."""
    if not path.exists():
        return []
    with opened(path, "r") as file:
        return [cells for cells in csv.reader(file) if len(cells) == len(COLUMNS)][1:]
