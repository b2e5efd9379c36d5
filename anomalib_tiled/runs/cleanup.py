"""Removes results of models or stages that are gone from a run folder."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

OF_TEST = ("metrics.json", "scores.csv", "tiles.csv")
"""Files that a test writes, beside pictures."""

PICTURES = "images"
"""Folder of the pictures of a test."""


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
        if not pictures.is_symlink():
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
