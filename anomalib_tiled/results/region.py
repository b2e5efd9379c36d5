"""An anomalous region as plain numbers, without PyTorch: commands that only read results load this alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anomalib_tiled.config.settings import Plain


@dataclass(frozen=True)
class Region:
    """Anomalous pixels that touch each other. Pixels are counted from 0, x to the right, y down.

    Args:
        bbox: Left, top, width and height of the bounding box.
        area: Number of pixels.
        centroid: Mean x and y; a whole number is the middle of a pixel.
        peak: x and y of the pixel with the highest score.
        peak_score: The highest score.
        mean_score: The mean of the scores.
        segmentation: Its pixels as run lengths, column by column: normal, anomalous, normal, and so on, as COCO
            counts them; ``None`` unless requested.
    """

    bbox: tuple[int, int, int, int]
    area: int
    centroid: tuple[float, float]
    peak: tuple[int, int]
    peak_score: float
    mean_score: float
    segmentation: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Plain]:
        """Give the entry of the region in a line of ``predictions.jsonl``."""
        shortened = {
            "centroid": [round(value, 2) for value in self.centroid],
            "peak_score": rounded(self.peak_score),
            "mean_score": rounded(self.mean_score),
        }
        return {name: value for name, value in {**vars(self), **shortened}.items() if value is not None}


def rounded(score: float) -> float:
    """Round a score to the nine digits that represent single precision exactly."""
    return float(f"{score:.9g}")
