"""Images and tiles in the form that anomalib's models take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from anomalib.data import AnomalibDataModule, ImageBatch, ImageItem
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch.nn.functional import adaptive_max_pool2d
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, Dataset
from torch.utils.data import Subset as SomeOf
from torchvision.transforms.v2 import Transform
from torchvision.transforms.v2.functional import resize, to_dtype
from torchvision.tv_tensors import Image, Mask

from anomalib_tiled.data.cache import PixelSource
from anomalib_tiled.data.images import Pixels
from anomalib_tiled.data.split import SUBSETS, Known, Sample, Split, Subset
from anomalib_tiled.data.split_table import UNKNOWN
from anomalib_tiled.errors import DataError
from anomalib_tiled.grid import Size, Tile, TileGrid, WholeImage

CHANNELS = 3
"""Channels of images; files with other numbers are converted."""


@dataclass(frozen=True, eq=False)
class AreaDataset(Dataset[ImageItem]):
    """One rectangle of every image: a tile, or the whole.

    Args:
        source: Gives the pixels.
        samples: The images.
        area: Rows and columns of the rectangle in pixels.
        grid: The grid that the rectangle belongs to.
        augmentations: Applied to whole images before the rectangle is cut out of them.
        size: Height and width that the rectangle is shrunk to, in pixels; ``None`` to keep it as it is.
    """

    source: PixelSource
    samples: Sequence[Sample]
    area: tuple[slice, slice]
    grid: TileGrid
    augmentations: Transform | None = None
    size: Size | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.samples)

    def __getitem__(self, index: int) -> ImageItem:
        """Give one image with the label of the rectangle; without a mask, with that of the whole image."""
        sample = self.samples[index]
        image, mask = self._tensors(sample)
        if self.size is not None:
            image = Image(shrunk(image, self.size))
            mask = None if mask is None else Mask(shrunk_masks(mask[None], self.size)[0])
        label = self._label(sample, mask)
        return ImageItem(
            image=image,
            gt_mask=mask,
            gt_label=None if label is None else torch.tensor(label),
            image_path=str(sample.image_path),
            mask_path="" if sample.mask_path is None else str(sample.mask_path),
        )

    def labels(self, *, pixels: bool = False) -> list[int | None]:
        """Labels of all rectangles, without reading the images: 0 normal, 1 anomalous, ``None`` unknown.

        Args:
            pixels: Whether to leave out rectangles without a mask.
        """
        both = ((sample, self.source.mask(sample, *self.area)) for sample in self.samples)
        return [self._label(sample, mask) for sample, mask in both if not pixels or mask is not None]

    def _label(self, sample: Sample, mask: Mask | Pixels | None) -> int | None:
        # A whole image keeps its own label: resizing can make the few pixels of a defect vanish from its mask.
        return sample.label if mask is None or self.area == self.grid.whole else int(mask.any())

    def _tensors(self, sample: Sample) -> tuple[Image, Mask | None]:
        if self.augmentations is None:
            return self._read(sample, self.area)
        whole, mask = self._read(sample, self.grid.whole)
        # Image and mask are augmented together; without a mask the image alone, as anomalib does.
        image, mask = (self.augmentations(whole), None) if mask is None else self.augmentations(whole, mask)
        if len(image) != CHANNELS:
            message = (
                f"Augmentations must keep the {CHANNELS} channels of images, but give {len(image)}. Fix or remove the "
                "one that changes them: Grayscale, for example, needs num_output_channels: 3."
            )
            raise DataError(message)
        if image.shape[-2:] != self.grid.image_size:
            message = (
                f"Augmentations must keep the size of images, {self.grid.image_size}, but give "
                f"{image.shape[-2]} x {image.shape[-1]}. Remove the resizing, and set tiling.image_size instead."
            )
            raise DataError(message)
        rows, columns = self.area
        return Image(image[:, rows, columns]), None if mask is None else Mask(mask[rows, columns])

    def _read(self, sample: Sample, area: tuple[slice, slice]) -> tuple[Image, Mask | None]:
        pixels = torch.from_numpy(self.source.image(sample, *area)).permute(2, 0, 1)
        mask = self.source.mask(sample, *area)
        image = to_dtype(Image(pixels), torch.float32, scale=True)  # equal to anomalib's reader to the last bit
        return image, None if mask is None else Mask(torch.from_numpy(mask))


@dataclass(frozen=True)
class Annotations:
    """What is known of a batch of images, or of one rectangle of them: the fields of an ``ImageBatch``, without pixels.

    Args:
        image_path: Files of the images.
        gt_label: Whether each whole image is anomalous, shape (batch,); ``None`` if one is unknown.
        gt_mask: Which pixels are anomalous, shape (batch, height, width); ``None`` if unknown.
        hidden: Which pixels do not count, shape (batch, 1, height, width); ``None`` if all do.
    """

    image_path: list[str]
    gt_label: torch.Tensor | None
    gt_mask: torch.Tensor | None
    hidden: torch.Tensor | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.image_path)


@dataclass(frozen=True)
class Images:
    """Whole images, in order.

    Args:
        source: Gives the pixels.
        samples: The images.
        grid: The grid, which gives their size.
        batch_size: Number of images to load together.
        augmentations: Applied to the images.
        whole: All images, if these are a part of them; ``None`` if these are all.
    """

    source: PixelSource
    samples: Sequence[Sample]
    grid: TileGrid
    batch_size: int
    augmentations: Transform | None
    whole: Images | None = None

    def parts(self, number: int) -> Iterator[Images]:
        """Divide the images into parts.

        Args:
            number: Number of images in a part.
        """
        for first in range(0, len(self.samples), number):
            yield self.part(first, number)

    def part(self, first: int, number: int) -> Images:
        """Give some of the images; what a batch of them knows does not depend on which.

        Args:
            first: Position of the first image.
            number: How many images; less, if there are no more.
        """
        return replace(self, samples=self.samples[first : first + number], whole=self.whole or self)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._loader)

    def __iter__(self) -> Iterator[ImageBatch]:
        """Load the images batch by batch; either all images of a batch have label and mask, or none."""
        return iter(self._loader)

    @property
    def _loader(self) -> DataLoader[ImageItem]:
        dataset = AreaDataset(self.source, self.samples, self.grid.whole, self.grid, self.augmentations)
        return DataLoader(dataset, batch_sampler=self._batches, collate_fn=collate)

    @property
    def _batches(self) -> list[list[int]]:
        """Positions of the images of each batch."""
        with_masks = bool(Known.of((self.whole or self).samples).masked.any())
        return _alike_batches(Known.of(self.samples), self.batch_size, with_masks=with_masks)

    def annotations(self, rows: slice, columns: slice) -> Iterator[Annotations]:
        """Read what is known of a rectangle of all images, in the batches of ``iter``, without augmentations.

        Args:
            rows: Rows of the rectangle in pixels.
            columns: Its columns.
        """
        for places in self._batches:
            samples = [self.samples[place] for place in places]
            hidden = [self.source.hidden(sample, rows, columns) for sample in samples]
            masks = [self.source.mask(sample, rows, columns) for sample in samples]
            yield Annotations(
                [str(sample.image_path) for sample in samples],
                _stacked([None if sample.label is None else torch.tensor(sample.label) for sample in samples]),
                _stacked([None if mask is None else torch.from_numpy(mask).bool() for mask in masks]),
                stacked_hidden(hidden),
            )

    def hidden(self) -> Iterator[torch.Tensor | None]:
        """Say which pixels of whole images do not count, in the batches of ``iter``, as `stacked_hidden` gives them."""
        for places in self._batches:
            yield stacked_hidden([self.source.hidden(self.samples[place], *self.grid.whole) for place in places])

    def tile(self, tile: Tile, batch_size: int) -> Iterator[torch.Tensor]:
        """Read one tile of all images, without augmentations.

        Args:
            tile: The tile.
            batch_size: Number of images whose tiles come together.

        Yields:
            Values in [0, 1], shape (batch, 3, tile height, tile width).
        """
        for places in BatchSampler(range(len(self.samples)), batch_size, drop_last=False):
            pixels = [self.source.image(self.samples[place], tile.rows, tile.columns) for place in places]
            images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
            scaled = to_dtype(Image(images), torch.float32, scale=True).as_subclass(torch.Tensor)
            yield shrunk(scaled, tile.shrunk) if isinstance(tile, WholeImage) else scaled


class TileDataModule(LightningDataModule):
    """One tile location of all images, or those that share a model, as a data module for models that use its loaders.

    Args:
        source: Gives the pixels.
        split: All images.
        grid: The grid.
        tile: The tile location; the first of those that share its model.
        datamodule: The user's data module, for name, category, batch sizes and augmentations.
    """

    def __init__(
        self, source: PixelSource, split: Split, *, grid: TileGrid, tile: Tile, datamodule: AnomalibDataModule
    ) -> None:
        super().__init__()
        self.name, self.category = datamodule.name, datamodule.category
        self.train_batch_size, self.eval_batch_size = datamodule.train_batch_size, datamodule.eval_batch_size
        samples: dict[Subset, Sequence[Sample]] = {subset: split.subset(subset) for subset in SUBSETS}
        samples["val"] = split.calibration_samples if split.calibration_subset == "val" else ()
        augmentations = {subset: getattr(datamodule, f"{subset}_augmentations") for subset in SUBSETS}
        shrunk = tile.shrunk if isinstance(tile, WholeImage) else None
        self._areas = {
            subset: [
                AreaDataset(source, samples[subset], (each.rows, each.columns), grid, augmentations[subset], shrunk)
                for each in grid.members(tile)
            ]
            for subset in SUBSETS
        }
        self._learned: Dataset[ImageItem] = _joined(self._areas["train"])

    def learn_from(self, tiles_per_image: int, *, seed: int) -> None:
        """Draw the tiles of each training image that the model learns from.

        Args:
            tiles_per_image: How many; all, if no more share the model.
            seed: Seed of the draw.
        """
        areas, random = self._areas["train"], np.random.default_rng(seed)
        images, number = len(areas[0]), min(tiles_per_image, len(areas))
        drawn = (np.sort(random.choice(len(areas), number, replace=False)) * images + image for image in range(images))
        self._learned = SomeOf(self._learned, np.concatenate([*drawn]).tolist())

    @property
    def train_images(self) -> int:
        """Number of training images."""
        return len(self._areas["train"][0])

    def example(self, batch: int) -> torch.Tensor:
        """Repeat one training tile, shape (batch, 3, height, width)."""
        return torch.stack([torch.as_tensor(self._areas["train"][0][0].image)] * batch)

    def train_dataloader(self) -> DataLoader[ImageItem]:
        """Training tiles in random order."""
        return DataLoader(self._learned, batch_size=self.train_batch_size, shuffle=True, collate_fn=collate)

    def val_dataloader(self) -> DataLoader[ImageItem]:
        """Validation tiles of known label; the training tiles if there are none."""
        areas = self._areas["val" if len(self._areas["val"][0]) else "train"]
        labels, masked = Known.of(areas[0].samples)
        known = Known(np.tile(labels, len(areas)), np.tile(masked, len(areas)))
        batches = _alike_batches(known, self.eval_batch_size, with_masks=bool(known.masked.any()))
        return DataLoader(_joined(areas), batch_sampler=batches, collate_fn=collate)

    def test_dataloader(self) -> DataLoader[ImageItem]:
        """Test tiles."""
        # No loader processes: reading a tile takes a fraction of the time of passing it between processes.
        return DataLoader(_joined(self._areas["test"]), batch_size=self.eval_batch_size, collate_fn=collate)

    def validation_labels(self, *, pixels: bool = False) -> list[int | None]:
        """Labels of the validation tiles: 0 normal, 1 anomalous, ``None`` unknown.

        Args:
            pixels: Whether to leave out tiles without a mask.
        """
        return [label for area in self._areas["val"] for label in area.labels(pixels=pixels)]


def _joined(areas: Sequence[AreaDataset]) -> Dataset[ImageItem]:
    """Give the rectangles of several datasets as one: those of the first, then those of the next."""
    return areas[0] if len(areas) == 1 else ConcatDataset(areas)


def _alike_batches(known: Known, batch_size: int, *, with_masks: bool) -> list[list[int]]:
    """Divide the positions of images, in order, into batches whose images have the same known parts."""
    labels, masked = known
    unknown = np.stack([labels == UNKNOWN, with_masks & (labels == 1) & ~masked])
    changes = np.flatnonzero((unknown[:, 1:] != unknown[:, :-1]).any(axis=0)) + 1
    runs = [range(*bounds) for bounds in pairwise([0, *changes.tolist(), len(labels)])]
    return [batch for places in runs for batch in BatchSampler(places, batch_size, drop_last=False)]


def collate(items: Sequence[ImageItem]) -> ImageBatch:
    """Join images to a batch; a field that one of them lacks is left out for all."""
    return ImageBatch(
        image=_stacked([item.image for item in items]),
        gt_mask=_stacked([item.gt_mask for item in items]),
        gt_label=_stacked([item.gt_label for item in items]),
        image_path=[str(item.image_path) for item in items],
        mask_path=[str(item.mask_path) for item in items],
    )


def shrunk(images: torch.Tensor, size: Size) -> torch.Tensor:
    """Shrink images bilinearly, with antialiasing.

    Args:
        images: Shape (..., channels, height, width).
        size: New height and width.
    """
    small: torch.Tensor = resize(images, list(size), antialias=True)
    return small


def shrunk_masks(masks: torch.Tensor, size: Size) -> torch.Tensor:
    """Shrink masks; a pixel is in the mask if one of those that it covers is, so that no defect vanishes.

    Args:
        masks: Shape (batch, height, width).
        size: New height and width.
    """
    small: torch.Tensor = adaptive_max_pool2d(masks.float(), list(size)).to(masks.dtype)
    return small


def shrunk_hidden(hidden: torch.Tensor, size: Size) -> torch.Tensor:
    """Shrink hidden pixels; a pixel is hidden if all of those that it covers are.

    Args:
        hidden: Shape (batch, 1, height, width).
        size: New height and width.
    """
    return ~shrunk_masks(~hidden[:, 0], size)[:, None]


def stacked_hidden(hidden: Sequence[NDArray[np.bool_] | None]) -> torch.Tensor | None:
    """Join the hidden pixels of images to a batch.

    Args:
        hidden: Those of each image, shape (height, width); ``None`` if there are none.

    Returns:
        Shape (batch, 1, height, width); ``None`` if all pixels of all images count.
    """
    some = next((each for each in hidden if each is not None and each.any()), None)
    if some is None:
        return None
    return torch.from_numpy(np.stack([np.zeros_like(some) if each is None else each for each in hidden])[:, None])


def _stacked(values: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    known = [value for value in values if value is not None]
    return torch.stack(known) if len(known) == len(values) else None
