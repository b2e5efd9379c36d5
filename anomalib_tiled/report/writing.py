"""Writes the page of a run beside its results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalib_tiled.report.gather import gather_predictions, gather_test
from anomalib_tiled.report.page import render
from anomalib_tiled.report.reported_run import ReportedRun
from anomalib_tiled.runs.report_file import check_report_file
from anomalib_tiled.runs.result_files import REPORT
from anomalib_tiled.system.files import write_text

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib_tiled.runs.run_folder import RunFolder


def write_report(
    folder: RunFolder, *, results: Path | None = None, predictions: Path | None = None, output: Path | None = None
) -> Path:
    """Write the report on a test, or on predictions.

    Args:
        folder: The run folder.
        results: Folder of the results of the test; ``None`` for the run folder.
        predictions: Folder of predictions to show instead; ``None`` for the test.
        output: The file; ``None`` for ``report.html`` in the folder of what is shown.

    Returns:
        The file.

    Raises:
        ConfigurationError: The file would replace another one, or the predictions are of another run.
        RunFolderError: There are no results, or a file was changed.
        StorageError: The disk is full.
    """
    shown = predictions or results or folder.path
    path = output or shown / REPORT
    check_report_file(path)
    run = ReportedRun.read(folder)
    content = gather_test(run, shown) if predictions is None else gather_predictions(run, predictions)
    write_text(path, render(content))
    return path
