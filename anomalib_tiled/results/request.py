"""What a user requests of a prediction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib_tiled.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from anomalib_tiled.ensemble.tile_model import TilePrediction
    from anomalib_tiled.grid import Tile

    OnTile = Callable[[Tile, TilePrediction], None]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path


@dataclass(frozen=True)
class PredictionRequest:
    """What to predict, and where the results go.

    Args:
        data: Files, folders, patterns, or ``-`` for those that are listed.
        listed: Lines of the list.
        output: Folder for the results.
        settings: What is asked for.
        skip_existing: Whether to go on with what is in the folder.
        device: Where to predict; ``auto`` for what the run's configuration says.
    """

    data: tuple[str, ...]
    listed: Iterable[str]
    output: Path
    settings: PredictionSettings
    skip_existing: bool
    device: str


@dataclass(frozen=True)
class PredictionSettings:
    """What decides the contents of a folder of predictions.

    Args:
        threshold: What was asked for as threshold of images; ``None`` for the calibrated one.
        pixel_threshold: The same of pixels.
        min_area: Smallest region that is told, in pixels of the image.
        overlays: Whether heat maps are laid over the images.
        masks: Whether masks are kept.
        maps: Format in which raw maps are kept, ``tiff`` or ``npy``; ``None`` if they are not.
        coco: Whether regions are told in COCO's form too.
    """

    threshold: str | None = None
    pixel_threshold: str | None = None
    min_area: int = 1
    overlays: bool = False
    masks: bool = False
    maps: str | None = None
    coco: bool = False

    def __post_init__(self) -> None:
        """Check that regions can be as small as asked for."""
        if self.min_area < 0:
            message = f"--min_area must be a number of pixels, 0 for regions of any size, but is {self.min_area}."
            raise ConfigurationError(message)
