"""Rows of CSV files that are written one by one."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from anomalib_tiled.system.files import open_table
from anomalib_tiled.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def row(cells: Iterable[object]) -> str:
    """Give a row as text."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def append(path: Path, text: str) -> None:
    """Append text to a file, and close the file."""
    with storage_errors(path), open_table(path, "a") as file:
        file.write(text)
