"""Labels and masks that contradict each other, since images and pixels have separate thresholds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    import torch

NORMAL = "normal, but with anomalous pixels"
ANOMALOUS = "anomalous, but without anomalous pixels"

CAPTION_COLOUR, FRAME_COLOUR = (0, 0, 0), (255, 224, 0)
CAPTION_HEIGHT = 1 / 32
"""Fraction of the shorter side of the picture, where the width leaves room for that."""


def contradiction(label: torch.Tensor | bool | None, mask: torch.Tensor | bool | None) -> str:  # noqa: FBT001
    """Say how the label of an image contradicts its mask; empty if it does not.

    Args:
        label: Whether the image is anomalous; ``None`` if unknown.
        mask: Which pixels are anomalous, or whether any is; ``None`` if the model gives no anomaly maps.
    """
    if label is None or mask is None:
        return ""
    found = mask if isinstance(mask, bool) else bool(mask.any())
    if bool(label) == found:
        return ""
    return NORMAL if found else ANOMALOUS


def count_of(contradictions: Iterable[str]) -> str:
    """Say in a sentence for how many images label and mask contradict each other; empty if for none."""
    each = list(contradictions)
    parts = [
        f"{number} {'is' if number == 1 else 'are'} {words}"
        for words in (NORMAL, ANOMALOUS)
        if (number := each.count(words))
    ]
    if not parts:
        return ""
    return f"Of {len(each)} images, {'; '.join(parts)}: images and pixels have separate thresholds."


def captioned(picture: Image.Image, words: str) -> Image.Image:
    """Frame a picture in yellow, and write words along its upper edge; without words, return it unchanged."""
    if not words:
        return picture
    picture = picture.copy()
    draw, (width, height) = ImageDraw.Draw(picture), picture.size
    size = max(1.0, min(width, height) * CAPTION_HEIGHT)
    size = max(1.0, min(size, size * 0.95 * width / ImageFont.load_default(size).getlength(words)))
    draw.rectangle((0, 0, width - 1, round(1.4 * size)), fill=FRAME_COLOUR)
    draw.text((width / 40, 0.1 * size), words, fill=CAPTION_COLOUR, font=ImageFont.load_default(size))
    draw.rectangle((0, 0, width - 1, height - 1), outline=FRAME_COLOUR, width=max(1, min(width, height) // 100))
    return picture
