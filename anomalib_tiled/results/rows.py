"""Rows of tables that are written as they come."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, cast

from anomalib_tiled.system_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from typing import TextIO

AS_THEY_ARE = "surrogateescape"
"""How names of files that are not UTF-8 are written into tables."""


def row(cells: Iterable[object]) -> str:
    """Give a row as it stands in a file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def append(path: Path, text: str) -> None:
    """Put text at the end of a file; it is on the disk afterwards."""
    with storage_errors(path), opened(path, "a") as file:
        file.write(text)


def opened(path: Path, mode: str) -> TextIO:
    """Open a table."""
    return cast("TextIO", path.open(mode, newline="", encoding="utf-8", errors=AS_THEY_ARE))
