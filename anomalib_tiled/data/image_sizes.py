"""Sizes of images: one common size, and a warning for images unlike the training images."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomalib_tiled.data.images import size_of
from anomalib_tiled.errors import DataError
from anomalib_tiled.grid import Size
from anomalib_tiled.system.files import is_file

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib_tiled.data.split import Split

SAME_SHAPE = 0.01
"""Largest relative difference of aspect ratios without a warning."""


@dataclass(frozen=True)
class TrainedOn:
    """Sizes of the training images of a run.

    Args:
        resized: Size that images are resized to.
        usual: Size of the files.
    """

    resized: Size
    usual: Size

    @classmethod
    def of(cls, split: Split, resized: Size) -> TrainedOn:
        """Read the size of a training image; if it is missing, assume the size after resizing."""
        first = next((sample.image_path for sample in split.subset("train")), None)
        usual = resized
        if first is not None and is_file(first):
            with suppress(DataError):  # it may be damaged by now, but is not needed any more
                usual = size_of(first)
        return cls(resized, usual)

    def remark(self, image: object, size: Size) -> str | None:
        """Warn that an image is smaller or has another shape; ``None`` if it does not.

        Args:
            image: Name of the image.
            size: Size of the image.
        """
        if size in {self.usual, self.resized} or not self._is_odd(size):
            return None
        trained = f"{self.resized}" if self.usual == self.resized else f"{self.resized} (made of {self.usual})"
        return (
            f"{image} has {size} pixels (height x width), but the tiles were trained on images of {trained}. "
            "It is resized, like all others of its kind; scores of images that look different are less reliable."
        )

    def _is_odd(self, size: Size) -> bool:
        smaller = size.height < self.resized.height or size.width < self.resized.width
        shapes = size.width * self.usual.height, self.usual.width * size.height
        return smaller or abs(shapes[0] - shapes[1]) > SAME_SHAPE * shapes[1]


def common_size(split: Split, image_size: Size | None) -> Size:
    """Give the size that all images have in the ensemble.

    Args:
        split: All images and masks; every header is read.
        image_size: Size that images are resized to; ``None`` if they keep their own.

    Raises:
        DataError: A file is no image, a mask has another size than its image, or images that keep their own size
            have several.
    """
    sizes = {sample.image_path: size_of(sample.image_path) for sample in split.samples}
    for sample in split.samples:
        for mask_path in sample.masks:
            _check_mask(mask_path, sample.image_path, sizes[sample.image_path])
    if image_size is not None:
        return image_size
    examples = {size: path for path, size in sizes.items()}
    if len(examples) > 1:
        listed = "; ".join(f"{size} ({path.name})" for size, path in sorted(examples.items())[:5])
        message = (
            f"All images must have one size where tiling.image_size is null, but there are {len(examples)}: {listed}. "
            "Set tiling.image_size to [height, width] to resize them."
        )
        raise DataError(message)
    return next(iter(examples))


def _check_mask(mask_path: Path, image_path: Path, image_size: Size) -> None:
    mask_size = size_of(mask_path)
    if mask_size != image_size:
        message = (
            f"A mask must have the size of its image: {mask_path} has {mask_size} pixels (height x width), "
            f"{image_path} has {image_size}. Replace the mask."
        )
        raise DataError(message)
