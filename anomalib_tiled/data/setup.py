"""Sets a data module up, and gives each image its own mask.

Most data modules of anomalib sort images and masks separately and join them by position. ``1_mask.png`` sorts after
``10_mask.png``, but ``1.png`` before ``10.png``; ``crack_mask`` sorts after ``crack_big_mask``, but ``crack`` before
``crack_big``. So they refuse some correct sets, and give some masks to other images.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from anomalib import TaskType
from anomalib.data import MPDD, VAD, AnomalibDataModule, AnomalibDataset, Folder, MVTecAD, Tabular
from anomalib.data.errors import MisMatchError
from anomalib.data.utils import LabelName
from anomalib.data.utils.path import validate_and_resolve_path
from anomalib.data.utils.synthetic import SyntheticAnomalyDataset
from lightning.pytorch.trainer.states import TrainerFn
from torchvision.datasets.folder import IMG_EXTENSIONS

from anomalib_tiled.data.images import image_endings
from anomalib_tiled.data.mask_pairs import RULE, Candidates, differing_parts
from anomalib_tiled.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    from anomalib_tiled.config.settings import Plain

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
    """Set a data module up without masks, then add the masks.

    Args:
        datamodule: The data module, which gets the data sets.
        folder: The same images as folders.
    """
    bare = copy(folder)
    bare.mask_dir = None
    bare.setup(TrainerFn.FITTING)
    datasets = _datasets(bare)
    images = {Path(row["image_path"]) for row in _rows(datasets) if row["label_index"] == LabelName.ABNORMAL}
    pairs = MaskFolders.of(folder).pairs(sorted(images))
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


@dataclass(frozen=True)
class MaskFolders:
    """Folders of anomalous images, and folders of their masks.

    Args:
        images: Folders of images.
        masks: Folders of masks; if there are as many, each belongs to the folder of images at the same position.
        folder: The data module that names them.
    """

    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    folder: Folder

    @classmethod
    def of(cls, folder: Folder) -> MaskFolders:
        """Read the folders of a data module."""
        images, masks = (
            tuple(validate_and_resolve_path(path, folder.root) for path in several(each))
            for each in (folder.abnormal_dir, folder.mask_dir)
        )
        return cls(images, masks, folder)

    def pairs(self, images: Sequence[Path]) -> dict[Path, Path]:
        """Give each image its mask.

        Raises:
            DataError: The mask of an image is ambiguous or missing.
        """
        self._check_order()
        found: dict[Path, Path] = {}
        for candidates in self._candidates(images):
            found |= candidates.pairs()
        return found

    def _candidates(self, images: Sequence[Path]) -> Iterator[Candidates]:
        if not self._are_paired:
            masks = sorted({mask for folder in self.masks for mask in self._below(folder, images)})
            yield Candidates(images, masks, Path(commonpath(self.images)), Path(commonpath(self.masks)))
            return
        for folder, mask_folder in zip(self.images, self.masks, strict=True):
            if own := [image for image in images if image.is_relative_to(folder)]:
                yield Candidates(own, self._below(mask_folder, images), folder, mask_folder)

    def _below(self, folder: Path, images: Sequence[Path]) -> list[Path]:
        """Find masks; images are never masks, even where both are in the same folder."""
        return sorted(images_below(folder, self.folder) - set(images))

    def _check_order(self) -> None:
        """Refuse folders of masks in another order than the folders of images with the same names."""
        if not self._are_paired:
            return
        images, masks = (differing_parts(list(map(str, folders))) for folders in (self.images, self.masks))
        for place, other in enumerate(_plain_order(images, masks)):
            if other != place:
                message = (
                    f"The first of mask_dir must have the masks of the first of abnormal_dir, and so on, but "
                    f"{self.images[place]} has the position of {self.masks[place]} and the name of "
                    f"{self.masks[other]}. Change the order, or name the folders alike."
                )
                raise DataError(message)

    @property
    def _are_paired(self) -> bool:
        """Whether each folder of images has a folder of masks of its own."""
        return len(self.images) == len(self.masks) == len(set(self.masks))


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
    """Give images their own masks where a data module has exchanged them.

    Raises:
        DataError: Masks of normal and anomalous images are exchanged, and labels come from masks.
    """
    given = {Path(row["image_path"]): row for row in _rows(datasets) if _mask_of(row) is not None}
    masks = {image: mask for image, row in given.items() if (mask := _mask_of(row)) is not None}
    if not given:
        return
    own = Candidates.below_common_folders(list(masks), list(dict.fromkeys(masks.values()))).plain_pairs() or masks
    exchanged = [image for image, mask in masks.items() if own[image] != mask]
    for image in exchanged:
        if given[image]["label_index"] != LabelName.ABNORMAL:
            message = f"{RULE}, but {image} gets {masks[image]} instead of {own[image]}. Rename the masks."
            raise DataError(message)
    written = {mask: given[image]["mask_path"] for image, mask in masks.items()}
    if exchanged:
        for dataset in datasets:
            _write(dataset, {image: written[own[image]] for image in exchanged})


def _mask_of(row: Mapping[Hashable, Plain]) -> Path | None:
    """Give the mask of an image, or the folder of its masks; ``None`` if there is none."""
    given = row.get("mask_path")
    if isinstance(given, (list, tuple)):
        folders = {Path(path).parent for path in given}
        return folders.pop() if len(folders) == 1 else None
    path = Path(given) if isinstance(given, (str, Path)) and str(given) else None
    return path if path is not None and path.is_file() else None
