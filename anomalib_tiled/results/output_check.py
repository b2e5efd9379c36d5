"""Checks that predictions neither mix with other files nor overwrite them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.system.os_errors import storage_errors

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib_tiled.results.prediction_folder import PredictionFolder
    from anomalib_tiled.results.request import PredictionSettings

PICTURES = ("images", "masks", "maps")
"""Folders of the files for each image."""


def check_free(folder: PredictionFolder, settings: PredictionSettings, *, resume: bool) -> None:
    """Refuse a folder in which a prediction would mix with another one, or overwrite other files.

    Args:
        folder: The folder.
        settings: Settings of the prediction.
        resume: Whether to resume the predictions in the folder.

    Raises:
        ConfigurationError: The folder holds predictions already, or files that would be replaced.
        RunFolderError: The folder holds predictions without their settings.
    """
    if _is_begun(folder):
        if resume or not holds_results(folder):
            return
        message = (
            f"{folder.path} holds predictions already. Choose another folder with --output, resume with "
            "--skip_existing, leave --data out to apply other thresholds to its images, or delete it."
        )
        raise ConfigurationError(message)
    if _is_filled(folder.lines_file):
        message = (
            f"{folder.lines_file} holds predictions, but {folder.settings_file.name} with their settings is missing "
            "beside it. Restore it, or choose another folder with --output."
        )
        raise RunFolderError(message)
    if taken := [path.name for path in _written(folder, settings) if _is_filled(path)]:
        message = (
            f"A prediction into {folder.path} would overwrite {', '.join(taken)} there. "
            "Choose another folder with --output, or move these away."
        )
        raise ConfigurationError(message)


def holds_results(folder: PredictionFolder) -> bool:
    """Whether a folder holds results of a prediction; one without any may still leave its settings and failures.

    Raises:
        StorageError: The folder cannot be accessed.
    """
    pictures = (folder.path / name for name in PICTURES)
    return _is_begun(folder) and any(map(_is_filled, (folder.lines_file, folder.coco_file, *pictures)))


def picture_folders(folder: PredictionFolder, settings: PredictionSettings) -> list[Path]:
    """Give the folders for the requested overlays, masks and maps."""
    requested = (settings.overlays, settings.masks, settings.maps is not None)
    return [folder.path / name for name, is_requested in zip(PICTURES, requested, strict=True) if is_requested]


def _written(folder: PredictionFolder, settings: PredictionSettings) -> list[Path]:
    """Give the files and folders that a prediction writes."""
    listed = [folder.coco_file] if settings.coco else []
    return [*picture_folders(folder, settings), *listed, folder.rows_file, folder.failures_file]


def _is_begun(folder: PredictionFolder) -> bool:
    with storage_errors(folder.path):
        return folder.settings_file.exists()


def _is_filled(path: Path) -> bool:
    with storage_errors(path):
        return any(path.iterdir()) if path.is_dir() else path.exists() and path.stat().st_size > 0
