"""Hides warnings that packages give on every import and that only their authors can fix."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

KNOWN = (
    # anomalib 2.7 imports DropPath for CFM from its place in older versions of timm,
    ("Importing from timm.models.layers is deprecated", "timm.models.layers"),
    # and its Dinomaly still uses layers that anomalib will remove.
    ("The anomalib.models.components.dinov2 package is deprecated", "anomalib.models.image.dinomaly"),
)
"""Beginnings of the messages, and the modules that give them."""


@contextmanager
def without_known_warnings() -> Iterator[None]:
    """Hide these warnings during imports; all others are shown as ever."""
    with warnings.catch_warnings():
        for message, module in KNOWN:
            warnings.filterwarnings("ignore", message=message, category=FutureWarning, module=module)
        yield
