"""Regions of interest: which pixels of an image are inspected, and which regions have names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from anomalib_tiled.grid import Size

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class RegionMap:
    """Regions in the pixels of an image that the ensemble takes; of aligned images, if there is an aligner.

    Args:
        ignored: Pixels that take part in nothing, shape (height, width).
        named: The pixels of each named region, shape (height, width); regions may overlap.
    """

    ignored: Mask
    named: Mapping[str, Mask] = field(default_factory=dict)


class Regions:
    """Regions that people have drawn: an image, or a file of polygons and rectangles.

    Args:
        ignore: An image, white where pixels are ignored.
        inspect: An image, white where pixels are inspected; all others are ignored.
        file: Regions by name in YAML, COCO's or LabelMe's format.
    """

    def __init__(self, ignore: str | None = None, inspect: str | None = None, file: str | None = None) -> None:
        self.ignore, self.inspect, self.file = ignore, inspect, file

    def read(self, size: Size) -> RegionMap:
        """Read the regions.

        Args:
            size: Height and width of the images.

        Raises:
            ConfigurationError: A file cannot be used.
        """
        raise NotImplementedError
