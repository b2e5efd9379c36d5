"""Colours and grey values of heat maps: safe for colour-blind readers; colours are transparent where scores are low."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

WHITE = 255
"""Highest grey value."""

LOWEST_SHOWN, HIGHEST_FADED = 0.25, 0.75
"""Scores from 0 to 1 below which the image alone shows, and above which the opacity is the highest."""

HIGHEST_OPACITY = 0.8
"""Fraction; below 1, so that edges of the part stay visible under the highest scores."""


def heat_colours() -> list[tuple[int, int, int, int]]:
    """Give red, green, blue and opacity (0 to 255) for scores from 0 to 255.

    The colours are those of matplotlib's map ``plasma``, from blue over red to yellow: equal steps of the score look
    like equal steps, lightness rises with the score, and readers with any kind of colour blindness see that.
    """
    scores = np.arange(256, dtype=np.uint8)
    red_green_blue = cv2.applyColorMap(scores, cv2.COLORMAP_PLASMA).reshape(256, 3)[:, ::-1]
    faded = np.clip((scores / 255 - LOWEST_SHOWN) / (HIGHEST_FADED - LOWEST_SHOWN), 0, 1)
    opacity = np.rint(255 * HIGHEST_OPACITY * faded**2 * (3 - 2 * faded)).astype(np.uint8)
    table = np.column_stack([red_green_blue, opacity]).tolist()
    return [(red, green, blue, alpha) for red, green, blue, alpha in table]


def grey_of(scores: NDArray[np.float32], low: float, high: float) -> Pixels:
    """Give scores as grey values; those of pixels that do not count, which are NaN, are 0.

    Args:
        scores: Of any shape.
        low: Score that becomes 0.
        high: Score that becomes 255.
    """
    span = max(high - low, float(np.finfo(np.float32).tiny))
    grey: Pixels = np.rint(WHITE * np.clip(np.nan_to_num((scores - low) / span), 0, 1)).astype(np.uint8)
    return grey
