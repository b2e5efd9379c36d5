"""What a prediction must not be mixed with, and not be written over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.system.os_errors import storage_errors

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib_tiled.results.prediction_folder import PredictionFolder
    from anomalib_tiled.results.request import PredictionSettings

PICTURES = ("images", "masks", "maps")
"""Folders of what is kept of each image."""


def check_free(folder: PredictionFolder, settings: PredictionSettings, *, resume: bool) -> None:
    """Refuse a folder in which a prediction would be mixed with another one, or be written over something else.

    Args:
        folder: The folder.
        settings: What is asked for.
        resume: Whether predictions that are there already are gone on with.

    Raises:
        ConfigurationError: It holds predictions already, or something that would be replaced.
        RunFolderError: It holds predictions of which nobody can say what they were made with.
    """
    if _is_begun(folder):
        if resume or not holds_results(folder):
            return
        message = (
            f"{folder.path} holds predictions already. Choose another folder with --output, go on with it by "
            "--skip_existing, leave --data out to decide its images anew, or delete it."
        )
        raise ConfigurationError(message)
    if _is_filled(folder.lines_file):
        message = (
            f"{folder.lines_file} holds predictions, but {folder.settings_file.name} beside it, which says what they "
            "were made with, is missing. Put it back, or choose another folder with --output."
        )
        raise RunFolderError(message)
    if taken := [path.name for path in _written(folder, settings) if _is_filled(path)]:
        message = (
            f"A prediction into {folder.path} would write over what is there already: {', '.join(taken)}. "
            "Choose another folder with --output, or move it away."
        )
        raise ConfigurationError(message)


def holds_results(folder: PredictionFolder) -> bool:
    """Whether a prediction into a folder came to a result; one that failed before leaves its settings and failures.

    Raises:
        StorageError: The folder must not be looked at.
    """
    pictures = (folder.path / name for name in PICTURES)
    return _is_begun(folder) and any(map(_is_filled, (folder.lines_file, folder.coco_file, *pictures)))


def picture_folders(folder: PredictionFolder, settings: PredictionSettings) -> list[Path]:
    """Give the folders that pictures and maps of predictions are put into, if any are asked for."""
    asked = (settings.overlays, settings.masks, settings.maps is not None)
    return [folder.path / name for name, is_asked in zip(PICTURES, asked, strict=True) if is_asked]


def _written(folder: PredictionFolder, settings: PredictionSettings) -> list[Path]:
    """Give the files and folders that a prediction replaces, or puts something into."""
    listed = [folder.coco_file] if settings.coco else []
    return [*picture_folders(folder, settings), *listed, folder.rows_file, folder.failures_file]


def _is_begun(folder: PredictionFolder) -> bool:
    with storage_errors(folder.path):
        return folder.settings_file.exists()


def _is_filled(path: Path) -> bool:
    with storage_errors(path):
        return any(path.iterdir()) if path.is_dir() else path.exists() and path.stat().st_size > 0
