"""How much memory there is to use."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.system.limits import available_memory

if TYPE_CHECKING:
    from anomalib_tiled.grid import Size

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
"""Units of sizes, in capitals."""

MOST_BYTES = 2**63
"""More than any machine has."""

SHARE = 1 / 16
"""Share of the machine's free memory that is used where no budget is set: other processes work on the same run."""

SHARE_ALONE = 1 / 4
"""The same where one process predicts all images with one ensemble: one such for each of four cores still fits."""

SHARE_OF_ACCELERATOR = 1 / 2
"""The same of an accelerator, which is there for nothing else."""

BYTES_OF_A_PIXEL = 128
"""What images and maps take up for each pixel of the images that are predicted together."""


def memory_budget(device: torch.device, share: float = SHARE) -> int:
    """Give the bytes that may be used on a device where no budget is set.

    Args:
        device: Where models predict.
        share: Share of what is free, if the device is the machine itself.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * SHARE_OF_ACCELERATOR)
    return int(available_memory() * share)


def pixels_within(budget: int) -> int:
    """Give the pixels of images that are predicted together within a budget; the other half of it is for models."""
    return budget // (2 * BYTES_OF_A_PIXEL)


def too_large(image: Size, free: int | None = None) -> str | None:
    """Say if an image probably needs more memory than is free; ``None`` if it does not.

    Args:
        image: Its size.
        free: Bytes that are free; ``None`` to look.
    """
    free = available_memory() if free is None else free
    needed = image.height * image.width * BYTES_OF_A_PIXEL
    if needed <= free:
        return None
    return (
        f"Predicting an image of {image} pixels takes about {needed / 10**9:.1f} GB of memory beside the models, but "
        f"{free / 10**9:.1f} GB are free. If it runs out, use a machine with more, or fit a run with a smaller "
        "tiling.image_size."
    )


def as_bytes(size: str | int) -> int:
    """Read a size such as ``500 MB``, ``4GB``, ``2GiB``, or a number of bytes.

    Raises:
        ConfigurationError: It is none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(size))
    unit = "" if found is None else found[2].upper() or "B"
    if found is None or unit not in UNITS or not 0 < float(found[1]) * UNITS[unit] < MOST_BYTES:
        message = f"A size in memory must be a number with a unit, such as 500MB, 4GB or 2GiB, but is {size!r:.40}."
        raise ConfigurationError(message)
    return int(float(found[1]) * UNITS[unit])
