"""What must not stay in a run folder: files that are half written, and results of models that are no more."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib_tiled.system.files import WRITER, is_abandoned

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)

OF_TEST = ("metrics.json", "scores.csv", "tiles.csv")
"""Files that a test writes, beside pictures."""

PICTURES = "images"
"""Folder of the pictures of a test."""

PREDICTED = "prediction.json"
"""File beside pictures that are predictions: those are the user's."""


def remove_half_written(folder: Path) -> None:
    """Remove what commands that were killed were writing in a run folder; what others write stays.

    Args:
        folder: The run folder. Its tiles and what they predicted are not looked at.
    """
    remove_abandoned(folder.glob(".*.tmp"))
    for part in (folder / "logs", folder / PICTURES):
        if not part.is_symlink():
            remove_abandoned(part.rglob(".*.tmp"))


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Remove files with temporary names of ours that nobody will finish."""
    for path in paths:
        if WRITER.search(path.name) and (path.is_symlink() or path.is_file()) and is_abandoned(path):
            path.unlink(missing_ok=True)


def remove_results(folder: Path) -> None:
    """Remove what a test has found in a run folder, since it is of other models or stages.

    Args:
        folder: The run folder. Several processes may do this at the same time.
    """
    if found := [path for path in (folder / name for name in OF_TEST) if path.exists()]:
        logger.info("The results of the last test are of other models or stages, and are removed from %s.", folder)
    pictures = folder / PICTURES
    try:
        for path in found:
            path.unlink(missing_ok=True)
        if not (pictures.is_symlink() or (folder / PREDICTED).exists() or (pictures / PREDICTED).exists()):
            _remove_pictures(pictures)
    except OSError as error:
        logger.warning("Results of the last test could not be removed, and are of other models or stages: %s", error)


def _remove_pictures(folder: Path) -> None:
    """Remove pictures, and the folders that are empty then; whatever else lies there is not ours."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            if name.endswith(".png"):
                Path(place, name).unlink(missing_ok=True)
        with suppress(OSError):
            Path(place).rmdir()
