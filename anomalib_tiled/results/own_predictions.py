"""Predictions that a run has made with the calibration that it has now: what ``--predictions`` must name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.results.prediction_folder import PredictionFolder
from anomalib_tiled.system.os_errors import readable

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib_tiled.runs.run_folder import RunFolder


def own_predictions(run: RunFolder, path: Path) -> PredictionFolder:
    """Open the folder of predictions that a run has made.

    Args:
        run: The run folder.
        path: The folder of the predictions.

    Raises:
        ConfigurationError: The folder holds no predictions, or those of another run or calibration.
        RunFolderError: The settings of the predictions cannot be read, or the run is not calibrated.
    """
    folder = PredictionFolder(path)
    with readable(path):
        is_begun = folder.settings_file.is_file()
    if not is_begun:
        message = (
            f"--predictions must be a folder that `anomalib tiled predict` has written, but {path} has no "
            f"{folder.settings_file.name}. Name such a folder, or predict images into it."
        )
        raise ConfigurationError(message)
    facts = folder.facts()
    if facts.get("calibration") != run.calibration_fingerprint(run.settings()):
        message = (
            f"Predictions must be of the run in --ckpt_dir, with the calibration that it has now, but those in {path} "
            f"are of another run than {run.path}, or of this run before it was calibrated anew: prediction.json names "
            f"{facts.get('run', 'no run')}. Give that run, or predict the images again into another folder."
        )
        raise ConfigurationError(message)
    return folder
