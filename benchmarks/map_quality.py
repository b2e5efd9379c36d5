"""How well maps show defects: areas under curves, and how many defects stand out at an equal rate of false alarms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from benchmarks.auroc import auroc

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOUCHING = np.ones((3, 3), dtype=np.bool_)
"""Pixels that touch at a corner belong to one defect."""


@dataclass(frozen=True)
class Quality:
    """Quality of the predictions of the test images.

    Args:
        image_auroc: Area under the ROC curve of the images' scores.
        pixel_auroc: The same of the pixels.
        pixel_f1: F1 of the pixels at the threshold that is best for it.
        defects: Number of defects: sets of pixels of a mask that touch, also at a corner.
        found: How many of them were found.
        small: Number of defects that are no larger than the median one.
        small_found: How many of those were found.
        largest_small: Pixels of the largest of those.
    """

    image_auroc: float
    pixel_auroc: float
    pixel_f1: float
    defects: int
    found: int
    small: int
    small_found: int
    largest_small: int


def quality_of(
    scores: NDArray[np.float32], maps: NDArray[np.float32], masks: NDArray[np.bool_], *, rate: float
) -> Quality:
    """Measure predictions.

    A defect is found if a pixel of it is above the threshold that ``rate`` of the pixels of normal images are above.

    Args:
        scores: Shape (images,); higher is more anomalous.
        maps: Shape (images, height, width).
        masks: What is anomalous, shape of the maps; images without such a pixel are normal. There must be both kinds.
        rate: Share of the pixels of normal images that may be called anomalous.
    """
    anomalous: NDArray[np.bool_] = np.any(masks, axis=(1, 2))
    threshold = exceeded_by(maps[~anomalous], rate)
    pairs = [(positions, shown) for mask, shown in zip(masks, maps, strict=True) for positions in defects_of(mask)]
    areas = np.array([len(positions) for positions, _ in pairs])
    found = np.array([shown.reshape(-1)[positions].max() > threshold for positions, shown in pairs])
    small = areas <= np.median(areas)
    return Quality(
        image_auroc=auroc(scores, anomalous),
        pixel_auroc=auroc(maps, masks),
        pixel_f1=best_f1(maps, masks),
        defects=len(pairs),
        found=int(found.sum()),
        small=int(small.sum()),
        small_found=int(found[small].sum()),
        largest_small=int(areas[small].max()),
    )


def defects_of(mask: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """Give the pixels of each defect of an image, counted along the rows.

    Args:
        mask: Shape (height, width).
    """
    labels, count = ndimage.label(mask, structure=TOUCHING)
    return [np.flatnonzero(labels == number) for number in range(1, count + 1)]


def exceeded_by(values: NDArray[np.float32], rate: float) -> float:
    """Give the lowest of the values that no more than a share of them are above.

    Args:
        values: Of any shape.
        rate: The share, from 0 to less than 1.
    """
    flat = values.reshape(-1)
    place = len(flat) - 1 - int(rate * len(flat))
    return float(np.partition(flat, place)[place])


def best_f1(scores: NDArray[np.float32], anomalous: NDArray[np.bool_]) -> float:
    """Give the highest F1 that any threshold reaches.

    Args:
        scores: Higher is more anomalous, of any shape.
        anomalous: Which of them should be high, of the same shape; some.
    """
    flat, truth = scores.reshape(-1), anomalous.reshape(-1)
    order = np.argsort(flat)[::-1]
    hits = np.cumsum(truth[order])
    called = np.arange(1, len(flat) + 1)
    ends = np.append(np.diff(flat[order]) != 0, True)  # equal scores are called together
    return float((2 * hits[ends] / (called[ends] + hits[-1])).max())
