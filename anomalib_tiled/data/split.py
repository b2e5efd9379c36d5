"""Which image is used for what: decided once, used by every tile, stage and command."""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from anomalib.data.utils import ValSplitMode
from anomalib.data.utils.synthetic import SyntheticAnomalyDataset
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_tiled.errors import DataError, RunFolderError
from anomalib_tiled.files import replacing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anomalib.data import AnomalibDataModule
    from anomalib.data.datasets.base.image import AnomalibDataset

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
    """

    subset: Subset
    image_path: Path
    mask_path: Path | None
    label: int | None


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
        """Subset that stages learn from: the validation images, or the training images if there are none."""
        return "val" if self.subset("val") else "train"

    @property
    def calibrated_on_test(self) -> bool:
        """Whether the validation images are the test images."""
        test = {sample.image_path for sample in self.subset("test")}
        return any(sample.image_path in test for sample in self.subset("val"))

    def write(self, path: Path) -> None:
        """Write the split as a CSV file."""
        with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for sample in self.samples:
                label = "" if sample.label is None else sample.label
                writer.writerow([sample.subset, sample.image_path, sample.mask_path or "", label])

    @classmethod
    def read(cls, path: Path) -> Split:
        """Read a split that was written before.

        Raises:
            RunFolderError: The file is missing or is not a split.
        """
        try:
            with path.open(newline="", encoding="utf-8") as file:
                return cls(tuple(_sample_of_row(row) for row in csv.DictReader(file)))
        except FileNotFoundError as error:
            message = f"{path} is missing: without it nobody knows which images were trained on. Fit a new run."
            raise RunFolderError(message) from error
        except (KeyError, ValueError, TypeError) as error:
            message = f"{path} must have the columns {', '.join(COLUMNS)} ({error!r}). It was altered; fit a new run."
            raise RunFolderError(message) from error


def split_once(datamodule: AnomalibDataModule, *, for_training: bool = True) -> Split:
    """Set a data module up, and note which image is in which subset.

    Args:
        datamodule: Data module that is not set up yet. What it draws at random comes from the global generators.
        for_training: Whether there must be something to train on.

    Raises:
        DataError: The data module cannot be set up, there is no normal training image, or an image is in two subsets.
    """
    try:
        datamodule.prepare_data()
        datamodule.setup(TrainerFn.FITTING)
    except DataError:
        raise
    except Exception as error:
        message = f"The data module {type(datamodule).__name__} could not be set up: {error}"
        raise DataError(message) from error
    samples = [sample for name in SUBSETS for sample in _samples_of(getattr(datamodule, f"{name}_data", None), name)]
    split = Split(tuple(samples))
    if for_training and not any(sample.label != 1 for sample in split.subset("train")):
        message = "There must be at least one normal training image, but the data module gives none. Check its folders."
        raise DataError(message)
    _check_apart(split, same_as_test=datamodule.val_split_mode == ValSplitMode.SAME_AS_TEST)
    return split


def keep_generated(split: Split, datamodule: AnomalibDataModule, folder: Path) -> Split:
    """Copy images that anomalib draws into a temporary folder to where later commands find them.

    Args:
        split: The split of the data module.
        datamodule: Data module with synthetic subsets, or without.
        folder: Where to copy to.

    Returns:
        The split with the new paths.
    """
    datasets = [getattr(datamodule, f"{name}_data", None) for name in SUBSETS]
    roots = [Path(dataset.root) for dataset in datasets if isinstance(dataset, SyntheticAnomalyDataset)]
    for number, root in enumerate(dict.fromkeys(roots)):  # validation and test images may be the same ones
        shutil.copytree(root, folder / str(number), dirs_exist_ok=True)
        split = Split(tuple(_moved(sample, root, folder / str(number)) for sample in split.samples))
    return split


def _moved(sample: Sample, source: Path, target: Path) -> Sample:
    def move(path: Path) -> Path:
        return target / path.relative_to(source) if path.is_relative_to(source) else path

    mask_path = None if sample.mask_path is None else move(sample.mask_path)
    return replace(sample, image_path=move(sample.image_path), mask_path=mask_path)


def _sample_of_row(row: dict[str, str]) -> Sample:
    if row["subset"] not in SUBSETS:
        message = f"subset {row['subset']!r} is none of {', '.join(SUBSETS)}"
        raise ValueError(message)
    subset = next(name for name in SUBSETS if name == row["subset"])
    mask_path = Path(row["mask_path"]) if row["mask_path"] else None
    return Sample(subset, Path(row["image_path"]), mask_path, int(row["label"]) if row["label"] else None)


def _samples_of(dataset: AnomalibDataset | None, subset: Subset) -> Iterable[Sample]:
    if dataset is None:
        return
    for row in dataset.samples.itertuples(index=False):
        mask_path = _one_mask(getattr(row, "mask_path", None), row.image_path)
        label = int(row.label_index)
        yield Sample(
            subset,
            Path(row.image_path).absolute(),
            mask_path,
            label if label in {0, 1} else None,
        )


def _one_mask(mask_path: object, image_path: object) -> Path | None:
    """Give the mask of an image; ``None`` if it has none."""
    if isinstance(mask_path, (list, tuple)):
        if len(mask_path) > 1:
            message = f"An image must have one mask at most, but {image_path} has {len(mask_path)}. Join them to one."
            raise DataError(message)
        mask_path = mask_path[0] if mask_path else None
    return Path(mask_path).absolute() if isinstance(mask_path, (str, Path)) and str(mask_path) else None


def _check_apart(split: Split, *, same_as_test: bool) -> None:
    paths = {name: {sample.image_path for sample in split.subset(name)} for name in SUBSETS}
    pairs: list[tuple[Subset, Subset]] = [("train", "val"), ("train", "test")]
    for first, second in pairs if same_as_test else [*pairs, ("val", "test")]:
        if shared := sorted(paths[first] & paths[second]):
            message = (
                f"An image must be in one subset only, but {len(shared)} are in {first} and {second}, "
                f"for example {shared[0]}. Check the folders of the data module."
            )
            raise DataError(message)
