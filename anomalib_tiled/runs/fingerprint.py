"""Identifies what decides about images: results of another calibration are not comparable."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anomalib_tiled.config.settings import Settings
    from anomalib_tiled.runs.run_folder import RunFolder


def calibration_fingerprint(folder: RunFolder, settings: Settings) -> str:
    """Identify calibration and sensitivities of a run.

    Args:
        folder: The run folder.
        settings: Its configuration.
    """
    thresholding = settings.thresholding
    sensitivities = f"{thresholding.image_sensitivity} {thresholding.pixel_sensitivity}"
    content = folder.calibration_file.read_bytes() + sensitivities.encode()
    return blake2b(content, digest_size=8).hexdigest()
