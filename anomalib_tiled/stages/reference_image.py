"""The reference image: the mean of training images whose parts are moved to the middle of where they lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from anomalib_tiled.errors import DataError, UnalignedError
from anomalib_tiled.stages.registration import (
    Floats,
    Pixels,
    Placement,
    corners,
    inverse,
    moved,
    placement,
    rigid,
    through,
    warp,
)

Locate = Callable[[Pixels, Pixels], tuple[Floats, float]]
"""From an image and a reference to the matrix between them and the quality; raises `UnalignedError`."""

_FIRST = 5  # images that are tried as the first reference


class Located(NamedTuple):
    """Where the part of an image lies.

    Args:
        matrix: From pixels of the reference to pixels of the image.
        quality: How well they fit.
    """

    matrix: Floats
    quality: float


class CommonPart(NamedTuple):
    """What training images have in common.

    Args:
        image: The part, grey, in the median of the places where it lies.
        located: Where it lies in the images, by their position; images are missing that do not show it.
    """

    image: Pixels
    located: Mapping[int, Located]


def common_part(images: Sequence[Pixels], locate: Locate, kind: int) -> CommonPart:
    """Find the part that images have in common.

    One image is the first reference; if fewer than half of the others fit it, another one is. All that fit are moved
    to the median of their places and averaged, and this mean is the reference for a second time.

    Args:
        images: Small and grey, of one shape (height, width).
        locate: How a part is found.
        kind: Kind of its motion, as OpenCV numbers it.

    Raises:
        DataError: Fewer than half of the images show a common part.
    """
    located: dict[int, Located] = {}
    for first in _spread(len(images)):
        located = max(located, _locate_all(images, images[first], locate), key=len)
        if _enough(located, images):
            break
    else:
        _refuse(located, images)
    located = _locate_all(images, _mean(images, _central(located, kind, images[0].shape)), locate)
    if not _enough(located, images):
        _refuse(located, images)
    located = _central(located, kind, images[0].shape)
    return CommonPart(_mean(images, located), located)


def _spread(images: int) -> list[int]:
    """Give positions of a few images, the first among them."""
    return sorted({number * images // _FIRST for number in range(min(images, _FIRST))})


def _locate_all(images: Sequence[Pixels], reference: Pixels, locate: Locate) -> dict[int, Located]:
    located = {}
    for number, image in enumerate(images):
        try:
            located[number] = Located(*locate(image, reference))
        except UnalignedError:
            continue
    return located


def _enough(located: Mapping[int, Located], images: Sequence[Pixels]) -> bool:
    return len(located) > 0 and 2 * len(located) >= len(images) and (len(located) > 1 or len(images) == 1)


def _refuse(located: Mapping[int, Located], images: Sequence[Pixels]) -> None:
    message = (
        f"At least half of the training images must show a common part, but only {len(located)} of {len(images)} fit "
        "one of them. Remove the others, choose another alignment, or set it to null for images without a common part."
    )
    raise DataError(message)


def _central(located: Mapping[int, Located], kind: int, shape: tuple[int, ...]) -> dict[int, Located]:
    """Take the median of all places for the reference."""
    matrices = [each.matrix for each in located.values()]
    if kind in {cv2.MOTION_TRANSLATION, cv2.MOTION_EUCLIDEAN}:
        middle = rigid(Placement(*np.median([placement(each, shape) for each in matrices], axis=0)), shape)
    else:
        middle = through(np.median([moved(each, corners(shape)) for each in matrices], axis=0), kind, shape)
    back = inverse(middle)
    return {number: Located(each.matrix @ back, each.quality) for number, each in located.items()}


def _mean(images: Sequence[Pixels], located: Mapping[int, Located]) -> Pixels:
    """Average the aligned images; where none shows anything, their borders continue."""
    shape = images[0].shape
    total, continued, count = (np.zeros(shape, np.float32) for _ in range(3))
    for number, (matrix, _) in located.items():
        image = images[number].astype(np.float32)
        known = warp(np.ones_like(image), matrix) > 0.99  # noqa: PLR2004 (all of a pixel)
        filled = cv2.warpPerspective(
            image, matrix, shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
        )
        total += filled * known
        continued += filled
        count += known
    mean = np.where(count > 0, total / np.maximum(count, 1), continued / len(located))
    return np.asarray(np.rint(mean).clip(0, 255), np.uint8)
