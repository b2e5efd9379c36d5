"""The regions of a run: the run keeps their pixels, so that the files that people have drawn may change or move."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.grid import Size
from anomalib_tiled.stages.regions import RegionMap
from anomalib_tiled.system.files import replacing

if TYPE_CHECKING:
    from anomalib_tiled.config.settings import Settings
    from anomalib_tiled.grid import TileGrid
    from anomalib_tiled.runs.run_folder import RunFolder
    from anomalib_tiled.stages.region_shapes import Mask

ADVICE = "It holds the regions that the run was trained with: restore it, or fit a new run."


def write_regions(folder: RunFolder, regions: RegionMap) -> None:
    """Write the regions of a new run, a bit for each pixel.

    Raises:
        StorageError: The disk cannot be written.
    """
    masks = [regions.ignored, *regions.named.values()]
    with replacing(folder.regions_file) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            size=np.array(regions.ignored.shape),
            names=np.array([*regions.named], dtype=np.str_),
            pixels=np.stack([np.packbits(mask) for mask in masks]),
        )
    folder.note_checksum(folder.regions_file)


def read_regions(folder: RunFolder, settings: Settings) -> RegionMap | None:
    """Read the regions of a run; ``None`` if its configuration names none.

    Raises:
        RunFolderError: The file is missing, or was changed.
    """
    if "regions" not in settings.stages:
        return None
    path = folder.regions_file
    try:
        with np.load(BytesIO(folder.read(path, ADVICE))) as content:
            size, names = Size(*content["size"].tolist()), content["names"].tolist()
            ignored, *named = (_unpacked(bits, size) for bits in content["pixels"])
        return RegionMap(ignored, dict(zip(names, named, strict=True)))
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        message = f"{path} cannot be read ({error!r}). {ADVICE}"
        raise RunFolderError(message) from error


def without_ignored(grid: TileGrid, regions: RegionMap | None) -> TileGrid:
    """Give a grid without the tile locations that regions ignore.

    Args:
        grid: The grid.
        regions: The regions; ``None`` if there are none.
    """
    return grid if regions is None else grid.ignoring(regions.ignored_tiles(grid))


def _unpacked(bits: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], size: Size) -> Mask:
    pixels = np.unpackbits(bits, count=size.height * size.width)
    return pixels.reshape(size).astype(np.bool_)
