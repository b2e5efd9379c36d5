"""Files of results, in a run folder or elsewhere: their names, which folder may take them, and their removal."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.runs.file_names import RunFiles
from anomalib_tiled.runs.report_file import is_report
from anomalib_tiled.system.files import is_file, remove_below

logger = logging.getLogger(__name__)

TESTED, TESTED_FACTS, REPORT = "tested.jsonl", "tested.json", "report.html"
"""More files of a test: a line for each image, how images were tested; and the page that shows it all."""

OF_TEST = ("metrics.json", "scores.csv", "tiles.csv", TESTED, TESTED_FACTS)
"""Files that a test writes, beside pictures."""

PICTURES, THUMBNAILS = "images", "thumbnails"
"""Folders of the pictures of a test, and of small ones for its report."""

OF_RUN = ("logs", "tiles", "raw", PICTURES, THUMBNAILS, "synthetic")
"""Folders of a run that belong to it alone."""


def remove_thumbnails(folder: Path) -> None:
    """Remove the small pictures of a test, and their folder if it is empty then."""
    for ending in (".jpg", ".png"):
        remove_below(folder, ending)


def check_output(path: Path) -> None:
    """Refuse a folder for results that holds files of a run.

    Args:
        path: The folder that ``--output`` names; it need not exist.

    Raises:
        ConfigurationError: The folder is a run folder, or belongs to one.
    """
    real = Path(os.path.realpath(path))
    for folder in (real, *real.parents):
        run = RunFiles(folder)
        inside = real.relative_to(folder).parts
        if is_file(run.config_file) and is_file(run.split_file) and (not inside or inside[0] in OF_RUN):
            message = (
                f"--output must be a folder for results alone, but {path} "
                f"{'belongs to' if inside else 'is'} the run folder {folder}. Choose another, or leave --output out."
            )
            raise ConfigurationError(message)


def remove_results(folder: Path) -> None:
    """Remove the results of a test from a run, since they are of other models or stages; several processes may do so.

    Args:
        folder: The run folder.
    """
    if found := [path for path in (folder / name for name in OF_TEST) if path.exists()]:
        logger.info("Removing the results of the last test, which are of other models or stages, from %s.", folder)
    report, pictures, thumbnails = folder / REPORT, folder / PICTURES, folder / THUMBNAILS
    try:
        for path in found:
            path.unlink(missing_ok=True)
        if report.is_file() and is_report(report):
            report.unlink(missing_ok=True)
        if not pictures.is_symlink():
            remove_below(pictures, ".png")
        if not thumbnails.is_symlink():
            remove_thumbnails(thumbnails)
    except OSError as error:
        logger.warning("Results of the last test could not be removed, and are of other models or stages: %s", error)
