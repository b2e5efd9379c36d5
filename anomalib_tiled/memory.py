"""How much memory there is to use."""

from __future__ import annotations

import re

import torch

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.free_memory import available_memory

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
"""Units of sizes, in capitals."""

SHARE = 1 / 16
"""Share of the machine's free memory that is used where no budget is set; others work on it too."""

SHARE_OF_ACCELERATOR = 1 / 2
"""The same of an accelerator, which is there for nothing else."""


def memory_budget(device: torch.device) -> int:
    """Give the bytes that may be used on a device where no budget is set."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * SHARE_OF_ACCELERATOR)
    return int(available_memory() * SHARE)


def as_bytes(size: str | int) -> int:
    """Read a size such as ``500 MB``, ``4GB``, ``2GiB``, or a number of bytes.

    Raises:
        ConfigurationError: It is none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(size))
    unit = "" if found is None else found[2].upper() or "B"
    if found is None or unit not in UNITS or float(found[1]) <= 0:
        message = f"A size in memory must be a number with a unit, such as 500MB, 4GB or 2GiB, but is {size!r}."
        raise ConfigurationError(message)
    return int(float(found[1]) * UNITS[unit])
