"""Rows of measured numbers, and the command line of the modules that measure them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

Row = tuple[str, float, str]
"""What was measured, its value, and the unit."""


def print_rows(measure: Callable[[int, int], list[Row]], description: str | None, *, tiles: int, images: int) -> None:
    """Measure the numbers of tiles and images that the command line gives, and print the rows.

    Args:
        measure: Takes both numbers, and returns the rows.
        description: What is measured, for ``--help``.
        tiles: Number of tiles unless it is given.
        images: Number of images unless it is given.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=tiles)
    parser.add_argument("--images", type=int, default=images)
    options = parser.parse_args()
    for what, value, unit in measure(options.tiles, options.images):
        print(f"{what:<75}{value:>12.4g} {unit}", flush=True)
