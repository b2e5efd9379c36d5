"""Small defects of a surface, painted on pictures: scratches, spots and dents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.uint8]
Place = tuple[float, float]
"""x and y in pixels."""

SUPERSAMPLING = 4
TINT = 40
"""How much the red, green and blue of a spot differ from grey, in steps of 255."""

BORDER = 40
"""Pixels that the middle of a defect stays away from the border of every image."""


def paint(picture: Pixels, kind: str, random: Generator, *, margin: int) -> Pixels:
    """Give a copy of a picture with a defect.

    Args:
        picture: Shape (height, width, 3).
        kind: One of ``SURFACE``.
        random: Decides place, shape and colour.
        margin: Pixels of the picture on each side that images may not show.
    """
    height, width, _ = picture.shape
    clear = margin + BORDER
    place = random.uniform(clear, width - clear), random.uniform(clear, height - clear)
    changed: NDArray[np.float32] = np.rint(picture + _PAINTERS[kind](picture, place, random))
    return changed.clip(0, 255).astype(np.uint8)


def _scratch(picture: Pixels, place: Place, random: Generator) -> NDArray[np.float32]:
    """Draw a bent line, 30 to 70 pixels long and 1.5 to 2.5 pixels wide, lighter or darker than what is there."""
    angle, bend = random.uniform(0, 2 * np.pi), random.uniform(-0.9, 0.9)
    length, width = random.uniform(30, 70), random.uniform(1.5, 2.5)
    angles = angle + np.linspace(-bend, bend, 12)
    steps = np.stack([np.cos(angles), np.sin(angles)], axis=1) * length / len(angles)
    line = place + np.cumsum(steps, axis=0) - steps.sum(axis=0) / 2
    return _towards(picture, _drawn(picture, [*map(tuple, line)], width), _contrasting(picture, place))


def _spot(picture: Pixels, place: Place, random: Generator) -> NDArray[np.float32]:
    """Draw a rough disc, 3 to 6 pixels in radius, of another colour than what is there."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radii = random.uniform(3, 6) * random.uniform(0.75, 1, size=angles.size)
    outline = place + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
    tint = random.permutation((-TINT, 0, TINT))
    return _towards(picture, _drawn(picture, [*map(tuple, outline)], width=None), _contrasting(picture, place) + tint)


def _dent(picture: Pixels, place: Place, random: Generator) -> NDArray[np.float32]:
    """Shade a round hollow, 12 to 20 pixels across: one side lies in the light, the other in the shade."""
    height, width, _ = picture.shape
    x, y = np.arange(width) - place[0], (np.arange(height) - place[1])[:, None]
    sigma, angle = random.uniform(4, 6.5), random.uniform(0, 2 * np.pi)
    slope = (x * np.cos(angle) + y * np.sin(angle)) / sigma * np.exp((1 - (x**2 + y**2) / sigma**2) / 2)
    shade: NDArray[np.float32] = (_contrast(picture, place) / 2 * slope)[:, :, None].astype(np.float32)
    return shade


SURFACE: tuple[str, ...] = ("scratch", "spot", "dent")
_PAINTERS: dict[str, Callable[[Pixels, Place, Generator], NDArray[np.float32]]] = {
    "scratch": _scratch,
    "spot": _spot,
    "dent": _dent,
}


def _drawn(picture: Pixels, points: Sequence[Place], width: float | None) -> NDArray[np.float32]:
    """Draw a line, or fill an outline if there is no width: how much of each pixel it covers, shape (height, width)."""
    height, across, _ = picture.shape
    canvas = Image.new("L", (across * SUPERSAMPLING, height * SUPERSAMPLING))
    draw, scaled = ImageDraw.Draw(canvas), [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in points]
    if width is None:
        draw.polygon(scaled, fill=255)
    else:
        draw.line(scaled, fill=255, width=round(width * SUPERSAMPLING), joint="curve")
    return np.asarray(canvas.reduce(SUPERSAMPLING), np.float32) / np.float32(255)


def _towards(picture: Pixels, cover: NDArray[np.float32], colour: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give the change to a colour where it covers the picture."""
    return cover[:, :, None] * (colour - picture.astype(np.float32))


def _contrasting(picture: Pixels, place: Place) -> NDArray[np.float32]:
    """Give a grey that stands out from the surroundings of a place: lighter if they are dark, darker if light."""
    around = float(_around(picture, place).mean())
    contrast = _contrast(picture, place)
    return np.full(3, around + contrast if around < 128 else around - contrast, np.float32)  # noqa: PLR2004  # half of 255


def _contrast(picture: Pixels, place: Place) -> float:
    """Give how much a defect must differ to be seen, in steps of 255: more where the surroundings are uneven."""
    return max(80.0, 2.5 * float(_around(picture, place).std()))


def _around(picture: Pixels, place: Place) -> Pixels:
    x, y = (round(each) for each in place)
    return picture[y - 20 : y + 21, x - 20 : x + 21]
