"""Prediction of one image, for use in Python."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from anomalib_tiled.results.composition import Layers, Style, compose
from anomalib_tiled.results.margin import Caption
from anomalib_tiled.results.prediction_row import contradiction
from anomalib_tiled.stages.uncertain import verdict_on
from anomalib_tiled.system.files import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from anomalib_tiled.results.region import Region
    from anomalib_tiled.results.region_decisions import RegionDecision
    from anomalib_tiled.stages.uncertain import Verdict


@dataclass(frozen=True, eq=False)
class ImagePrediction:
    """Prediction of one image. Arrays have the size of the given image.

    Args:
        score: Higher is more anomalous; between 0 and 1 unless the run does not normalize.
        label: Whether the image is anomalous; for an uncertain one, whether its score is above the threshold.
        map: Score of each pixel, shape (height, width); NaN where pixels do not count.
        mask: Which pixels are anomalous, shape (height, width); ``None`` if the model gives no anomaly maps.
        regions: Anomalous pixels that touch each other; the region with the highest score first.
        image: The image, shape (height, width, 3), bytes.
        image_path: File of the image; ``None`` if it was given as pixels.
        raw_score: The score before the normalization of images, which may clip scores far from the threshold.
        named_regions: Score and label of each named region of the run, by its name; empty if it has none.
        unaligned: Why the part is not found in the image, if the run aligns images: then the label is true, scores and
            map are NaN, and there is no mask; empty otherwise.
        is_uncertain: Whether the score is within the limits of ``thresholding.uncertain``; false if there are none.
        threshold: Images with a higher score are anomalous; ``None`` if each tile has a threshold of its own.
        pixel_threshold: The same for pixels.
    """

    score: float
    label: bool
    map: NDArray[np.float32] = field(repr=False)
    mask: NDArray[np.bool_] | None = field(repr=False)
    regions: tuple[Region, ...]
    image: NDArray[np.uint8] = field(repr=False)
    image_path: Path | None
    raw_score: float = math.nan
    named_regions: Mapping[str, RegionDecision] = field(default_factory=dict)
    unaligned: str = ""
    is_uncertain: bool = False
    threshold: float | None = None
    pixel_threshold: float | None = None

    @classmethod
    def without_part(cls, image: NDArray[np.uint8], path: Path | None, reason: str) -> ImagePrediction:
        """Give the prediction of an image in which the part is not found.

        Args:
            image: The image, shape (height, width, 3), bytes.
            path: Its file; ``None`` if it was given as pixels.
            reason: Why it is not found.
        """
        nothing = np.full(image.shape[:2], np.nan, np.float32)
        return cls(math.nan, True, nothing, None, (), image, path, unaligned=reason)  # noqa: FBT003  # the label

    @property
    def verdict(self) -> Verdict:
        """Whether the image is ``normal``, ``uncertain`` or ``anomalous``."""
        return verdict_on(is_anomalous=self.label, is_uncertain=self.is_uncertain)

    @property
    def contradiction(self) -> str:
        """How label and mask contradict each other, in words; empty if they do not."""
        return contradiction(self.label, None if self.mask is None else bool(self.mask.any()))

    def picture(self, *, beside: bool = False) -> Image.Image:
        """Draw heat map and edges of the mask over the image, with a margin that says what was decided.

        Args:
            beside: Whether to show the image alone, too, left of the painted one.
        """
        regions = None if self.mask is None else len(self.regions)
        score = None if self.unaligned else self.score
        remark = f"The part is not found: {self.unaligned}" if self.unaligned else self.contradiction
        name = "" if self.image_path is None else str(self.image_path)
        caption = Caption(self.verdict, score, self.threshold, regions, remark, name)
        layers = Layers() if self.unaligned else Layers(self.map, self.mask)
        is_raw = not self.unaligned and bool(np.nanmin(self.map) < 0 or np.nanmax(self.map) > 1)
        style = Style(stretch=is_raw, beside=beside, pixel_threshold=self.pixel_threshold)
        return compose(self.image, layers, caption, style)

    def show(self) -> None:
        """Show the picture in a window, or wherever Pillow shows pictures."""
        self.picture().show()

    def save(self, path: str | Path) -> Path:
        """Save the picture, in the format of its file name ending.

        Args:
            path: A file, such as ``picture.png``; a missing folder is made.

        Returns:
            The file.

        Raises:
            ValueError: Pillow knows no format for the ending.
        """
        path, picture = Path(path), self.picture()
        kind = Image.registered_extensions().get(path.suffix.lower())
        if kind is None:
            message = f"The name of a picture must end in a format such as .png or .jpg, but is {path.name!r}."
            raise ValueError(message)
        with replacing(path) as temporary:
            picture.save(temporary, format=kind)
        return path
