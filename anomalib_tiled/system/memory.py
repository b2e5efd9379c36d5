"""How much memory predictions may use."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.system.limits import available_memory

if TYPE_CHECKING:
    import torch

    from anomalib_tiled.grid import Size

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
"""Bytes of each unit; names in capitals."""

MOST_BYTES = 2**63
"""More than any machine has."""

SHARE = 1 / 16
"""Share of the machine's free memory to use where no budget is set: other processes work on the same run."""

SHARE_ALONE = 1 / 4
"""The same where one process predicts all images with one ensemble; four such processes still fit."""

SHARE_OF_ACCELERATOR = 1 / 2
"""The share of an accelerator, which does nothing else, that one process takes alone; several take parts of it."""

BYTES_OF_A_PIXEL = 128
"""Bytes of images and maps for each pixel of the images that are predicted together."""


def memory_budget(device: torch.device, share: float = SHARE) -> int:
    """Give the bytes to use on a device where no budget is set.

    Args:
        device: Where models predict.
        share: Share of the free memory, if the device is the machine itself; of an accelerator as much less as it is
            less than `SHARE_ALONE`.
    """
    if device.type == "cuda":
        import torch  # slow, and settings can be read without it

        return int(torch.cuda.mem_get_info(device)[0] * SHARE_OF_ACCELERATOR * min(1, share / SHARE_ALONE))
    return int(available_memory() * share)


def pixels_within(budget: int) -> int:
    """Give the number of pixels to predict together: half of the budget is for images, half for models."""
    return budget // (2 * BYTES_OF_A_PIXEL)


def too_large(image: Size, free: int | None = None) -> str | None:
    """Warn that an image probably needs more memory than is free; ``None`` if it does not.

    Args:
        image: Size of the image.
        free: Free memory in bytes; ``None`` to measure it.
    """
    free = available_memory() if free is None else free
    needed = image.height * image.width * BYTES_OF_A_PIXEL
    if needed <= free:
        return None
    return (
        f"Predicting an image of {image} pixels takes about {needed / 10**9:.1f} GB of memory beside the models, but "
        f"{free / 10**9:.1f} GB are free. If memory runs out, use a machine with more, or fit a run with a smaller "
        "tiling.image_size."
    )


def as_bytes(size: str | int) -> int:
    """Read a size such as ``500 MB``, ``4GB``, ``2GiB``, or a number of bytes.

    Raises:
        ConfigurationError: The text is not a size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(size))
    unit = "" if found is None else found[2].upper() or "B"
    if found is None or unit not in UNITS or not 0 < float(found[1]) * UNITS[unit] < MOST_BYTES:
        message = f"A size in memory must be a number with a unit, such as 500MB, 4GB or 2GiB, but is {size!r:.40}."
        raise ConfigurationError(message)
    return int(float(found[1]) * UNITS[unit])
