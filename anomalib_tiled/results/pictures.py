"""Pictures of predictions: the images in their size, with what is painted over them, and a margin."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from anomalib_tiled.data.image_files import image_endings, size_of
from anomalib_tiled.data.images import decoded
from anomalib_tiled.errors import DataError
from anomalib_tiled.grid import Size
from anomalib_tiled.results.composition import Layers, Style, compose
from anomalib_tiled.results.margin import Caption
from anomalib_tiled.results.prediction_row import contradiction, items_of
from anomalib_tiled.results.regions import InFile
from anomalib_tiled.stages.uncertain import verdict_by
from anomalib_tiled.system.files import absolute, replacing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch
    from anomalib.data import ImageBatch

    from anomalib_tiled.data.split import Split
    from anomalib_tiled.results.thresholds import FinalThresholds
    from anomalib_tiled.stages.uncertain import Band


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
        style: How they look.
        threshold: Threshold of images, on the scale of their scores; ``None`` if each tile has its own.
        uncertain: Scores of uncertain images; ``None`` if no image is.
        split: The images with their transforms, for batches of aligned images.
    """

    folder: Path
    common: Path
    style: Style = field(default_factory=Style)
    threshold: float | None = None
    uncertain: Band | None = None
    split: Split | None = field(default=None, repr=False, compare=False)

    @classmethod
    def into(cls, folder: Path, image_paths: Iterable[Path], style: Style | None = None) -> Pictures:
        """Draw pictures of these images into a folder; without a style, that of normalized maps."""
        paths = list(image_paths)
        return cls(folder, common_folder(paths) if paths else folder, style or Style())

    def deciding(self, thresholds: FinalThresholds, uncertain: Band | None) -> Pictures:
        """Give the same with the thresholds and verdicts that the pictures show."""
        style = replace(self.style, pixel_threshold=thresholds.pixels)
        return replace(self, style=style, threshold=thresholds.images, uncertain=uncertain)

    def below(self, name: str) -> Pictures:
        """Give the same for a subfolder."""
        return replace(self, folder=self.folder / name)

    def draw(self, batch: ImageBatch) -> None:
        """Draw one picture for each image of a batch.

        Args:
            batch: The images with their predictions, on the CPU.

        Raises:
            DataError: An image is missing or has changed.
        """
        for item in items_of(batch):
            path = Path(str(item.image_path))
            matrix = None if self.split is None else self.split.matrix_of(str(path))
            layers = Layers.of(item, InFile(size_of(path), matrix))
            label, score = bool(cast("torch.Tensor", item.pred_label)), float(cast("torch.Tensor", item.pred_score))
            found = None if layers.predicted is None else bool(layers.regions)
            verdict, remark = verdict_by(self.uncertain, score, is_anomalous=label), contradiction(label, found)
            self.draw_one(path, layers, Caption(verdict, score, regions=layers.regions, remark=remark))

    def draw_one(self, path: Path, layers: Layers, caption: Caption) -> None:
        """Draw the picture of one image.

        Args:
            path: The image.
            layers: What is painted over it.
            caption: What was decided about it, without its name and the threshold.

        Raises:
            DataError: The image is missing or has changed.
        """
        picture = self.path_of(path)
        name = str(absolute(path).relative_to(absolute(self.common)))
        pixels = decoded(path)
        if layers.size not in {None, pixels.shape[:2]}:
            message = (
                f"{path} must have the size that it had when it was predicted, {layers.size}, but has "
                f"{Size(*pixels.shape[:2])}. Restore it, or predict it again into another folder."
            )
            raise DataError(message)
        drawn = compose(pixels, layers, replace(caption, name=name, threshold=self.threshold), self.style)
        with replacing(picture) as temporary:
            drawn.save(temporary, format="PNG", compress_level=1)

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
