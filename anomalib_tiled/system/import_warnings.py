"""Warnings that packages give each time they are imported, and that only their authors can do something about."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

KNOWN = (
    # anomalib 2.7 imports DropPath for CFM from where it was in older versions of timm,
    ("Importing from timm.models.layers is deprecated", "timm.models.layers"),
    # and its Dinomaly still uses layers that anomalib means to remove.
    ("The anomalib.models.components.dinov2 package is deprecated", "anomalib.models.image.dinomaly"),
)
"""Beginnings of the messages, and of the modules that they are given in."""


@contextmanager
def without_known_warnings() -> Iterator[None]:
    """Leave these warnings out while something is imported; all others are given as ever."""
    with warnings.catch_warnings():
        for message, module in KNOWN:
            warnings.filterwarnings("ignore", message=message, category=FutureWarning, module=module)
        yield
