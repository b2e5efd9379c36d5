"""Data: the split, the image cache, tiles, images from files and from memory, demonstration boards."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anomalib_tiled.data.boards import DemoBoards

__all__ = ["DemoBoards"]


def __getattr__(name: str) -> object:
    """Import the demonstration images only when they are used."""
    if name == "DemoBoards":
        from anomalib_tiled.data.boards import DemoBoards  # importing anomalib takes seconds

        return DemoBoards
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
