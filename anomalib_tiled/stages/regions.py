"""Regions of interest: which pixels of an image are inspected, and which regions have names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.stages.region_files import FRACTIONS, Drawing, read_mask, read_shapes
from anomalib_tiled.stages.region_shapes import Bitmap, Mask, Shape, joined

IGNORE, INSPECT = "ignore", "inspect"
"""Labels of shapes that are no named regions."""

NAME = re.compile(r"\w(?:[\w .-]{0,62}\w)?")
"""Names that a file and a column of a table can have."""

TAKEN = re.compile(r"r\d+_c\d+|whole", re.IGNORECASE)
"""Names of other rows in tables of tiles."""

BEYOND = 1
"""Pixels by which shapes may reach beyond the image that they were drawn on: some tools round."""

ROUNDING = 1e-9
"""The same for fractions: 0.7 + 0.3 may be a hair more than 1."""


@dataclass(frozen=True, eq=False)
class RegionMap:
    """Regions in the pixels of an image that the ensemble takes; of aligned images, if there is an aligner.

    Args:
        ignored: Pixels that take part in nothing, shape (height, width).
        named: The pixels of each named region that are not ignored, shape (height, width); regions may overlap.
    """

    ignored: Mask
    named: Mapping[str, Mask] = field(default_factory=dict)

    def ignored_tiles(self, grid: TileGrid) -> list[str]:
        """Name the tile locations without a pixel to be inspected."""
        return [tile.name for tile in grid.locations if self.ignored[tile.rows, tile.columns].all()]


class Regions:
    """Regions that people have drawn: an image, or a file of polygons and rectangles.

    Shapes that are labelled ``ignore`` or ``inspect`` say which pixels are inspected, all others name a region.

    Args:
        ignore: An image, white where pixels are ignored.
        inspect: An image, white where pixels are inspected; all others are ignored.
        file: Regions by name in YAML, COCO's or LabelMe's format.
    """

    def __init__(self, ignore: str | None = None, inspect: str | None = None, file: str | None = None) -> None:
        if not (ignore or inspect or file):
            message = "Regions needs an image to ignore or to inspect, or a file, but none is given."
            raise ValueError(message)
        self.ignore, self.inspect, self.file = ignore, inspect, file

    def read(self, size: Size, of_files: Size | None = None) -> RegionMap:
        """Read the regions.

        Args:
            size: Height and width of the images.
            of_files: Height and width of the image files, if these are resized with other proportions: regions may have
                been drawn on them.

        Raises:
            ConfigurationError: A file cannot be used, a region is empty or outside of the image, or nothing is left to
                inspect.
        """
        found: dict[str, list[Mask]] = {}
        for label, path in {IGNORE: self.ignore, INSPECT: self.inspect}.items():
            if path:
                mask = read_mask(Path(path))
                drawing = Drawing(Size(*mask.shape), [(label, Bitmap(mask))])
                found.setdefault(label, []).extend(_pixels(Path(path), drawing, size, of_files)[label])
        if self.file:
            for label, masks in _pixels(Path(self.file), read_shapes(Path(self.file)), size, of_files).items():
                found.setdefault(label, []).extend(masks)
        return _region_map({label: joined(masks, size) for label, masks in found.items()}, size)


def _pixels(path: Path, drawing: Drawing, size: Size, of_files: Size | None) -> dict[str, list[Mask]]:
    """Give the pixels of all shapes of a file, by their labels."""
    if not drawing.shapes:
        message = f"A file of regions must hold one at least, but {path} holds none. Draw one, or name no file."
        raise ConfigurationError(message)
    _check_aspect(path, drawing.size, [size] if of_files is None else [size, of_files])
    found: dict[str, list[Mask]] = {}
    for number, (label, shape) in enumerate(drawing.shapes, 1):
        where = f"shape {number} ({label!r}) of {path}"
        _check_inside(where, shape, drawing.size)
        pixels = shape.pixels(drawing.size, size)
        if not pixels.any():
            message = (
                f"A region must have a pixel, but {where} covers none of an image of {size}. Enlarge or remove it."
            )
            raise ConfigurationError(message)
        found.setdefault(_name(label, where), []).append(pixels)
    return found


def _region_map(found: Mapping[str, Mask], size: Size) -> RegionMap:
    ignored = joined([found[IGNORE]] if IGNORE in found else [], size)
    if INSPECT in found:
        ignored |= ~found[INSPECT]
    if ignored.all():
        message = (
            f"Regions must leave pixels to inspect, but ignore all {ignored.size} of an image of {size}. "
            "Ignore fewer of them."
        )
        raise ConfigurationError(message)
    named = {name: mask & ~ignored for name, mask in found.items() if name not in (IGNORE, INSPECT)}
    for name, mask in named.items():
        if not mask.any():
            message = (
                f"A named region must have pixels that are inspected, but all {found[name].sum()} of {name!r} are "
                "ignored. Draw it elsewhere, or ignore less."
            )
            raise ConfigurationError(message)
    return RegionMap(ignored, named)


def _name(label: object, where: str) -> str:
    """Check a label, and give the name of the region."""
    if not isinstance(label, str) or not NAME.fullmatch(label) or TAKEN.fullmatch(label):
        message = (
            f"The label of a region must consist of letters, digits, spaces, dots, - and _, 64 of them at most, and "
            f"must not be the name of a tile, unlike that of {where}. Rename it."
        )
        raise ConfigurationError(message)
    return label.lower() if label.lower() in (IGNORE, INSPECT) else label


def _check_aspect(path: Path, drawn: Size, sizes: Sequence[Size]) -> None:
    if drawn != FRACTIONS and not any(_same_aspect(drawn, size) for size in sizes):
        expected = " or ".join(map(str, dict.fromkeys(sizes)))
        message = (
            f"Regions must be drawn on an image with the proportions of {expected} pixels (height x width), but {path} "
            f"has {drawn}. Draw them on an image of the run, of any size."
        )
        raise ConfigurationError(message)


def _same_aspect(drawn: Size, size: Size) -> bool:
    """Whether sizes have the same proportions, but for rounding one side by a pixel."""
    return abs(drawn.width * size.height - drawn.height * size.width) <= max(*drawn, *size)


def _check_inside(where: str, shape: Shape, drawn: Size) -> None:
    if (box := shape.box) is None:
        return
    left, top, right, bottom = box
    in_fractions = drawn == FRACTIONS
    slack = ROUNDING if in_fractions else BEYOND
    if min(left, top) < -slack or right > drawn.width + slack or bottom > drawn.height + slack:
        message = (
            f"Regions must lie in the image, which reaches to x = {drawn.width} and y = {drawn.height}, but {where} "
            f"reaches from x = {left:g} to {right:g} and from y = {top:g} to {bottom:g}. Correct it"
            f"{', or give the image_size if it is in pixels' if in_fractions else ''}."
        )
        raise ConfigurationError(message)
