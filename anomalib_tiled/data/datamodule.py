"""Takes images and subsets from a data module, and finds images that have appeared in its folders since."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pandas as pd
import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, AnomalibDataset, Folder, ImageItem
from anomalib.data.datasets.image.mvtec_loco import MVTecLOCODataset
from anomalib.data.errors import MisMatchError
from anomalib.data.utils import LabelName, ValSplitMode
from anomalib.data.utils.synthetic import SyntheticAnomalyDataset
from torchvision.transforms.v2 import Transform
from torchvision.transforms.v2.functional import to_dtype

from anomalib_tiled.config.settings import Plain
from anomalib_tiled.data.image_files import size_of
from anomalib_tiled.data.images import read_image, read_masks
from anomalib_tiled.data.setup import as_folder, images_below, set_up, several
from anomalib_tiled.data.split import SUBSETS, Sample, Split, Subset, with_masks
from anomalib_tiled.errors import ConfigurationError, DataError, TiledError
from anomalib_tiled.system.files import absolute
from anomalib_tiled.system.progress import track

LEAST = {"train_batch_size": 1, "eval_batch_size": 1, "num_workers": 0}
"""The lowest allowed value of each number of a data module."""

KNOWN = (AnomalibDataset.__getitem__, MVTecLOCODataset.__getitem__)
"""Reading methods with the same results as ``read_image`` and ``read_masks``."""

TOLERANCE = 2.5 / 255
"""Largest difference of a colour between two decoders of one JPEG file, of a range from 0 to 1."""

ADVICE = "Save the images that it gives as files, and name these in its samples."

FOLDERS = ("normal_dir", "abnormal_dir", "normal_test_dir", "mask_dir")
"""Arguments of `Folder` that name folders, below ``root`` unless they are absolute."""

PATH_PARTS = re.compile(r"[/\\\x00-\x1f]")
"""Characters that separate folders, here or on other systems, or end a path."""


def check_numbers(datamodule: AnomalibDataModule) -> None:
    """Refuse numbers with which nothing can be loaded.

    Raises:
        ConfigurationError: A batch size is below 1, or the number of processes is negative.
    """
    for name, least in LEAST.items():
        value = getattr(datamodule, name, least)
        if value < least:
            message = f"data.init_args.{name} must be at least {least}, but is {value}. Raise it."
            raise ConfigurationError(message)


def folders_of(datamodule: AnomalibDataModule) -> list[str]:
    """Give the folders of runs on a data module: its name, and its category if it has one.

    Raises:
        ConfigurationError: A name is no folder name, so a run would be written elsewhere.
    """
    names = {"name": datamodule.name, **({"category": datamodule.category} if datamodule.category else {})}
    for setting, name in names.items():
        if PATH_PARTS.search(str(name)) or str(name) in {"", ".", ".."}:
            message = (
                f"data.init_args.{setting} must be the name of a folder, because runs are written there, "
                f"but is {name!r}. Give a name without / and \\; default_root_dir sets where runs go."
            )
            raise ConfigurationError(message)
    return [str(name) for name in names.values()]


def split_once(datamodule: AnomalibDataModule, *, for_training: bool = True) -> Split:
    """Set a data module up, and list which image is in which subset.

    Args:
        datamodule: Data module that is not set up yet. Its random choices come from the global generators.
        for_training: Whether there must be a normal training image.

    Raises:
        DataError: The data module cannot be set up or gives images that differ from their files, there is no normal
            training image, or an image is in two subsets.
    """
    samples: list[Sample] = []
    with _errors_naming_datamodule(datamodule), _free_columns():
        datamodule.prepare_data()
        set_up(datamodule)
        for name in SUBSETS:
            if (dataset := _dataset(datamodule, name)) is not None:
                samples += (found := _samples_of(dataset, name))
                _check_reading(dataset, found, getattr(datamodule, f"{name}_augmentations"))
    split = _as_named(Split(tuple(samples)), datamodule)
    if for_training and not any(sample.label == 0 for sample in split.subset("train")):
        message = "There must be at least one normal training image, but the data module gives none. Check its folders."
        raise DataError(message)
    _check_apart(split, same_as_test=datamodule.val_split_mode == ValSplitMode.SAME_AS_TEST)
    return split


@contextmanager
def _errors_naming_datamodule(datamodule: AnomalibDataModule) -> Iterator[None]:
    """Name the data module in all errors that it raises."""
    try:
        yield
    except (TiledError, MemoryError):
        raise
    except Exception as error:
        modes = f"val_split_mode {datamodule.val_split_mode.value}, test_split_mode {datamodule.test_split_mode.value}"
        advice = f"Check its folders, that no mask is missing, and that there are enough images for {modes}."
        if isinstance(error, MisMatchError):
            advice = "It joins images and masks by position. Pad numbers in names with zeros, or use Folder instead."
        if isinstance(error, URLError):
            advice = f"Its images are not in {getattr(datamodule, 'root', 'its folder')}, so it tried to download them."
        name, reason = type(datamodule).__name__, " ".join(str(error).split())
        message = f"The data module {name} could not be set up: {reason} ({type(error).__name__}). {advice}"
        raise DataError(message) from error


@contextmanager
def _free_columns() -> Iterator[None]:
    """Let text columns hold lists and paths, which anomalib's LOCO and Tabular put there and pandas 3 refuses."""
    if not pd.__version__.startswith("3."):
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The 'future.infer_string' option is deprecated")
        with pd.option_context("future.infer_string", False):  # noqa: FBT003  # the value of an option
            yield


def _dataset(datamodule: AnomalibDataModule, name: Subset) -> AnomalibDataset | None:
    """Give the data set of a subset; if the data module overrides its loader, the data set of that loader."""
    dataset: AnomalibDataset | None = getattr(datamodule, f"{name}_data", None)
    loader = f"{name}_dataloader"
    if dataset is not None and getattr(type(datamodule), loader) is not getattr(AnomalibDataModule, loader):
        dataset = getattr(getattr(datamodule, loader)(), "dataset", None)
    if dataset is None or isinstance(dataset, AnomalibDataset):
        return dataset
    message = f"{loader} must load an AnomalibDataset, but loads {type(dataset).__name__}. Fix the data module."
    raise DataError(message)


def _check_reading(dataset: AnomalibDataset, samples: Sequence[Sample], augmentations: Transform | None) -> None:
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


def keep_generated(split: Split, datamodule: AnomalibDataModule, folder: Path, final: Path | None = None) -> Split:
    """Copy images that anomalib draws into a temporary folder, so that later commands find them.

    Args:
        split: The split of the data module.
        datamodule: Data module with or without synthetic subsets.
        folder: Folder for the copies.
        final: Later path of the folder; ``None`` if it keeps its path.

    Returns:
        The split with the new paths.
    """
    datasets = [getattr(datamodule, f"{name}_data", None) for name in SUBSETS]
    roots = [Path(dataset.root) for dataset in datasets if isinstance(dataset, SyntheticAnomalyDataset)]
    for number, root in enumerate(dict.fromkeys(roots)):  # validation and test images may be the same ones
        shutil.copytree(root, folder / str(number), dirs_exist_ok=True)
        split = Split(tuple(_moved(sample, root, (final or folder) / str(number)) for sample in split.samples))
    return split


def _moved(sample: Sample, source: Path, target: Path) -> Sample:
    image, *masks = (
        target / path.relative_to(source) if path.is_relative_to(source) else path
        for path in (sample.image_path, *sample.masks)
    )
    return with_masks(replace(sample, image_path=image), masks)


def _samples_of(dataset: AnomalibDataset, subset: Subset) -> list[Sample]:
    table = dataset.samples
    if missing := [column for column in ("image_path", "label_index") if column not in table.columns]:
        message = (
            f"The samples of {type(dataset).__name__} must have the columns image_path and label_index, "
            f"but lack {' and '.join(missing)}. Use a data set of single images."
        )
        raise DataError(message)
    return [_sample_of(row, subset, task=table.attrs.get("task")) for row in table.to_dict("records")]


def _sample_of(row: dict[Hashable, Plain], subset: Subset, *, task: str | None) -> Sample:
    sample = Sample(subset, Path(row["image_path"]).absolute(), None, _label(row["label_index"], row["image_path"]))
    # As in anomalib: some data modules name masks of normal images that do not exist.
    has_mask = sample.label == 1 and task != TaskType.CLASSIFICATION
    return with_masks(sample, _masks(row.get("mask_path")) if has_mask else [])


def _label(given: Plain, image_path: Plain) -> int | None:
    label = LabelName.UNKNOWN if pd.isna(given) else given
    if label not in set(LabelName):
        message = f"label_index must be 0, 1, or -1 for unknown, but is {given!r} for {image_path}. Fix its table."
        raise DataError(message)
    return None if label == LabelName.UNKNOWN else int(label)


def _as_named(split: Split, datamodule: AnomalibDataModule) -> Split:
    """Give a split with folders as the data module names them: anomalib follows their links.

    On another machine, a link may lead to where the same disk is mounted there.
    """
    if not (links := _links(datamodule)):
        return split

    def named(path: Path) -> Path:
        real = next((real for real in links if path.is_relative_to(real)), None)
        return path if real is None else links[real] / path.relative_to(real)

    samples = (
        with_masks(replace(sample, image_path=named(sample.image_path)), [*map(named, sample.masks)])
        for sample in split.samples
    )
    return Split(tuple(samples))


def _links(datamodule: AnomalibDataModule) -> dict[Path, Path]:
    """Give the folders that a data module names by way of links, by where they lead; innermost first."""
    given = getattr(datamodule, "root", None)
    root = absolute(given if isinstance(given, (str, Path)) else "")
    kinds = [getattr(datamodule, name) for name in FOLDERS] if isinstance(datamodule, Folder) else []
    named = [root, *(absolute(root / each) for kind in kinds for each in several(kind))]
    links = {Path(os.path.realpath(folder)): folder for folder in named}
    return {real: links[real] for real in sorted(links, key=lambda real: -len(real.parts)) if real != links[real]}


def _masks(given: Plain) -> list[Path]:
    """Give the masks of an image; data modules have different forms for none, one or several."""
    several = given if isinstance(given, (list, tuple)) else [given]
    return [Path(path).absolute() for path in several if isinstance(path, (str, Path)) and str(path)]


def _check_apart(split: Split, *, same_as_test: bool) -> None:
    paths = {name: {sample.image_path.resolve() for sample in split.subset(name)} for name in SUBSETS}
    pairs: list[tuple[Subset, Subset]] = [("train", "val"), ("train", "test")]
    for first, second in pairs if same_as_test else [*pairs, ("val", "test")]:
        if shared := sorted(paths[first] & paths[second]):
            message = (
                f"An image must be in one subset only, but {len(shared)} are in {first} and {second}, "
                f"for example {shared[0]}. Check the folders of the data module."
            )
            raise DataError(message)


def appeared(split: Split, datamodule: AnomalibDataModule) -> tuple[int, Path] | None:
    """Find images that are in the folders of a data module, but in no subset.

    Args:
        split: The split of the run.
        datamodule: Data module of the run. Only those that are known to search folders are checked.

    Returns:
        Number of such images, and the newest; ``None`` if there are none.
    """
    folder = as_folder(datamodule)
    if folder is None:
        return None
    root, split = absolute(folder.root or ""), _as_named(split, folder)
    kinds = [
        [absolute(root / each) for each in several(kind)]
        for kind in (folder.normal_dir, folder.normal_test_dir, folder.abnormal_dir)
    ]
    named = {sample.image_path for sample in split.samples}
    used = [kind for kind in kinds if any(path.is_relative_to(each) for path in named for each in kind)]
    found = {path for kind in used for each in kind for path in images_below(each, folder)} - named
    number = len(found) - _painted(split, [each for kind in kinds for each in kind])
    return (number, max(sorted(found), key=os.path.getctime)) if number > 0 else None


def _painted(split: Split, folders: list[Path]) -> int:
    """Count synthetic defects, each of which was painted on an image that is in no subset."""
    anomalous = {sample.image_path for sample in split.samples if sample.label == 1}
    return sum(not any(path.is_relative_to(folder) for folder in folders) for path in anomalous)
