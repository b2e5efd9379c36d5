"""Removes files that must not stay in a run folder: half-written ones, and results of models that are gone."""

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
"""File beside pictures of predictions, which belong to the user and stay."""


def remove_half_written(folder: Path) -> None:
    """Remove half-written files of killed commands from a run folder; files of running commands stay.

    Args:
        folder: The run folder. Files of tiles and their predictions stay.
    """
    remove_abandoned(folder.glob(".*.tmp"))
    for part in (folder / "logs", folder / PICTURES):
        if not part.is_symlink():
            remove_abandoned(part.rglob(".*.tmp"))


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Remove temporary files of this package whose process has ended."""
    for path in paths:
        if WRITER.search(path.name) and (path.is_symlink() or path.is_file()) and is_abandoned(path):
            path.unlink(missing_ok=True)


def remove_results(folder: Path) -> None:
    """Remove the results of a test from a run folder, since they are of other models or stages.

    Args:
        folder: The run folder. Several processes may do this at the same time.
    """
    if found := [path for path in (folder / name for name in OF_TEST) if path.exists()]:
        logger.info("Removing the results of the last test, which are of other models or stages, from %s.", folder)
    pictures = folder / PICTURES
    try:
        for path in found:
            path.unlink(missing_ok=True)
        if not (pictures.is_symlink() or (folder / PREDICTED).exists() or (pictures / PREDICTED).exists()):
            _remove_pictures(pictures)
    except OSError as error:
        logger.warning("Results of the last test could not be removed, and are of other models or stages: %s", error)


def _remove_pictures(folder: Path) -> None:
    """Remove pictures, and folders that are empty afterwards; other files belong to the user."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            if name.endswith(".png"):
                Path(place, name).unlink(missing_ok=True)
        with suppress(OSError):
            Path(place).rmdir()
