"""Reads images and masks, and checks them before any work begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from anomalib_tiled.data.image_files import opened, size_of
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.data.warping import moves, warped, warped_mask
from anomalib_tiled.errors import DataError
from anomalib_tiled.grid import Size
from anomalib_tiled.stages.alignment import Matrix

Pixels = NDArray[np.uint8]


def read_image(path: Path, size: Size, matrix: Matrix | None = None) -> Pixels:
    """Read an image as anomalib does: converted to RGB, as 8 bits per channel.

    Args:
        path: The image.
        size: Height and width to resize to, if the image has another size.
        matrix: From pixels of the aligned image to pixels of the image, in this size; ``None`` to leave it as it is.

    Returns:
        Pixels of shape (height, width, 3).

    Raises:
        DataError: The file cannot be decoded.
    """
    return in_size(decoded(path), size, matrix)


def decoded(path: Path) -> Pixels:
    """Read an image in its own size. Result and errors are those of `read_image`."""
    with opened(path) as image:
        return np.array(image.convert("RGB"))  # a copy: PyTorch warns of read-only arrays


def in_size(pixels: Pixels, size: Size, matrix: Matrix | None = None) -> Pixels:
    """Resize an image, and align it.

    Args:
        pixels: The image in the size of its file, shape (height, width, 3).
        size: As for `read_image`.
        matrix: As for `read_image`.
    """
    if matrix is not None and moves(matrix):
        return warped(pixels, size, matrix)
    if pixels.shape[:2] == tuple(size):
        return pixels
    channels_first = torch.from_numpy(pixels).permute(2, 0, 1)
    return np.ascontiguousarray(resize(channels_first, list(size), antialias=True).permute(1, 2, 0).numpy())


def read_masks(paths: Sequence[Path], size: Size, matrix: Matrix | None = None) -> Pixels:
    """Read masks as anomalib does, and join those that each show some of the defects of an image.

    Args:
        paths: The masks; at least one.
        size: Height and width to resize to, if a mask has another size; nearest pixel.
        matrix: That of their image.

    Returns:
        Shape (height, width): 1 where the grey value of any mask is not zero, else 0.

    Raises:
        DataError: A file cannot be decoded.
    """
    return reduce(np.maximum, (_read_mask(path, size, matrix) for path in paths))


def _read_mask(path: Path, size: Size, matrix: Matrix | None) -> Pixels:
    with opened(path) as image:
        mask = (np.asarray(image.convert("L")) > 0).astype(np.uint8)
    if matrix is not None and moves(matrix):
        return warped_mask(mask, size, matrix)
    if mask.shape == tuple(size):
        return mask
    resized: Pixels = resize(torch.from_numpy(mask)[None], list(size), InterpolationMode.NEAREST_EXACT)[0].numpy()
    return resized


def lost_bits(path: Path) -> str | None:
    """Say what anomalib's reader loses of an image with more than 8 bits per channel; ``None`` if it loses nothing.

    Raises:
        DataError: The file is no image.
    """
    with opened(path) as image:
        if loss := lost_by_conversion(image):
            return loss
        return "anomalib keeps the upper 8 bits" if _is_deep_colour(image) else None


def lost_by_conversion(image: Image.Image) -> str | None:
    """Say what conversion to RGB loses of an image with more than 8 bits per channel; ``None`` if nothing."""
    if image.mode.startswith("I"):
        return "anomalib reads values above 255 as white"
    if image.mode.startswith("F"):
        return "anomalib cuts off fractions, and reads values above 255 as white"
    return None


def depth_notes(paths: Iterable[Path]) -> list[str]:
    """Say how many images lose something when they are read.

    Args:
        paths: The images; duplicates count once.
    """
    losses = Counter(lost_bits(path) for path in dict.fromkeys(paths))
    return [f"{n} images have more than 8 bits per channel: {loss}." for loss, n in losses.items() if loss]


def grey_mask_notes(samples: Iterable[Sample]) -> list[str]:
    """Say how many masks have greys between black and white, which come from JPEG and smoothed edges.

    Args:
        samples: The images; duplicate masks count once.

    Raises:
        DataError: A mask cannot be decoded.
    """
    masks = dict.fromkeys(mask for sample in samples for mask in sample.masks)
    grey = [mask for mask in masks if _has_more_than_two_values(mask)]
    if not grey:
        return []
    note = (
        f"{len(grey)} of {len(masks)} masks have more than two grey values, for example {grey[0]}: every value above 0 "
        "counts as anomalous, so JPEG and smoothed edges make defects larger. Save masks as PNG with only 0 and 255."
    )
    return [note]


def _has_more_than_two_values(path: Path) -> bool:
    with opened(path) as image:
        values = np.asarray(image.convert("L"))
    return bool(((values != values.min()) & (values != values.max())).any())


def _is_deep_colour(image: ImageFile.ImageFile) -> bool:
    """Whether colours have 16 bits in the file; Pillow has no such mode, and drops half of them when decoding."""
    bits = image.tag_v2.get(BITSPERSAMPLE, ()) if isinstance(image, TiffImageFile) else ()
    return max(bits, default=8) > 8 or any(";16" in str(tile.args) for tile in image.tile)  # noqa: PLR2004  # a byte


def common_size(split: Split, image_size: Size | None) -> Size:
    """Give the size that all images have in the ensemble.

    Args:
        split: All images and masks; every header is read.
        image_size: Size that images are resized to; ``None`` if they keep their own.

    Raises:
        DataError: A file is no image, a mask has another size than its image, or images that keep their own size
            have several.
    """
    sizes = {sample.image_path: size_of(sample.image_path) for sample in split.samples}
    for sample in split.samples:
        image = sizes[sample.image_path]
        for path in sample.masks:
            if (mask := size_of(path)) != image:
                message = (
                    f"A mask must have the size of its image: {path} has {mask} pixels (height x width), "
                    f"{sample.image_path} has {image}. Replace the mask."
                )
                raise DataError(message)
    if image_size is not None:
        return image_size
    examples = {size: path for path, size in sizes.items()}
    if len(examples) > 1:
        listed = "; ".join(f"{size} ({path.name})" for size, path in sorted(examples.items())[:5])
        message = (
            f"All images must have one size where tiling.image_size is null, but there are {len(examples)}: {listed}. "
            "Set tiling.image_size to [height, width] to resize them."
        )
        raise DataError(message)
    return next(iter(examples))
