"""Anomalous regions of a prediction, in pixels of the given image.

Where the ensemble resizes images, a pixel of the given image gets the highest score of all map pixels that it shares
area with, and is anomalous if one of them is:

    pixel of the map      0       1       2            image of 2 pixels: it gets max(0, 1) and max(1, 2)
                      ├───────┼───────┼───────┤        image of 6 pixels: 0 0 1 1 2 2
    pixel of the image    0           1
                      ├───────────┼───────────┤

So no single-pixel region is lost, and scores, masks and regions agree with one another. Pixels of the map that do not
count are NaN: a pixel of the image is NaN, too, if it shares area with no other. Where images are aligned, a map is
moved back by the same rule, except that the pixel under the middle of a pixel, and those whose middles lie in it, stand
for the area that they share (`data/warping.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from scipy import ndimage
from torch.nn.functional import adaptive_max_pool2d

from anomalib_tiled.data.warping import moves, unwarped
from anomalib_tiled.results.metrics import TOUCHING
from anomalib_tiled.results.region import Region

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomalib_tiled.grid import Size
    from anomalib_tiled.stages.alignment import Matrix

    Mask = NDArray[np.bool_]
    Scores = NDArray[np.float32]
    Indices = NDArray[np.int64]


class InFile(NamedTuple):
    """How a map lies in the file of its image.

    Args:
        size: Height and width of the file.
        matrix: The transform of the aligned image, as for `in_source_size`; ``None`` if images are not aligned.
    """

    size: Size
    matrix: Matrix | None = None


def in_source_size(values: torch.Tensor, size: Size, matrix: Matrix | None = None) -> NDArray[np.float32]:
    """Resize a map or a mask to its image, and move it back if the image was aligned.

    Args:
        values: Shape (..., height, width), one map.
        size: Height and width of the image.
        matrix: From pixels of the aligned image to pixels of the image, in the size of the map; ``None`` if it was not
            aligned.

    Returns:
        Shape (height, width) of the image; NaN for pixels that no pixel of the aligned image covers.
    """
    layer = values.detach().cpu().float().reshape(1, *values.shape[-2:])  # some devices cannot pool to every size
    if matrix is not None and moves(matrix):
        return unwarped(layer[0].numpy(), size, matrix, is_mask=values.dtype == torch.bool)
    if tuple(layer.shape[-2:]) != tuple(size):
        has_hidden = bool(layer.amax().isnan())
        layer = adaptive_max_pool2d(layer.nan_to_num(-torch.inf) if has_hidden else layer, tuple(size))
        layer = layer.masked_fill(layer.isneginf(), torch.nan) if has_hidden else layer
    return cast("NDArray[np.float32]", layer[0].numpy())


def regions_of(mask: Mask, scores: Scores, min_area: int = 1, *, segmentation: bool = False) -> tuple[Region, ...]:
    """Find the regions of a mask.

    Args:
        mask: Which pixels are anomalous, shape (height, width).
        scores: Score of each pixel, same shape.
        min_area: Area of the smallest region to list, in pixels of the image.
        segmentation: Whether to list the pixels of each region, too.

    Returns:
        Regions; the one with the highest peak first.
    """
    labels, count = ndimage.label(mask, structure=TOUCHING)
    if not count:
        return ()
    rows, columns = np.nonzero(mask)
    numbers, values = labels[rows, columns] - 1, scores[rows, columns]  # of each anomalous pixel
    areas = np.bincount(numbers)
    x, y, means = (np.bincount(numbers, weights=each) / areas for each in (columns, rows, values))
    order = np.lexsort((-values, numbers))
    peaks = order[np.unique(numbers[order], return_index=True)[1]]  # the first pixel with the highest score
    regions = []
    for number, (high, wide) in enumerate(ndimage.find_objects(labels)):
        if areas[number] < min_area:
            continue
        runs, peak = None, peaks[number]
        if segmentation:
            inside = np.nonzero(labels[high, wide] == number + 1)
            runs = run_lengths(inside[0] + high.start, inside[1] + wide.start, mask.shape)
        region = Region(
            bbox=(wide.start, high.start, wide.stop - wide.start, high.stop - high.start),
            area=int(areas[number]),
            centroid=(float(x[number]), float(y[number])),
            peak=(int(columns[peak]), int(rows[peak])),
            peak_score=float(values[peak]),
            mean_score=float(means[number]),
            segmentation=runs,
        )
        regions.append(region)
    return tuple(sorted(regions, key=lambda region: -region.peak_score))


def run_lengths(rows: Indices, columns: Indices, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Count pixels column by column: normal ones, then anomalous ones, and so on, as COCO does.

    Args:
        rows: Rows of the anomalous pixels.
        columns: Their columns.
        shape: Height and width of the image.
    """
    height, width = shape
    positions = np.sort(columns * height + rows)
    gaps = np.flatnonzero(np.diff(positions) > 1)
    starts, stops = positions[np.r_[0, gaps + 1]], positions[np.r_[gaps, len(positions) - 1]] + 1
    bounds = np.concatenate([[0], np.column_stack([starts, stops]).ravel(), [height * width]])
    return tuple(int(length) for length in np.diff(bounds))
