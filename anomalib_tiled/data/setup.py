"""Sets a data module up, and gives each image its own mask.

Most data modules of anomalib sort images and masks separately and join them by position. ``1_mask.png`` sorts after
``10_mask.png``, but ``1.png`` before ``10.png``; ``crack_mask`` sorts after ``crack_big_mask``, but ``crack`` before
``crack_big``. So they refuse some correct sets, and give some masks to other images.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from copy import copy
from os.path import commonpath
from pathlib import Path
from typing import TypeGuard

from anomalib import TaskType
from anomalib.data import MPDD, VAD, AnomalibDataModule, AnomalibDataset, Folder, MVTecAD, Tabular
from anomalib.data.errors import MisMatchError
from anomalib.data.utils import LabelName
from anomalib.data.utils.path import validate_and_resolve_path
from anomalib.data.utils.synthetic import SyntheticAnomalyDataset
from lightning.pytorch.trainer.states import TrainerFn
from torchvision.datasets.folder import IMG_EXTENSIONS

from anomalib_tiled.config.settings import Plain
from anomalib_tiled.data.image_files import image_endings
from anomalib_tiled.data.mask_pairs import RULE, Candidates, differing_parts
from anomalib_tiled.errors import DataError

LIKE_MVTEC = (MVTecAD, MPDD, VAD)
"""Data modules with the folders ``train/good``, ``test/good``, and ``test`` and ``ground_truth`` for each defect."""

DATASETS = ("train_data", "val_data", "test_data")


def set_up(datamodule: AnomalibDataModule) -> None:
    """Make the data sets of a data module.

    Args:
        datamodule: Data module that is not set up yet.

    Raises:
        DataError: The mask of an image is ambiguous or missing.
    """
    if isinstance(datamodule, Folder) and datamodule.extensions is None:
        datamodule.extensions = image_endings()  # type: ignore[assignment]  # several are allowed, but the annotation says one
    if _has_mask_folders(datamodule):
        _set_up_by_names(datamodule, datamodule)
        return
    try:
        datamodule.setup(TrainerFn.FITTING)
    except (MisMatchError, ValueError):  # names do not match, or the numbers of masks and images differ
        if (folder := as_folder(datamodule)) is None:
            raise
        _set_up_by_names(datamodule, folder)
        return
    if not isinstance(datamodule, Tabular):  # whose pairs come from the user
        _pair_again(_datasets(datamodule))


def _has_mask_folders(datamodule: AnomalibDataModule) -> TypeGuard[Folder]:
    """Whether a data module finds images and masks as `Folder` does; subclasses may do it differently."""
    return (
        isinstance(datamodule, Folder)
        and type(datamodule)._setup is Folder._setup  # noqa: SLF001  # there is no public way
        and bool(datamodule.abnormal_dir and datamodule.mask_dir)
    )


def _set_up_by_names(datamodule: AnomalibDataModule, folder: Folder) -> None:
    """Set a data module, whose images ``folder`` describes, up without masks, then add the masks."""
    bare = copy(folder)
    bare.mask_dir = None
    bare.setup(TrainerFn.FITTING)
    datasets = _datasets(bare)
    images = {Path(row["image_path"]) for row in _rows(datasets) if row["label_index"] == LabelName.ABNORMAL}
    pairs = _pairs(folder, sorted(images))
    for dataset in datasets:
        _write(dataset, {image: str(mask) for image, mask in pairs.items()})
        dataset.samples.attrs["task"] = TaskType.SEGMENTATION.value
    for name in DATASETS:
        if hasattr(bare, name):
            setattr(datamodule, name, getattr(bare, name))


def as_folder(datamodule: AnomalibDataModule) -> Folder | None:
    """Describe a data module as folders of images and of masks; ``None`` if its folders are unknown."""
    if isinstance(datamodule, Folder):
        return datamodule
    if not isinstance(datamodule, LIKE_MVTEC):
        return None
    root = Path(datamodule.root) / datamodule.category
    defects = sorted(path.name for path in root.glob("test/*") if path.is_dir() and path.name != "good")
    normal = "test/good" if (root / "test" / "good").is_dir() else None
    modes = ("val_split_mode", "val_split_ratio", "test_split_mode", "test_split_ratio", "seed")
    augmentations = ("train_augmentations", "val_augmentations", "test_augmentations")
    return Folder(
        name=datamodule.name,
        root=root,
        normal_dir="train/good",
        normal_test_dir=normal,
        extensions=IMG_EXTENSIONS,
        abnormal_dir=[f"test/{name}" for name in defects],
        mask_dir=[f"ground_truth/{name}" for name in defects],
        **{name: getattr(datamodule, name) for name in (*modes, *augmentations)},
    )


def _pairs(folder: Folder, images: Sequence[Path]) -> dict[Path, Path]:
    """Give each image its mask.

    Where there are as many folders of masks as of images, each belongs to the folder of images at the same position.
    Images are never masks, even where both are in the same folder.

    Raises:
        DataError: The mask of an image is ambiguous or missing, or the folders are in another order than their names.
    """
    image_folders, mask_folders = (
        [validate_and_resolve_path(path, folder.root) for path in several(each)]
        for each in (folder.abnormal_dir, folder.mask_dir)
    )
    masks = {each: sorted(images_below(each, folder) - set(images)) for each in mask_folders}
    if not len(image_folders) == len(mask_folders) == len(masks):
        together = sorted({mask for below in masks.values() for mask in below})
        return Candidates(images, together, Path(commonpath(image_folders)), Path(commonpath(mask_folders))).pairs()
    _check_order(image_folders, mask_folders)
    found: dict[Path, Path] = {}
    for image_folder, mask_folder in zip(image_folders, mask_folders, strict=True):
        if own := [image for image in images if image.is_relative_to(image_folder)]:
            found |= Candidates(own, masks[mask_folder], image_folder, mask_folder).pairs()
    return found


def _check_order(image_folders: Sequence[Path], mask_folders: Sequence[Path]) -> None:
    """Refuse folders of masks in another order than the folders of images with the same names."""
    images, masks = (differing_parts(list(map(str, folders))) for folders in (image_folders, mask_folders))
    for place, other in enumerate(_plain_order(images, masks)):
        if other != place:
            message = (
                f"The first of mask_dir must have the masks of the first of abnormal_dir, and so on, but "
                f"{image_folders[place]} has the position of {mask_folders[place]} and the name of "
                f"{mask_folders[other]}. Change the order, or name the folders alike."
            )
            raise DataError(message)


def _plain_order(images: Sequence[str], masks: Sequence[str]) -> list[int]:
    """Give the place of the mask folder that each image folder is called as; none if names do not tell."""
    if sorted(images) == sorted(masks):
        return [masks.index(image) for image in images] if len({*images}) == len(images) else []
    wanted, given = ([Path(name or ".") for name in names] for names in (images, masks))
    told = Candidates(wanted, given, Path(), Path()).plain_pairs() or {}
    return [given.index(told[image]) for image in wanted] if len(told) == len(images) else []


def several(folders: Plain) -> list[str | Path]:
    """Give the folders that a setting names: none, one or several."""
    return [] if folders is None else [folders] if isinstance(folders, (str, Path)) else list(folders)


def images_below(path: Path, folder: Folder) -> set[Path]:
    """Find the files of a folder, with all subfolders, that have endings of images.

    Args:
        path: The folder.
        folder: Data module that may name the endings.
    """
    endings = {ending.lower() for ending in folder.extensions or image_endings()}
    return {each for each in path.glob("**/*") if each.suffix.lower() in endings and each.is_file()}


def _datasets(datamodule: AnomalibDataModule) -> list[AnomalibDataset]:
    """Give the data sets with usable tables, without those of generated images."""
    datasets = [getattr(datamodule, name, None) for name in DATASETS]
    found = [each for each in datasets if each is not None and not isinstance(each, SyntheticAnomalyDataset)]
    return [each for each in found if {"image_path", "label_index"} <= set(each.samples.columns)]


def _rows(datasets: Sequence[AnomalibDataset]) -> Iterator[dict[Hashable, Plain]]:
    for dataset in datasets:
        yield from dataset.samples.to_dict("records")


def _write(dataset: AnomalibDataset, masks: Mapping[Path, Plain]) -> None:
    """Write the masks of images into the table of a data set."""
    table = dataset.samples.copy()
    given = zip(table["image_path"], table["mask_path"], strict=True)
    table["mask_path"] = [masks.get(Path(image), mask) for image, mask in given]
    dataset.samples = table


def _pair_again(datasets: Sequence[AnomalibDataset]) -> None:
    """Give images their own masks where a data module has exchanged them."""
    rows = {Path(row["image_path"]): row for row in _rows(datasets)}
    masks = {image: mask for image, row in rows.items() if (mask := _mask_of(row)) is not None}
    if not masks:
        return
    images, given = list(masks), list(dict.fromkeys(masks.values()))
    roots = (Path(commonpath([path.parent for path in paths])) for paths in (images, given))
    own = Candidates(images, given, *roots).plain_pairs() or masks
    exchanged = [image for image, mask in masks.items() if own[image] != mask]
    for image in exchanged:
        if rows[image]["label_index"] != LabelName.ABNORMAL:  # labels may come from masks
            message = f"{RULE}, but {image} gets {masks[image]} instead of {own[image]}. Rename the masks."
            raise DataError(message)
    written = {mask: rows[image]["mask_path"] for image, mask in masks.items()}
    for dataset in datasets if exchanged else ():
        _write(dataset, {image: written[own[image]] for image in exchanged})


def _mask_of(row: Mapping[Hashable, Plain]) -> Path | None:
    """Give the mask of an image, or the folder of its masks; ``None`` if there is none."""
    given = row.get("mask_path")
    if isinstance(given, (list, tuple)):
        folders = {Path(path).parent for path in given}
        return folders.pop() if len(folders) == 1 else None
    path = Path(given) if isinstance(given, (str, Path)) and str(given) else None
    return path if path is not None and path.is_file() else None
