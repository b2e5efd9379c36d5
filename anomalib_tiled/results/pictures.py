"""Pictures of predictions, in the size of the images."""

from __future__ import annotations

import os
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from anomalib.data import ImageItem
from anomalib.visualization.image.item_visualizer import visualize_image_item
from PIL import ImageDraw, ImageFont
from PIL.Image import fromarray
from torch.nn.functional import interpolate

from anomalib_tiled.data.image_files import image_endings, size_of
from anomalib_tiled.errors import DataError
from anomalib_tiled.results.prediction_row import contradiction
from anomalib_tiled.results.regions import InFile, in_source_size
from anomalib_tiled.system.files import absolute, replacing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anomalib.data import ImageBatch, NumpyImageItem
    from numpy.typing import NDArray
    from PIL.Image import Image

    from anomalib_tiled.data.split import Split
    from anomalib_tiled.grid import Size
    from anomalib_tiled.stages.alignment import Matrix

LAYERS = ["anomaly_map", "pred_mask", "gt_mask"]
"""Layers over the image: heat map, then the predicted mask in red, then the ground truth in white."""

CAPTION_COLOUR, FRAME_COLOUR = (0, 0, 0), (255, 224, 0)
CAPTION_HEIGHT = 1 / 32
"""Fraction of the shorter side of the picture, where the width leaves room for that."""


def given_folders(names: Iterable[str]) -> list[Path]:
    """Give the folders among some names, as absolute paths like those of their images."""
    return [path for path in map(absolute, names) if os.path.isdir(path)]  # noqa: PTH112  # it never fails


def common_folder(paths: Iterable[Path], given: Sequence[Path] = ()) -> Path:
    """Give the longest folder that all images are in.

    Args:
        paths: Files of the images; at least one.
        given: Folders requested as a whole. They count as a whole, wherever in them there are images so far.
    """
    parents = {absolute(path).parent for path in paths}
    outermost = sorted(given, key=lambda folder: len(folder.parts))
    homes = {next((folder for folder in outermost if parent.is_relative_to(folder)), parent) for parent in parents}
    return Path(os.path.commonpath(homes))


@dataclass(frozen=True)
class Pictures:
    """Draws predictions into a folder.

    Args:
        folder: Folder for the pictures.
        common: Folder that all images are in; pictures keep the folders below it.
        stretch: Whether maps are raw, so that each is stretched over all colours.
        split: The images with their transforms, for batches of aligned images.
    """

    folder: Path
    common: Path
    stretch: bool
    split: Split | None = field(default=None, repr=False, compare=False)

    @classmethod
    def into(cls, folder: Path, image_paths: Iterable[Path], *, stretch: bool) -> Pictures:
        """Draw pictures of these images into a folder."""
        paths = list(image_paths)
        return cls(folder, common_folder(paths) if paths else folder, stretch)

    def below(self, name: str) -> Pictures:
        """Give the same for a subfolder."""
        return replace(self, folder=self.folder / name)

    def draw(self, batch: ImageBatch) -> None:
        """Draw one picture for each image of a batch: heat map, predicted mask (red) and ground truth (white)."""
        for item in batch:
            self.draw_one(item, None if self.split is None else self.split.matrix_of(str(item.image_path)))

    def draw_one(self, item: ImageItem, matrix: Matrix | None = None) -> None:
        """Draw the picture of one image; where label and mask contradict each other, the picture says so.

        Args:
            item: The image with its prediction.
            matrix: Its transform; ``None`` if it is not aligned.

        Raises:
            DataError: The image is missing or has changed.
        """
        path = Path(str(item.image_path))
        size = size_of(path)
        picture = overlay(_in_size(item, InFile(size, matrix), stretch=self.stretch), size)
        if picture is not None:
            picture = captioned(picture, contradiction(item.pred_label, item.pred_mask))
            with replacing(self.path_of(path)) as temporary:
                picture.save(temporary, format="PNG", compress_level=1)

    def path_of(self, image_path: Path) -> Path:
        """Give the path of an image's picture, always below the folder and different for each image.

        Raises:
            DataError: The image is not in the common folder.
        """
        image, common = absolute(image_path), absolute(self.common)
        if not image.is_relative_to(common):
            message = f"Images must be in {common}, but {image} is not. Predict it into another output folder."
            raise DataError(message)
        relative = image.relative_to(common)
        return (self.folder / relative).with_name(_picture_name(relative))


def _picture_name(image: Path) -> str:
    """Name a picture: 000.jpg, 000.PNG, 000.png, 000.jpg.png and 000 in one folder need different names."""
    if not image.name.lower().endswith(image_endings()):
        return f"{image.name}.png.png"  # a unique name: 000.png.png itself becomes 000.png.png.png
    alone = image.suffix == ".png" and not image.stem.lower().endswith(image_endings())
    return image.name if alone else f"{image.name}.png"


def overlay(item: ImageItem | NumpyImageItem, size: Size) -> Image | None:
    """Lay a map in [0, 1] and the edges of masks over an image; ``None`` if there are none.

    Args:
        item: Image, map and masks, all of one size; where the map is NaN, the plain image shows.
        size: Their size.
    """
    scores = item.anomaly_map
    if scores is None or not (hidden := np.isnan(np.asarray(scores))).any():
        return _drawn(item, size, LAYERS)
    filled = copy(item)
    filled.anomaly_map = torch.nan_to_num(scores) if isinstance(scores, torch.Tensor) else np.nan_to_num(scores)
    picture, plain = _drawn(filled, size, LAYERS), _drawn(item, size, [])
    if picture is not None and plain is not None:
        picture.paste(plain, mask=fromarray(hidden.reshape(*size)))
    return picture


def _drawn(item: ImageItem | NumpyImageItem, size: Size, layers: list[str]) -> Image | None:
    """Lay layers over an image by anomalib's visualizer."""
    picture = visualize_image_item(
        item,
        overlay_fields=[("image", layers)],
        field_size=(size.width, size.height),
        fields_config={"anomaly_map": {"colormap": True, "normalize": False}},
        overlay_fields_config={"anomaly_map": {"colormap": True, "normalize": False}},
        text_config={"enable": False},
    )
    return None if picture is None else picture.convert("RGB")


def captioned(picture: Image, words: str) -> Image:
    """Frame a picture in yellow, and write words along its upper edge; without words, return it unchanged."""
    if not words:
        return picture
    picture = picture.copy()
    draw, (width, height) = ImageDraw.Draw(picture), picture.size
    size = max(1.0, min(width, height) * CAPTION_HEIGHT)
    size = max(1.0, min(size, size * 0.95 * width / ImageFont.load_default(size).getlength(words)))
    draw.rectangle((0, 0, width - 1, round(1.4 * size)), fill=FRAME_COLOUR)
    draw.text((width / 40, 0.1 * size), words, fill=CAPTION_COLOUR, font=ImageFont.load_default(size))
    draw.rectangle((0, 0, width - 1, height - 1), outline=FRAME_COLOUR, width=max(1, min(width, height) // 100))
    return picture


def stretched(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale a raw map to [0, 1]: anomalib converts maps to 8 bits, where other values would wrap around.

    NaN stays.
    """
    lowest, highest = np.nanmin(scores), np.nanmax(scores)
    scaled: NDArray[np.float32] = (scores - lowest) / max(highest - lowest, np.finfo(np.float32).tiny)
    return scaled


def _in_size(item: ImageItem, in_file: InFile, *, stretch: bool) -> ImageItem:
    """Resize map and masks to the image, as regions are resized, so that the picture shows the reported regions."""
    scores, mask, truth = item.anomaly_map, item.pred_mask, item.gt_mask
    if scores is not None:
        resized = in_source_size(scores, *in_file)
        scores = torch.from_numpy(stretched(resized) if stretch else resized)
    if truth is not None and in_file.matrix is not None:
        truth = torch.from_numpy(in_source_size(truth.bool(), *in_file) > 0)
    elif truth is not None:
        layer = truth.byte().reshape(1, 1, *truth.shape[-2:])
        truth = interpolate(layer, tuple(in_file.size), mode="nearest-exact")[0, 0] > 0
    return ImageItem(
        image=item.image,
        image_path=item.image_path,
        anomaly_map=scores,
        pred_mask=None if mask is None else torch.from_numpy(in_source_size(mask, *in_file) > 0),
        gt_mask=truth,
    )
