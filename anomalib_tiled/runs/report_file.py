"""The file of a report: recognized by a mark, so that no other file is overwritten or removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.system.os_errors import readable

if TYPE_CHECKING:
    from pathlib import Path

MARK = b'<meta name="generator" content="anomalib-tiled">'
"""What each report holds near its beginning."""

BEGINNING = 2**12
"""Bytes that are searched for the mark."""


def is_report(path: Path) -> bool:
    """Whether a file is a report that this package has written."""
    with path.open("rb") as file:
        return MARK in file.read(BEGINNING)


def check_report_file(path: Path) -> None:
    """Refuse to write a report where it would overwrite something else, or where there is no folder.

    Args:
        path: The file; it need not exist.

    Raises:
        ConfigurationError: It is a folder, or a file that is no report, or its folder is missing.
        RunFolderError: The file cannot be read.
    """
    with readable(path):
        is_folder, is_other = path.is_dir(), path.exists() and not (path.is_file() and is_report(path))
    if is_folder:
        message = f"A report must be a file, but {path} is a folder. Name a file: --output {path / 'report.html'}"
    elif not path.parent.is_dir():
        message = f"A report must be in a folder that exists, but there is no folder {path.parent}. Make it first."
    elif is_other:
        message = (
            f"A report must not replace other files, but {path} is there, and is no report of this program. Choose "
            "another file with --output, or move it away."
        )
    else:
        return
    raise ConfigurationError(message)
