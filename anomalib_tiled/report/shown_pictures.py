"""Small pictures inside a page: scaled until they fit into the share of an image, so that the page stays small."""

from __future__ import annotations

import math
from base64 import b64encode
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from anomalib_tiled.data.image_files import shrunk
from anomalib_tiled.grid import Size
from anomalib_tiled.results.colours import WHITE, grey_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

ALL_PICTURES = 20_000_000
"""Most characters that all pictures of a page take together."""

LARGEST_SIDE, SMALLEST_SIDE = 1024, 64
"""Pixels of the longest side: of few images, and at least."""

TYPICAL = 0.25
"""Characters that a pixel of an image takes, with its heat map and masks, to begin with."""

STEP = 0.95
"""Pictures that are too large are shrunk a little further than their number of pixels says; the next may be larger."""

QUALITY = 75
"""Quality of scaled images, as WebP counts it."""

GREYS = 4
"""Grey values of a heat map that count as one: it is a third as large then, and looks the same."""


@dataclass(frozen=True)
class Layers:
    """The pictures of an image, in any sizes with the same frame; ``None`` where there is none.

    Args:
        picture: The image, in RGB.
        heat_map: Scores as grey values, shape (height, width).
        mask: Predicted mask, not zero where it is anomalous.
        truth: Ground truth, as the mask.
    """

    picture: Image.Image | None = None
    heat_map: Pixels | None = None
    mask: Pixels | None = None
    truth: Pixels | None = None


def shrunk_by_maximum(values: Pixels, size: Size) -> Pixels:
    """Scale a picture so that each pixel has the highest value of those that it covers.

    Args:
        values: Shape (height, width).
        size: The new height and width; a side that grows repeats pixels.
    """
    for axis, (old, new) in enumerate(zip(values.shape, size, strict=True)):
        starts = np.arange(new) * old // new
        values = np.maximum.reduceat(values, starts, axis=axis) if new <= old else values.take(starts, axis=axis)
    return values


def in_range(grey: Pixels, own: tuple[float, float], common: tuple[float, float]) -> Pixels:
    """Bring a heat map from a range of its own to that of all heat maps; 0 stays 0.

    Args:
        grey: The heat map.
        own: Scores that it shows as 0 and as 255.
        common: Scores that all heat maps show as 0 and as 255.
    """
    if own == common:
        return grey
    table = grey_of(np.linspace(*own, WHITE + 1, dtype=np.float32), *common)
    table[0] = 0
    return table[grey]


@dataclass
class PictureBudget:
    """Encodes the pictures of a page.

    Args:
        images: Number of images of the page.
    """

    images: int

    def __post_init__(self) -> None:
        """Divide what a page may take."""
        self._share = ALL_PICTURES / max(1, self.images)
        self._largest = self._side = _limited(math.sqrt(self._share / TYPICAL))

    def encode(self, layers: Layers, size: Size) -> Mapping[str, str | None]:
        """Give the ``data:`` addresses of the pictures of an image, all of one size, by the fields of `ShownImage`.

        Args:
            layers: The pictures.
            size: Height and width of the image file.
        """
        side = self._side
        while True:
            encoded = _encoded(layers, shrunk(size, side))
            needed = sum(len(each) for each in encoded.values() if each is not None)
            if needed <= self._share or side == SMALLEST_SIDE:
                self._side = min(self._largest, _limited(side / STEP))  # the next image is probably alike
                return encoded
            side = _limited(side * STEP * math.sqrt(self._share / needed))


def _limited(side: float) -> int:
    return int(min(LARGEST_SIDE, max(SMALLEST_SIDE, side)))


def _encoded(layers: Layers, size: Size) -> dict[str, str | None]:
    picture = None if layers.picture is None else layers.picture.resize((size.width, size.height), Image.Resampling.BOX)
    heat = None if layers.heat_map is None else _coarse(shrunk_by_maximum(layers.heat_map, size))
    mask, truth = (None if each is None else _flags(each, size) for each in (layers.mask, layers.truth))
    return {
        "picture": None if picture is None else address_of(picture),
        "heat_map": None if heat is None else _lossless(Image.fromarray(heat)),
        "mask": None if mask is None else _lossless(mask),
        "truth_mask": None if truth is None else _lossless(truth),
    }


def _coarse(grey: Pixels) -> Pixels:
    """Round grey values, but keep 0, which stands for pixels that do not count, and 255."""
    steps = np.rint(grey / GREYS) * GREYS
    rounded: Pixels = np.where(grey == 0, 0, np.clip(steps, 1, WHITE)).astype(np.uint8)
    return rounded


def _flags(mask: Pixels, size: Size) -> Image.Image:
    return Image.fromarray(shrunk_by_maximum(np.where(mask > 0, WHITE, 0).astype(np.uint8), size)).convert("1")


def address_of(picture: Image.Image) -> str:
    """Give the ``data:`` address of an image, as WebP."""
    content = BytesIO()
    picture.save(content, format="WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{b64encode(content.getvalue()).decode()}"


def _lossless(picture: Image.Image) -> str:
    content = BytesIO()
    picture.save(content, format="PNG", compress_level=6)
    return f"data:image/png;base64,{b64encode(content.getvalue()).decode()}"
