"""Small pictures of tested images, in which a defect of a few pixels of a large image stays visible."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from PIL import Image

from anomalib_tiled.data.image_files import read_scaled, shrunk
from anomalib_tiled.data.warping import moves
from anomalib_tiled.results.colours import WHITE, grey_of
from anomalib_tiled.results.painting import Scale
from anomalib_tiled.results.regions import in_source_size
from anomalib_tiled.system.files import replacing

if TYPE_CHECKING:
    from anomalib.data import ImageItem

    from anomalib_tiled.config.settings import Settings
    from anomalib_tiled.grid import Size
    from anomalib_tiled.results.regions import InFile
    from anomalib_tiled.results.tested_folder import ThumbnailFiles

LONGEST_SIDE = 1024
"""Most pixels of a side."""

QUALITY = 85
"""Quality of the scaled image, as JPEG counts it."""


@dataclass(frozen=True)
class Thumbnails:
    """Writes the small pictures of tested images.

    Args:
        stretch: Whether maps are raw, so that the heat map of each image has a range of its own; else it is 0 to 1.
    """

    stretch: bool

    @classmethod
    def of(cls, settings: Settings) -> Thumbnails:
        """Write those of a run with a configuration."""
        return cls(stretch=settings.normalization.stage == "none")

    def write(self, item: ImageItem, in_file: InFile, files: ThumbnailFiles) -> tuple[float, float] | None:
        """Write those of an image, in the frame of its file.

        Args:
            item: The image with its prediction, on the CPU.
            in_file: Size of the file, and the transform of an aligned image.
            files: Names the pictures.

        Returns:
            Scores that the heat map shows as 0 and as 255; ``None`` if there is no heat map.

        Raises:
            DataError: An aligned image is missing or has changed.
        """
        size = shrunk(in_file.size, LONGEST_SIDE)
        _save(_picture(item, in_file, size), files.picture)
        if item.gt_mask is not None:
            _save(_flags(item.gt_mask.bool(), in_file, size), files.truth)
        if item.pred_mask is None or item.anomaly_map is None:
            return None
        _save(_flags(item.pred_mask.bool(), in_file, size), files.mask)
        scores = in_source_size(item.anomaly_map, size, in_file.matrix)
        scale = Scale.of(scores) if self.stretch else Scale()
        _save(Image.fromarray(grey_of(scores, scale.low, scale.high)), files.heat_map)
        return scale.low, scale.high

    def write_image(self, path: Path, files: ThumbnailFiles) -> None:
        """Write the picture of an image without a prediction.

        Raises:
            DataError: The image is missing, or has changed.
        """
        _save(read_scaled(path, LONGEST_SIDE), files.picture)


def _picture(item: ImageItem, in_file: InFile, size: Size) -> Image.Image:
    """Scale an image; an aligned one has been moved, so it is read from its file again."""
    if moves(in_file.matrix) or item.image is None:
        return read_scaled(Path(str(item.image_path)), LONGEST_SIDE)
    channels = [channel.numpy() for channel in item.image.detach().cpu().float()]
    wanted = (size.width, size.height)
    scaled = np.stack([cv2.resize(each, wanted, interpolation=cv2.INTER_AREA) for each in channels], axis=-1)
    return Image.fromarray(np.rint(np.clip(scaled, 0, 1) * WHITE).astype(np.uint8))


def _flags(mask: torch.Tensor, in_file: InFile, size: Size) -> Image.Image:
    return Image.fromarray(np.where(in_source_size(mask, size, in_file.matrix) > 0, WHITE, 0).astype(np.uint8))


def _save(picture: Image.Image, path: Path) -> None:
    with replacing(path) as temporary:
        if path.suffix == ".jpg":
            picture.save(temporary, format="JPEG", quality=QUALITY)
        else:
            picture.save(temporary, format="PNG", compress_level=1)
