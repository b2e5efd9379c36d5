"""Paints heat maps, and the edges of masks, over the pixels of an image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomalib_tiled.results.colours import heat_colours

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Mask = NDArray[np.bool_]
    Scores = NDArray[np.float32]

PREDICTED, HALO = (0, 255, 255), (0, 0, 0)
"""Cyan, with black around: heat maps have no such colour, whatever kind of colour blindness a reader has."""

TRUE, BETWEEN = (255, 255, 255), (0, 0, 0)
"""White dashes, and black between them."""

DASH = 5
"""Length of a dash along a row, in widths of the line."""

PICTURE_PER_LINE = 500
"""Side of a picture in widths of a line."""

AT_ONCE = 2**18
"""Number of pixels to paint together: they stay in the cache of a processor."""


@dataclass(frozen=True)
class Scale:
    """Which scores get the first and the last colour.

    Args:
        low: The lowest score.
        high: The highest score.
    """

    low: float = 0.0
    high: float = 1.0

    @property
    def span(self) -> float:
        """Distance of the two, never 0."""
        return max(self.high - self.low, float(np.finfo(np.float32).tiny))

    @classmethod
    def of(cls, scores: Scores) -> Scale:
        """Stretch the colours over all scores of a raw map; NaN does not count.

        Args:
            scores: The map; at least one score is a number.
        """
        return cls(float(np.nanmin(scores)), float(np.nanmax(scores)))


def paint_heat(pixels: Pixels, scores: Scores, scale: Scale) -> None:
    """Paint a heat map over an image; where the map is NaN, the image stays as it is.

    Args:
        pixels: The image, shape (height, width, 3), which is changed.
        scores: Shape (height, width).
        scale: Its scale.
    """
    colours, kept = _tables()
    rows = max(1, AT_ONCE // scores.shape[1])
    for start in range(0, len(scores), rows):
        some, part = scores[start : start + rows], pixels[start : start + rows]
        levels = cv2.convertScaleAbs(np.maximum(some - np.float32(scale.low), 0), alpha=255 / scale.span)
        levels[np.isnan(some)] = 0
        share = cv2.applyColorMap(levels, kept)
        painted = cv2.add(cv2.multiply(part, share, scale=1 / 255), cv2.applyColorMap(levels, colours))
        part[...] = painted


@cache
def _tables() -> tuple[Pixels, Pixels]:
    """Give what each of 256 levels adds to a pixel, and the share of the pixel that it keeps, shape (256, 1, 3)."""
    table = np.array(heat_colours(), np.float32)[:, None]
    opacity = table[..., 3:] / 255
    added, kept = np.rint(table[..., :3] * opacity), np.rint(255 * (1 - opacity)).repeat(3, axis=2)
    return added.astype(np.uint8), kept.astype(np.uint8)


def paint_edges(pixels: Pixels, predicted: Mask | None, true: Mask | None) -> None:
    """Paint lines around the regions of masks: solid around predicted ones, dashed around true ones.

    The lines run outside of the regions, so that they hide no defect, however small it is.

    Args:
        pixels: The image, shape (height, width, 3), which is changed.
        predicted: Predicted mask, shape (height, width); ``None`` if there is none.
        true: Ground truth; ``None`` if it is not known.
    """
    masks = [mask for mask in (predicted, true) if mask is not None]
    width = line_width(pixels)
    if not masks or (area := _around(masks, 2 * width)) is None:
        return
    part = pixels[area]
    dashed = np.zeros(part.shape[:2], np.bool_) if true is None else _line(true[area], 0, width)
    if true is not None:
        part[dashed] = BETWEEN
    if predicted is not None:
        part[_line(predicted[area], width, width + max(1, width // 2))] = HALO
        part[_line(predicted[area], 0, width)] = PREDICTED
    part[dashed & _dashes(part.shape[:2], DASH * width)] = TRUE


def line_width(pixels: Pixels) -> int:
    """Give the width of lines in pixels, which grows with the image."""
    side: int = max(pixels.shape[:2])
    return max(1, round(side / PICTURE_PER_LINE))


def _around(masks: list[Mask], margin: int) -> tuple[slice, slice] | None:
    """Give the rows and columns of all masks with a margin; ``None`` if they are empty."""
    lines = [np.flatnonzero(np.any([mask.any(axis=axis) for mask in masks], axis=0)) for axis in (1, 0)]
    if not lines[0].size:
        return None
    rows, columns = (slice(max(0, int(each[0]) - margin), int(each[-1]) + margin + 1) for each in lines)
    return rows, columns


def _line(mask: Mask, inner: int, outer: int) -> Mask:
    """Give the pixels outside of regions whose distance from them is above one number and up to another."""
    inside, outside = (_grown(mask, distance) for distance in (inner, outer))
    line: Mask = outside & ~inside
    return line


def _grown(mask: Mask, distance: int) -> Mask:
    side = 2 * distance + 1
    grown: Mask = cv2.dilate(mask.view(np.uint8), np.ones((side, side), np.uint8)).view(np.bool_)
    return grown


def _dashes(shape: tuple[int, ...], length: int) -> Mask:
    """Give slanted stripes, which make dashes of lines in nearly any direction."""
    height, width = shape
    pattern: Mask = (3 * np.arange(height)[:, None] + 2 * np.arange(width)) // (2 * length) % 2 == 0
    return pattern
