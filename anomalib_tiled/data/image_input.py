"""Images in Python: paths, Pillow images, arrays, tensors."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2.functional import to_dtype

from anomalib_tiled.data.image_files import size_of
from anomalib_tiled.data.images import lost_bits, lost_by_conversion, read_image
from anomalib_tiled.errors import DataError

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
GivenImage = str | Path | Image.Image | Array | torch.Tensor

CHANNELS = 3

TOLERANCE = 1e-5
"""How far fractions may exceed 0 and 1 by rounding, such as white in a resized image."""


def pixels_of(image: GivenImage) -> torch.Tensor:
    """Give the pixels of an image in its own size.

    Args:
        image: A path; a Pillow image; an array of shape (height, width, 3) or (height, width); a tensor of shape
            (3, height, width), (1, height, width) or (height, width). Numbers are bytes, or fractions from 0 to 1. The
            fourth channel of an array (transparency) is left out, as it is with files.

    Returns:
        Shape (3, height, width), bytes or single precision.

    Raises:
        DataError: The image is none of these.
    """
    if isinstance(image, (str, Path)):
        path = Path(image)
        _warn_of(path, lost_bits(path))
        return torch.from_numpy(read_image(path, size_of(path))).permute(2, 0, 1)
    if isinstance(image, Image.Image):
        _warn_of("The image", lost_by_conversion(image))
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    if isinstance(image, np.ndarray):
        wanted = "(height, width, 3) or (height, width)"
        return _checked(_tensor_of(image), wanted, image.shape)
    if isinstance(image, torch.Tensor):
        return _checked(image.detach(), "(3, height, width) or (height, width)", tuple(image.shape))
    message = f"An image must be a path, a Pillow image, an array or a tensor, but is a {type(image).__name__}."
    raise DataError(message)


def as_bytes(pixels: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Give pixels as bytes of shape (height, width, 3), for pictures."""
    return np.ascontiguousarray(to_dtype(pixels.cpu(), torch.uint8, scale=True).permute(1, 2, 0).numpy())


def _warn_of(name: object, loss: str | None) -> None:
    """Warn of an image that has more than 8 bits per channel."""
    if loss is not None:
        warnings.warn(f"{name} has more than 8 bits per channel: {loss}.", stacklevel=5)


def _tensor_of(image: Array) -> torch.Tensor:
    """Turn an array into a tensor, with channels before rows and columns."""
    if image.dtype.kind not in "biuf":
        message = f"An image must hold bytes (uint8), or fractions from 0 to 1, but holds {image.dtype}."
        raise DataError(message)
    channels_first = image.transpose(2, 0, 1) if image.ndim == CHANNELS else image
    if channels_first.shape[:-2] == (CHANNELS + 1,):
        channels_first = channels_first[:CHANNELS]  # without transparency
    own = np.dtype(np.float64) if image.dtype == np.longdouble else image.dtype.newbyteorder("=")  # types of PyTorch
    return torch.from_numpy(np.array(channels_first, own, order="C"))  # a copy: PyTorch warns of read-only arrays


def _checked(image: torch.Tensor, wanted: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Repeat a grey image in three channels, and refuse other shapes and values."""
    pixels = image[None] if image.ndim == CHANNELS - 1 else image
    if pixels.ndim != CHANNELS or pixels.shape[0] not in {1, CHANNELS} or 0 in pixels.shape:
        message = f"An image must have the shape {wanted}, but has {shape}. Give several images as a list."
        raise DataError(message)
    if pixels.dtype == torch.uint8:
        return pixels.expand(CHANNELS, *pixels.shape[1:])
    if not pixels.is_floating_point():
        message = (
            f"An image must hold bytes (uint8), or fractions from 0 to 1, but holds {pixels.dtype}. Divide it by the "
            "highest value that a pixel can have."
        )
        raise DataError(message)
    lowest, highest = (float(each) for each in pixels.aminmax())
    beyond = max(TOLERANCE, torch.finfo(pixels.dtype).eps)
    if not (lowest >= -beyond and highest <= 1 + beyond):  # in this form, NaN fails too
        message = (
            f"An image of fractions must lie between 0 and 1, but goes from {lowest:.9g} to {highest:.9g}. Divide it "
            "by the highest value that a pixel can have, for example 255; clip values that resizing has taken beyond."
        )
        raise DataError(message)
    return pixels.float().clamp(0, 1).expand(CHANNELS, *pixels.shape[1:])
