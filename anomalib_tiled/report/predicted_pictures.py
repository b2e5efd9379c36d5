"""The pictures of predicted images: scaled from the images themselves, and from the masks and maps beside the lines."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anomalib_tiled.data.image_files import opened, read_scaled, shrunk
from anomalib_tiled.errors import DataError, RunFolderError
from anomalib_tiled.report.shown_pictures import LARGEST_SIDE, Layers
from anomalib_tiled.results.colours import grey_of
from anomalib_tiled.results.prediction_folder import HAS_MAPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL import Image

    from anomalib_tiled.report.raw_maps import RawMaps
    from anomalib_tiled.report.reported_run import ReportedRun
    from anomalib_tiled.results.pictures import Pictures
    from anomalib_tiled.results.prediction_folder import PredictionFolder
    from anomalib_tiled.results.prediction_row import PredictedImage

    Pixels = NDArray[np.uint8]
    Scores = NDArray[np.float32]


ROUGH = 64
"""Pixels of the longest side of maps whose lowest score is looked up."""

MASKS = "masks"
"""Folder of the masks."""


class PredictedPictures:
    """Reads the pictures of predicted images, one image at a time.

    Args:
        run: The run that predicted them.
        folder: Folder of the predictions.
    """

    def __init__(self, run: ReportedRun, folder: PredictionFolder) -> None:
        facts = folder.facts()
        common = Path(str(facts["common"]))
        self._masks: Pictures | None = None
        self._maps: RawMaps | None = None
        self._lacking: Counter[str] = Counter()
        if facts.get(HAS_MAPS) and facts["masks"]:
            from anomalib_tiled.results.pictures import Pictures  # imports PyTorch, which takes seconds

            self._masks = Pictures(folder.path / MASKS, common)
        if facts.get(HAS_MAPS) and facts["maps"] is not None:
            from anomalib_tiled.report.raw_maps import RawMaps

            self._maps = RawMaps(run, folder, str(facts["maps"]), common)

    def lowest(self, images: Sequence[PredictedImage]) -> float | None:
        """Give the lowest score of all maps, roughly; ``None`` if there are none."""
        scores = (self._scores(each, ROUGH) for each in images)
        lowest = [float(np.nanmin(each)) for each in scores if each is not None]
        self._lacking.clear()
        return min(lowest, default=None)

    def of(self, image: PredictedImage, heat_range: tuple[float, float]) -> Layers:
        """Read those of an image; what is missing by now is counted.

        Args:
            image: The image.
            heat_range: Scores that its heat map shows as 0 and 255.
        """
        scores = self._scores(image, LARGEST_SIDE)
        return Layers(
            picture=self._picture(image.path),
            heat_map=None if scores is None else grey_of(scores, *heat_range),
            mask=self._mask(image),
        )

    def notes(self, images: int) -> list[str]:
        """Say what cannot be read any more.

        Args:
            images: Number of all images.
        """
        return [
            f"{number} of {images} {what} are missing or cannot be read any more: the page shows the rest."
            for what, number in self._lacking.items()
        ]

    def _picture(self, path: Path) -> Image.Image | None:
        try:
            return read_scaled(path, LARGEST_SIDE)
        except DataError:
            self._lacking["images"] += 1
            return None

    def _mask(self, image: PredictedImage) -> Pixels | None:
        if self._masks is None or image.unaligned:
            return None
        try:
            with opened(self._masks.path_of(image.path)) as mask:
                return np.asarray(mask.convert("L"))
        except DataError:
            self._lacking["masks"] += 1
            return None

    def _scores(self, image: PredictedImage, side: int) -> Scores | None:
        if self._maps is None or image.unaligned:
            return None
        try:
            return self._maps.scores(image.path, shrunk(image.image_size, side))
        except RunFolderError:
            self._lacking["maps"] += 1
            return None
