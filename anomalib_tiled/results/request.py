"""The request for a prediction: images, settings, folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomalib_tiled.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True)
class PredictionRequest:
    """What to predict, and where to write the results.

    Args:
        data: Files, folders, patterns, or ``-`` for the list.
        listed: Lines of the list.
        output: Folder for the results.
        settings: Settings of the prediction.
        skip_existing: Whether to resume the predictions in the folder.
        device: Where to predict; ``auto`` for the device in the run's configuration.
    """

    data: tuple[str, ...]
    listed: Iterable[str]
    output: Path
    settings: PredictionSettings
    skip_existing: bool
    device: str


@dataclass(frozen=True)
class PredictionSettings:
    """Settings that decide the contents of a folder of predictions.

    Args:
        threshold: Threshold of images as typed; ``None`` for the calibrated one.
        pixel_threshold: Threshold of pixels as typed; ``None`` for the calibrated one.
        min_area: Area of the smallest region to list, in pixels of the image.
        overlays: Whether to write images with heat maps.
        masks: Whether to write masks.
        maps: Format of raw maps to write, ``tiff`` or ``npy``; ``None`` for no maps.
        coco: Whether to write regions in COCO's format too.
    """

    threshold: str | None = None
    pixel_threshold: str | None = None
    min_area: int = 1
    overlays: bool = False
    masks: bool = False
    maps: str | None = None
    coco: bool = False

    def __post_init__(self) -> None:
        """Check the smallest area."""
        if self.min_area < 0:
            message = f"--min_area must be a number of pixels, 0 for regions of any size, but is {self.min_area}."
            raise ConfigurationError(message)
