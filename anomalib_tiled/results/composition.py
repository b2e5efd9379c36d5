"""Composes the picture of a prediction: the image, what is painted over it, and the margin around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL.Image import fromarray
from torch.nn.functional import interpolate

from anomalib_tiled.grid import Size
from anomalib_tiled.results.margin import GROUND, LEAST_WIDTH, Legend, caption_strip, legend_strip, letters_of
from anomalib_tiled.results.painting import Scale, paint_edges, paint_heat
from anomalib_tiled.results.regions import in_source_size

if TYPE_CHECKING:
    import torch
    from anomalib.data import ImageItem
    from numpy.typing import NDArray
    from PIL.Image import Image

    from anomalib_tiled.results.margin import Caption
    from anomalib_tiled.results.regions import InFile

    Pixels = NDArray[np.uint8]
    Mask = NDArray[np.bool_]
    Scores = NDArray[np.float32]
BESIDE = "beside"
"""Value of settings that ask for the image alone beside the painted one."""


@dataclass(frozen=True)
class Layers:
    """What is painted over an image; arrays have its size, shape (height, width).

    Args:
        scores: Heat map; NaN where pixels do not count; ``None`` if there is none.
        predicted: Predicted mask; ``None`` if there is none.
        true: Ground truth; ``None`` if it is not known.
    """

    scores: Scores | None = None
    predicted: Mask | None = None
    true: Mask | None = None

    @classmethod
    def of(cls, item: ImageItem, in_file: InFile) -> Layers:
        """Resize map and masks to the image, as regions are resized, so that the picture shows the reported regions.

        Args:
            item: The image with its prediction, on the CPU.
            in_file: How maps lie in the file of the image.
        """
        scores, mask, truth = item.anomaly_map, item.pred_mask, item.gt_mask
        return cls(
            None if scores is None else in_source_size(scores, *in_file),
            None if mask is None else in_source_size(mask, *in_file) > 0,
            None if truth is None else _truth(truth, in_file),
        )

    @property
    def size(self) -> Size | None:
        """Height and width of the image; ``None`` if nothing is painted."""
        given = [each for each in (self.scores, self.predicted, self.true) if each is not None]
        return Size(*given[0].shape) if given else None

    @property
    def regions(self) -> int | None:
        """Number of predicted regions of any size; ``None`` if there is no mask."""
        if self.predicted is None:
            return None
        rows, columns = (np.flatnonzero(self.predicted.any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            return 0
        area = np.ascontiguousarray(self.predicted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
        return int(cv2.connectedComponents(area.view(np.uint8), connectivity=8)[0]) - 1


@dataclass(frozen=True)
class Style:
    """How pictures look.

    Args:
        stretch: Whether maps are raw, so that the colours are stretched over the scores of each.
        beside: Whether the image alone is shown, too, left of the painted one.
        pixel_threshold: Threshold of pixels, on the scale of the maps; ``None`` if each tile has its own.
    """

    stretch: bool = False
    beside: bool = False
    pixel_threshold: float | None = None


def compose(pixels: Pixels, layers: Layers, caption: Caption, style: Style) -> Image:
    """Draw the picture of a prediction.

    Args:
        pixels: The image, shape (height, width, 3). In the picture it keeps its size, whatever the margin takes.
        layers: What is painted over it.
        caption: What was decided about it.
        style: How the picture looks.
    """
    size, scale = Size(*pixels.shape[:2]), _scale(layers.scores, stretch=style.stretch)
    letters = letters_of(size)
    gap = letters // 2
    content = 2 * size.width + gap if style.beside else size.width
    width = max(LEAST_WIDTH, content)
    threshold = None if layers.predicted is None else style.pixel_threshold
    legend = Legend(scale, threshold, is_predicted=layers.predicted is not None, is_true=layers.true is not None)
    upper, lower = caption_strip(caption, width, letters), legend_strip(legend, width, letters)
    picture = np.full((len(upper) + size.height + len(lower), width, 3), GROUND, np.uint8)
    picture[: len(upper)], picture[len(upper) + size.height :] = upper, lower
    between, left = picture[len(upper) : len(upper) + size.height], (width - content) // 2
    if style.beside:
        between[:, left : left + size.width] = pixels
        left += size.width + gap
    painted = between[:, left : left + size.width]
    painted[...] = pixels
    if scale is not None and layers.scores is not None:
        paint_heat(painted, layers.scores, scale)
    paint_edges(painted, layers.predicted, layers.true)
    return fromarray(picture)


def _scale(scores: Scores | None, *, stretch: bool) -> Scale | None:
    """Give the scale of the colours; ``None`` if there is nothing to colour."""
    if scores is None or np.isnan(scores).all():
        return None
    return Scale.of(scores) if stretch else Scale()


def _truth(mask: torch.Tensor, in_file: InFile) -> Mask:
    if in_file.matrix is not None:
        moved: Mask = in_source_size(mask.bool(), *in_file) > 0
        return moved
    layer = mask.byte().reshape(1, 1, *mask.shape[-2:])
    resized: Mask = (interpolate(layer, tuple(in_file.size), mode="nearest-exact")[0, 0] > 0).numpy()
    return resized
