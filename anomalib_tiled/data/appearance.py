"""How an image looks, in a few numbers: brightness, contrast, sharpness, and where the part lies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Appearance:
    """How an image looks.

    Args:
        brightness: Mean grey value, between 0 and 1.
        contrast: Standard deviation of the grey values.
        sharpness: Mean strength of the finest details, relative to the contrast.
        shift_x: Shift of the part to the right, in pixels of the aligned image; ``None`` if images are not aligned.
        shift_y: The same, downwards.
        rotation: Rotation of the part in degrees, counter-clockwise; ``None`` if images are not aligned.
    """

    brightness: float
    contrast: float
    sharpness: float
    shift_x: float | None = None
    shift_y: float | None = None
    rotation: float | None = None
