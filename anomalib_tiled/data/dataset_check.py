"""Refuses data sets with their own way of reading images, unless the result equals the files."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from anomalib.data import AnomalibDataset, ImageItem
from anomalib.data.datasets.image.mvtec_loco import MVTecLOCODataset
from torchvision.transforms.v2 import Transform
from torchvision.transforms.v2.functional import to_dtype

from anomalib_tiled.data.images import read_image, read_masks, size_of
from anomalib_tiled.data.split import Sample
from anomalib_tiled.errors import DataError
from anomalib_tiled.system.progress import track

KNOWN = (AnomalibDataset.__getitem__, MVTecLOCODataset.__getitem__)
"""Reading methods with the same results as ``read_image`` and ``read_masks``."""

TOLERANCE = 2.5 / 255
"""Largest difference of a colour between two decoders of one JPEG file, of a range from 0 to 1."""

ADVICE = "Save the images that it gives as files, and name these in its samples."


def check_reading(dataset: AnomalibDataset, samples: Sequence[Sample], augmentations: Transform | None) -> None:
    """Compare every image of a data set with its file, if the data set has its own way of reading images.

    Args:
        dataset: The data set.
        samples: The rows of its table.
        augmentations: Augmentations of the data module for it; this package applies them, not the data set.

    Raises:
        DataError: The data set and its files differ.
    """
    name = type(dataset).__name__
    if len(dataset) and dataset.augmentations is not augmentations:
        message = (
            f"A data set must have the augmentations that the data module names for it, but {name} has others: "
            f"{dataset.augmentations}. Give them to the data module."
        )
        raise DataError(message)
    if type(dataset).__getitem__ in KNOWN and not hasattr(dataset, "__getitems__"):
        return
    plain = copy(dataset)
    plain.augmentations = None
    for index, sample in enumerate(track(samples, f"Comparing images of {name}")):
        if difference := _difference(plain[index], sample):
            message = f"Tiles are cut from files, but {name} gives {difference} for {sample.image_path}. {ADVICE}"
            raise DataError(message)


def _difference(item: object, sample: Sample) -> str | None:
    """Say how an item differs from its files; ``None`` if it does not."""
    if not isinstance(item, ImageItem):
        return f"a {type(item).__name__} instead of an ImageItem"
    if (None if item.gt_label is None else int(item.gt_label)) != sample.label:
        return f"another label than its samples, {item.gt_label} instead of {sample.label},"
    size = size_of(sample.image_path)
    image = torch.from_numpy(read_image(sample.image_path, size)).permute(2, 0, 1)
    if not _is_alike(to_dtype(item.image, torch.float32, scale=True), to_dtype(image, torch.float32, scale=True)):
        return "another image than its file"
    if not sample.masks:
        return "a mask without a file" if item.gt_mask is not None and item.gt_mask.any() else None
    mask = torch.from_numpy(read_masks(sample.masks, size))
    return None if _is_alike(item.gt_mask, mask.float()) else "another mask than its file"


def _is_alike(given: torch.Tensor | None, expected: torch.Tensor) -> bool:
    if given is None or given.shape != expected.shape:
        return False
    return bool((given.float() - expected).abs().max() <= TOLERANCE)
