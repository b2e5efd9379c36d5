"""Reads images that belong to no data set; unreadable ones are reported and skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from anomalib.data import ImageBatch, ImageItem
from numpy.typing import NDArray
from torchvision.transforms.v2 import Transform

from anomalib_tiled.data.appearance import Appearance
from anomalib_tiled.data.cache import DecodedFiles
from anomalib_tiled.data.image_files import size_of
from anomalib_tiled.data.images import Pixels, decoded, in_size, lost_bits
from anomalib_tiled.data.part_finder import PartFinder
from anomalib_tiled.data.placement import DISPLACED, TrainedPlacement
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.data.tile_dataset import AreaDataset, collate, stacked_hidden
from anomalib_tiled.errors import DataError, OutOfMemoryError, TiledError, UnalignedError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.stages.alignment import Matrix
from anomalib_tiled.system.out_of_memory import advising_on_memory

SAME_SHAPE = 0.01
"""Largest relative difference of aspect ratios without a warning."""

LESS_MEMORY = "Make the image smaller, or predict it on a machine with more."


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
        for sample in split.subset("train")[:1]:
            with suppress(DataError):  # it may be missing or damaged by now, but is not needed any more
                return cls(resized, size_of(sample.image_path))
        return cls(resized, resized)

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


class SourceBatch(NamedTuple):
    """Images in the size that the ensemble takes.

    Args:
        images: The images.
        sizes: The sizes of their files in pixels.
        appearances: How they look.
        hidden: Pixels outside of aligned images, shape (batch, 1, height, width); ``None`` if there are none.
        matrices: The transforms of the images; ``None`` if images are not aligned.
    """

    images: ImageBatch
    sizes: tuple[Size, ...]
    appearances: tuple[Appearance, ...]
    hidden: torch.Tensor | None = None
    matrices: tuple[Matrix, ...] | None = None

    def one_by_one(self) -> Iterator[SourceBatch]:
        """Give a batch for each image."""
        for number, (item, size, seen) in enumerate(zip(self.images, self.sizes, self.appearances, strict=True)):
            hidden = None if self.hidden is None else self.hidden[number : number + 1]
            matrices = None if self.matrices is None else self.matrices[number : number + 1]
            yield SourceBatch(collate([item]), (size,), (seen,), hidden, matrices)


class _ReadImage(NamedTuple):
    """An image that was read, the size of its file, its look, its pixels that do not count, and its transform."""

    item: ImageItem
    size: Size
    appearance: Appearance
    hidden: NDArray[np.bool_] | None
    matrix: Matrix | None


@dataclass(frozen=True)
class _DecodedImage(DecodedFiles):
    """An image that is decoded and aligned already.

    Args:
        pixels: Shape (height, width, 3).
    """

    pixels: Pixels = field(kw_only=True)

    def image(self, sample: Sample, rows: slice, columns: slice) -> Pixels:
        """Give a rectangle of the image, shape (rows, columns, 3)."""
        del sample
        return self.pixels[rows, columns]


@dataclass
class NewImages:
    """Reads images in batches.

    Args:
        grid: The grid; images are resized to its image size.
        batch_size: Number of images to predict together.
        augmentations: Those of the test images.
        trained_on: Sizes of the training images.
        report: Called with a kind of warning, and a warning about the first such image.
        finder: Finds the part; ``None`` if images are not aligned.
        placement: Where parts lie in the training images; ``None`` if that is not known, or not needed.
        ignored: Pixels that count in no image, shape (height, width); ``None`` if all do.
    """

    grid: TileGrid
    batch_size: int
    augmentations: Transform | None
    trained_on: TrainedOn
    report: Callable[[str, str], None]
    finder: PartFinder | None = None
    _warned: bool = field(default=False, init=False)
    _noted: bool = field(default=False, init=False)
    placement: TrainedPlacement | None = None
    ignored: NDArray[np.bool_] | None = None

    def batches(self, paths: Iterable[Path], on_failure: Callable[[Path, TiledError], None]) -> Iterator[SourceBatch]:
        """Yield batches; only one of them is held in memory.

        Args:
            paths: The images.
            on_failure: Called with each image that cannot be read, and the reason: it is damaged, the part is not found
                in it, or there is too little memory for it even after all images before have been passed on.
        """
        read: list[_ReadImage] = []
        for path in paths:
            image = self._try(path)
            if isinstance(image, OutOfMemoryError) and read:
                yield _batch_of(read)
                image = self._try(path)
            if isinstance(image, TiledError):
                on_failure(path, image)
            else:
                self._look_at_place(path, image.item)
                read.append(image)
            if len(read) == self.batch_size:
                yield _batch_of(read)
        if read:
            yield _batch_of(read)

    def _try(self, path: Path) -> _ReadImage | TiledError:
        """Read an image and the size of its file, or give the error."""
        try:
            with advising_on_memory(LESS_MEMORY):
                return self._read(path)
        except OutOfMemoryError as error:
            alike = OutOfMemoryError(str(error))  # the error itself would keep the image in memory
            alike.of_machine = error.of_machine
            return alike
        except UnalignedError as error:
            return UnalignedError(str(error))
        except DataError as error:
            return DataError(str(error))

    def _read(self, path: Path) -> _ReadImage:
        size, pixels = self.grid.image_size, decoded(path)
        self._look_at(path, Size(*pixels.shape[:2]))  # what is unusual may be why the part is not found
        matrix = None if self.finder is None else self.finder.find(in_size(pixels, size)).matrix
        aligned = in_size(pixels, size, matrix)
        source = _DecodedImage(size, has_masks=False, pixels=aligned)
        sample = Sample("test", path, None, None, matrix=matrix)
        item = AreaDataset(source, [sample], self.grid.whole, self.grid, self.augmentations)[0]
        hidden = source.hidden(sample, *self.grid.whole)
        appearance = Appearance.of(aligned, self._uncounted(hidden), matrix)
        return _ReadImage(item, Size(*pixels.shape[:2]), appearance, hidden, matrix)

    def _uncounted(self, outside: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        """Give the pixels that do not count, once those from outside the image are known."""
        if self.ignored is None or outside is None:
            return self.ignored if outside is None else outside
        return self.ignored | outside

    def _look_at_place(self, path: Path, item: ImageItem) -> None:
        """Report an image whose part lies elsewhere than in training; the record counts them."""
        if self.placement is not None and (remark := self.placement.remark(path, cast("torch.Tensor", item.image))):
            self.report(DISPLACED, f"warning: {remark}")

    def _look_at(self, path: Path, size: Size) -> None:
        """Warn once of an image unlike the training images, and once of one with more than 8 bits."""
        if not self._noted and (loss := lost_bits(path)):
            self._noted = True
            self.report(
                "bits", f"warning: {path} has more than 8 bits per channel: {loss}. Other images may have, too."
            )
        if not self._warned and (remark := self.trained_on.remark(path, size)):
            self._warned = True
            self.report("shape", f"warning: {remark}")


def _batch_of(read: list[_ReadImage]) -> SourceBatch:
    """Join images to a batch, and empty the list."""
    items, sizes, appearances, hidden, matrices = zip(*read, strict=True)
    read.clear()
    transforms = None if None in matrices else matrices
    return SourceBatch(collate(items), sizes, appearances, stacked_hidden(hidden), transforms)
