"""Which image is used for what: decided once, used by every tile, stage and command."""

from __future__ import annotations

import csv
import shutil
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.error import URLError

import pandas as pd
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.errors import MisMatchError
from anomalib.data.utils import LabelName, ValSplitMode
from anomalib.data.utils.synthetic import SyntheticAnomalyDataset

from anomalib_tiled.data.dataset_check import check_reading
from anomalib_tiled.data.setup import set_up
from anomalib_tiled.errors import DataError, RunFolderError
from anomalib_tiled.system.files import open_table, read_table, replacing
from anomalib_tiled.system.os_errors import readable

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from anomalib_tiled.config.settings import Plain

Subset = Literal["train", "val", "test"]
SUBSETS: tuple[Subset, ...] = ("train", "val", "test")
COLUMNS = ("subset", "image_path", "mask_path", "label")


@dataclass(frozen=True)
class Sample:
    """An image and what is known of it.

    Args:
        subset: What the image is used for.
        image_path: The image.
        mask_path: The mask of its defects; ``None`` if there is none.
        label: 0 for normal, 1 for anomalous, ``None`` for unknown.
        further_masks: More masks, if each has only some of the defects.
    """

    subset: Subset
    image_path: Path
    mask_path: Path | None
    label: int | None
    further_masks: tuple[Path, ...] = ()

    @property
    def masks(self) -> tuple[Path, ...]:
        """All masks; a pixel is anomalous if it is so in one of them."""
        return () if self.mask_path is None else (self.mask_path, *self.further_masks)


@dataclass(frozen=True)
class Split:
    """All images of a run, each with the subset that it is in.

    Args:
        samples: The images, subset by subset, in the order of the data module.
    """

    samples: tuple[Sample, ...]

    def subset(self, name: Subset) -> tuple[Sample, ...]:
        """Give the images of one subset."""
        return tuple(sample for sample in self.samples if sample.subset == name)

    @property
    def has_masks(self) -> bool:
        """Whether defects are known pixel by pixel, so that a normal image has an empty mask."""
        return any(sample.mask_path is not None for sample in self.samples)

    @property
    def calibration_subset(self) -> Subset:
        """Subset that stages learn from: validation images of known label, or training images if there are none."""
        return "val" if any(sample.label is not None for sample in self.subset("val")) else "train"

    @property
    def calibration_samples(self) -> tuple[Sample, ...]:
        """Images that stages learn from; an image of unknown label teaches nothing about what is normal."""
        return tuple(sample for sample in self.subset(self.calibration_subset) if sample.label is not None)

    @property
    def calibrated_on_test(self) -> bool:
        """Whether the validation images are the test images."""
        test = {sample.image_path for sample in self.subset("test")}
        return any(sample.image_path in test for sample in self.subset("val"))

    def write(self, path: Path) -> None:
        """Write the split as a CSV file."""
        with replacing(path) as temporary, open_table(temporary, "w") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for sample in self.samples:
                label = "" if sample.label is None else sample.label
                masks = "\n".join(map(str, sample.masks))
                writer.writerow([sample.subset, sample.image_path, masks, label])

    @classmethod
    def read(cls, path: Path) -> Split:
        """Read a split that was written before.

        Raises:
            RunFolderError: The file is missing or is not a split.
        """
        with readable(path):
            try:
                return cls(tuple(map(_sample_of_row, csv.DictReader(read_table(path)))))
            except FileNotFoundError as error:
                message = f"{path} is missing: without it nobody knows which images were trained on. Fit a new run."
                raise RunFolderError(message) from error
            except (KeyError, ValueError, TypeError, csv.Error) as error:
                columns = ", ".join(COLUMNS)
                message = f"{path} must have the columns {columns} ({error!r}). It was altered; fit a new run."
                raise RunFolderError(message) from error


def split_once(datamodule: AnomalibDataModule, *, for_training: bool = True) -> Split:
    """Set a data module up, and note which image is in which subset.

    Args:
        datamodule: Data module that is not set up yet. What it draws at random comes from the global generators.
        for_training: Whether there must be something to train on.

    Raises:
        DataError: The data module cannot be set up or gives other images than those of its files, there is no normal
            training image, or an image is in two subsets.
    """
    with _naming(datamodule), _free_columns():
        datamodule.prepare_data()
        set_up(datamodule)
        datasets = {name: _dataset(datamodule, name) for name in SUBSETS}
    samples: list[Sample] = []
    for name, dataset in datasets.items():
        if dataset is not None:
            samples += (found := _samples_of(dataset, name))
            check_reading(dataset, found, getattr(datamodule, f"{name}_augmentations"))
    split = Split(tuple(samples))
    if for_training and not any(sample.label == 0 for sample in split.subset("train")):
        message = "There must be at least one normal training image, but the data module gives none. Check its folders."
        raise DataError(message)
    _check_apart(split, same_as_test=datamodule.val_split_mode == ValSplitMode.SAME_AS_TEST)
    return split


@contextmanager
def _naming(datamodule: AnomalibDataModule) -> Iterator[None]:
    """Name the data module in whatever it raises."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        modes = f"val_split_mode {datamodule.val_split_mode.value}, test_split_mode {datamodule.test_split_mode.value}"
        advice = f"Check its folders, that no mask is missing, and whether there are images enough for {modes}."
        if isinstance(error, MisMatchError):
            advice = "It joins images and masks by position. Give numbers zeros before them, or use Folder instead."
        if isinstance(error, URLError):
            advice = f"Its images are not in {getattr(datamodule, 'root', 'its folder')}, so it tried to download them."
        name, said = type(datamodule).__name__, " ".join(str(error).split())
        message = f"The data module {name} could not be set up: {said} ({type(error).__name__}). {advice}"
        raise DataError(message) from error


@contextmanager
def _free_columns() -> Iterator[None]:
    """Let columns of text hold lists and paths too: anomalib's LOCO and Tabular put them there, pandas 3 refuses."""
    if not pd.__version__.startswith("3."):
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The 'future.infer_string' option is deprecated")
        with pd.option_context("future.infer_string", False):  # noqa: FBT003  # the value of an option
            yield


def _dataset(datamodule: AnomalibDataModule, name: Subset) -> AnomalibDataset | None:
    """Give the images of a subset; where a data module has a loader of its own, those that it loads."""
    dataset: AnomalibDataset | None = getattr(datamodule, f"{name}_data", None)
    loader = f"{name}_dataloader"
    if dataset is not None and getattr(type(datamodule), loader) is not getattr(AnomalibDataModule, loader):
        dataset = getattr(getattr(datamodule, loader)(), "dataset", None)
    if dataset is None or isinstance(dataset, AnomalibDataset):
        return dataset
    message = f"{loader} must load an AnomalibDataset, but loads {type(dataset).__name__}. Mend the data module."
    raise DataError(message)


def keep_generated(split: Split, datamodule: AnomalibDataModule, folder: Path, final: Path | None = None) -> Split:
    """Copy images that anomalib draws into a temporary folder to where later commands find them.

    Args:
        split: The split of the data module.
        datamodule: Data module with synthetic subsets, or without.
        folder: Where to copy to.
        final: What the folder will be called when the images are read; ``None`` if it keeps its name.

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
    def move(path: Path) -> Path:
        return target / path.relative_to(source) if path.is_relative_to(source) else path

    masks = [move(path) for path in sample.masks]
    return _with_masks(replace(sample, image_path=move(sample.image_path)), masks)


def _sample_of_row(row: dict[str, str]) -> Sample:
    if row["subset"] not in SUBSETS:
        message = f"subset {row['subset']!r} is none of {', '.join(SUBSETS)}"
        raise ValueError(message)
    subset = next(name for name in SUBSETS if name == row["subset"])
    sample = Sample(subset, Path(row["image_path"]), None, int(row["label"]) if row["label"] else None)
    return _with_masks(sample, [Path(path) for path in row["mask_path"].splitlines()])


def _with_masks(sample: Sample, masks: list[Path]) -> Sample:
    return replace(sample, mask_path=masks[0] if masks else None, further_masks=tuple(masks[1:]))


def _samples_of(dataset: AnomalibDataset, subset: Subset) -> list[Sample]:
    table = dataset.samples
    if missing := [column for column in ("image_path", "label_index") if column not in table.columns]:
        message = (
            f"The samples of {type(dataset).__name__} must have the columns image_path and label_index, "
            f"but lack {' and '.join(missing)}. Only data sets of single images can be used."
        )
        raise DataError(message)
    return [_sample_of(row, subset, task=table.attrs.get("task")) for row in table.to_dict("records")]


def _sample_of(row: dict[Hashable, Plain], subset: Subset, *, task: str | None) -> Sample:
    sample = Sample(subset, Path(row["image_path"]).absolute(), None, _label(row["label_index"], row["image_path"]))
    # As in anomalib: some data modules name masks of normal images that are not there.
    has_mask = sample.label == 1 and task != TaskType.CLASSIFICATION
    return _with_masks(sample, _masks(row.get("mask_path")) if has_mask else [])


def _label(given: Plain, image_path: Plain) -> int | None:
    label = LabelName.UNKNOWN if pd.isna(given) else given
    if label not in set(LabelName):
        message = f"label_index must be 0, 1, or -1 for unknown, but is {given!r} for {image_path}. Mend its table."
        raise DataError(message)
    return None if label == LabelName.UNKNOWN else int(label)


def _masks(given: Plain) -> list[Path]:
    """Give the masks of an image; data modules write none, one or several in different ways."""
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
