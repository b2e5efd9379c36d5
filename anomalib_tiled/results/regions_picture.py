"""A picture of the regions of a run: it shows before the training what will be inspected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from anomalib_tiled.ensemble.named_regions import box_of
from anomalib_tiled.grid import Size
from anomalib_tiled.stages.region_shapes import Bitmap
from anomalib_tiled.system.files import replacing

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from anomalib_tiled.grid import Tile, TileGrid
    from anomalib_tiled.stages.region_shapes import Mask
    from anomalib_tiled.stages.regions import RegionMap

    Pixels = NDArray[np.uint8]

LONGEST, SHORTEST = 1600, 640
"""Longest side of the picture in pixels: larger images are shrunk, and smaller ones than the other number enlarged."""

SHADE, SHARE = 70, 0.7
"""Grey of ignored pixels, and its share of them."""

GRID_COLOUR, CROSS_COLOUR = (255, 255, 255), (230, 60, 60)
REGION_COLOURS = ((255, 210, 0), (0, 220, 255), (255, 120, 220), (120, 255, 90))

LETTERS = 1 / 45
"""Height of letters, as a fraction of the longest side."""


def draw_regions(path: Path, image: Pixels, grid: TileGrid, regions: RegionMap) -> None:
    """Draw grid, ignored pixels (grey), tiles without a model (crossed) and named regions (outlined) over an image.

    Args:
        path: The picture, a PNG.
        image: An image of the run, shape (height, width, 3).
        grid: Its grid.
        regions: Its regions.
    """
    size, drawn_on = _size_of_picture(grid.image_size), grid.image_size
    resized = np.asarray(Image.fromarray(image).resize((size.width, size.height), Image.Resampling.BILINEAR))
    ignored = Bitmap(regions.ignored).pixels(drawn_on, size)
    pixels = np.where(ignored[..., None], resized * (1 - SHARE) + SHADE * SHARE, resized).astype(np.uint8)
    outlines = [Bitmap(mask).pixels(drawn_on, size) for mask in regions.named.values()]
    thickness = max(2, max(size) // 400)
    for number, mask in enumerate(outlines):
        pixels[mask & ~ndimage.binary_erosion(mask, iterations=thickness)] = _colour(number)
    picture = Image.fromarray(pixels)
    _draw_tiles(ImageDraw.Draw(picture), grid, size)
    _write_names(ImageDraw.Draw(picture), dict(zip(regions.named, outlines, strict=True)), max(size))
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")


def _draw_tiles(draw: ImageDraw.ImageDraw, grid: TileGrid, size: Size) -> None:
    down, across = size.height / grid.image_size.height, size.width / grid.image_size.width
    inspected = {tile.name for tile in grid.tiles}
    thickness = max(1, max(size) // 800)
    for tile in sorted(grid.positions, key=lambda each: each.name in inspected):  # the inspected ones on top
        left, top, right, bottom = box = _box(tile, down, across)
        if tile.name not in inspected:
            for line in ((left, top, right, bottom), (left, bottom, right, top)):
                draw.line(line, fill=CROSS_COLOUR, width=2 * thickness)
        draw.rectangle(box, outline=GRID_COLOUR, width=thickness)


def _box(tile: Tile, down: float, across: float) -> tuple[int, int, int, int]:
    left, right = (round(edge * across) for edge in (tile.columns.start, tile.columns.stop))
    top, bottom = (round(edge * down) for edge in (tile.rows.start, tile.rows.stop))
    return left, top, right - 1, bottom - 1


def _write_names(draw: ImageDraw.ImageDraw, regions: dict[str, Mask], longest: int) -> None:
    """Write each name where its region begins, on a ground of its colour."""
    font = ImageFont.load_default(longest * LETTERS)
    for number, (name, mask) in enumerate(regions.items()):
        rows, columns = box_of(mask) if mask.any() else (slice(0, 0), slice(0, 0))
        place = columns.start, rows.start
        draw.rectangle(draw.textbbox(place, name, font=font), fill=_colour(number))
        draw.text(place, name, fill=(0, 0, 0), font=font)


def _colour(number: int) -> tuple[int, int, int]:
    return REGION_COLOURS[number % len(REGION_COLOURS)]


def _size_of_picture(size: Size) -> Size:
    scale = min(1.0, LONGEST / max(size)) if max(size) > SHORTEST else SHORTEST / max(size)
    return Size(*(max(1, round(side * scale)) for side in size))
