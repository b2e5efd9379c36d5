"""The subset of each image: decided once, used by every tile, stage and command."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from operator import eq
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from anomalib_tiled.data.names import Names
from anomalib_tiled.data.split_table import BETWEEN_MASKS, NONE, ROW, UNKNOWN, SplitTable
from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.stages.alignment import Matrix
from anomalib_tiled.system.files import open_table, replacing, table_of

Subset = Literal["train", "val", "test"]
SUBSETS: tuple[Subset, ...] = ("train", "val", "test")
COLUMNS = ("subset", "image_path", "mask_path", "label")


@dataclass(frozen=True)
class Sample:
    """An image with subset, label and masks.

    Args:
        subset: Use of the image.
        image_path: The image.
        mask_path: The mask of its defects; ``None`` if there is none.
        label: 0 for normal, 1 for anomalous, ``None`` for unknown.
        further_masks: More masks, if each shows only some of the defects.
        matrix: From pixels of the aligned image to pixels of the image; ``None`` if images are not aligned.
    """

    subset: Subset
    image_path: Path
    mask_path: Path | None
    label: int | None
    further_masks: tuple[Path, ...] = ()
    matrix: Matrix | None = None

    @property
    def masks(self) -> tuple[Path, ...]:
        """All masks; a pixel is anomalous if any of them says so."""
        return () if self.mask_path is None else (self.mask_path, *self.further_masks)


@dataclass(frozen=True, eq=False)
class StoredSamples(Sequence[Sample]):
    """Images of a table; each becomes an object when it is read.

    Args:
        table: The table.
        places: Positions of the rows; ``None`` for all of them.
    """

    table: SplitTable
    places: NDArray[np.intp] | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.table.rows if self.places is None else self.places)

    @overload
    def __getitem__(self, place: int) -> Sample: ...

    @overload
    def __getitem__(self, place: slice) -> StoredSamples: ...

    def __getitem__(self, place: int | slice) -> Sample | StoredSamples:
        """Give one image, or some."""
        if isinstance(place, slice):
            return StoredSamples(self.table, self._places[place])
        return self._sample(self.table.rows[place if self.places is None else self.places[place]])

    def __iter__(self) -> Iterator[Sample]:
        """Give the images one by one."""
        return map(self._sample, self.rows)

    def __eq__(self, other: object) -> bool:
        """Whether other samples are the same, however they are stored."""
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # as that of a list

    @property
    def rows(self) -> NDArray[Any]:
        """Their rows of the table."""
        return self.table.rows if self.places is None else self.table.rows[self.places]

    def where(self, condition: NDArray[np.bool_]) -> StoredSamples:
        """Give those for which a condition holds, shape (images,)."""
        return StoredSamples(self.table, self._places[condition])

    @property
    def _places(self) -> NDArray[np.intp]:
        return np.arange(len(self)) if self.places is None else self.places

    def _sample(self, row: NDArray[Any]) -> Sample:
        image, masks, label, subset = row.tolist()
        names = () if masks == NONE else self.table.masks[masks].split(BETWEEN_MASKS)
        name, known = self.table.images[image], None if label == UNKNOWN else label
        sample = Sample(SUBSETS[subset], Path(name), None, known, matrix=self.table.matrix_of(image))
        return with_masks(sample, [Path(name) for name in names]) if names else sample


class Known(NamedTuple):
    """What is known of images, each of shape (images,).

    Args:
        labels: 0 for normal, 1 for anomalous, `UNKNOWN`.
        masked: Whether there is a mask.
    """

    labels: NDArray[np.int32]
    masked: NDArray[np.bool_]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Known:
        """List what is known of images."""
        if isinstance(samples, StoredSamples):
            return cls(samples.rows["label"], samples.rows["masks"] != NONE)
        labels = [UNKNOWN if sample.label is None else sample.label for sample in samples]
        return cls(np.array(labels, np.int32), np.array([bool(sample.masks) for sample in samples], np.bool_))


def image_names(samples: Sequence[Sample]) -> list[str]:
    """Give the paths of images as text, without making a path of each."""
    if isinstance(samples, StoredSamples):
        names = [*samples.table.images]
        return [names[place] for place in samples.rows["image"].tolist()]
    return [str(sample.image_path) for sample in samples]


@dataclass(frozen=True)
class Split:
    """All images of a run, each with its subset.

    Args:
        samples: The images, subset by subset, in the order of the data module.
    """

    samples: Sequence[Sample]

    @cached_property
    def table(self) -> SplitTable:
        """The images in columns."""
        if isinstance(self.samples, StoredSamples) and self.samples.places is None:
            return self.samples.table
        return _table_of(self.samples)

    def with_transforms(self, transforms: NDArray[np.float64]) -> Split:
        """Give the same split with aligned images.

        Args:
            transforms: As of the table, in the order of its images.
        """
        return Split(StoredSamples(replace(self.table, transforms=transforms)))

    def matrix_of(self, name: str) -> Matrix | None:
        """Give the matrix of an image by its name; ``None`` if it is not aligned."""
        table = self.table
        return None if table.transforms is None else table.matrix_of(table.images.place_of(name))

    def subset(self, name: Subset) -> Sequence[Sample]:
        """Give the images of one subset, without those that cannot be aligned."""
        return self._where(self._is_of(name))

    def unaligned(self, name: Subset) -> Sequence[Sample]:
        """Give the images of one subset that cannot be aligned."""
        return self._where((self.table.rows["subset"] == SUBSETS.index(name)) & ~self._is_aligned)

    @property
    def has_masks(self) -> bool:
        """Whether defects are known pixel by pixel, so that a normal image has an empty mask."""
        return len(self.table.masks) > 0

    @property
    def calibration_subset(self) -> Subset:
        """Subset that stages learn from: validation images of known label, or training images if there are none."""
        return "val" if (self._is_of("val") & self._is_labelled).any() else "train"

    @property
    def calibration_samples(self) -> Sequence[Sample]:
        """Images that stages learn from; an image of unknown label teaches nothing about what is normal."""
        return self._where(self._is_of(self.calibration_subset) & self._is_labelled)

    @property
    def calibrated_on_test(self) -> bool:
        """Whether the validation images are the test images."""
        images = self.table.rows["image"]
        return bool(np.isin(images[self._is_of("val")], images[self._is_of("test")]).any())

    def _is_of(self, name: Subset) -> NDArray[np.bool_]:
        condition: NDArray[np.bool_] = self.table.rows["subset"] == SUBSETS.index(name)
        return condition & self._is_aligned

    @property
    def _is_aligned(self) -> NDArray[np.bool_]:
        """Whether each image can be used: all of them can, if images are not aligned."""
        table = self.table
        if table.transforms is None:
            return np.ones(len(table.rows), np.bool_)
        aligned: NDArray[np.bool_] = ~np.isnan(table.transforms[table.rows["image"], 0])
        return aligned

    @property
    def _is_labelled(self) -> NDArray[np.bool_]:
        condition: NDArray[np.bool_] = self.table.rows["label"] != UNKNOWN
        return condition

    def _where(self, condition: NDArray[np.bool_]) -> Sequence[Sample]:
        if isinstance(self.samples, StoredSamples):
            return self.samples.where(condition)
        return tuple(compress(self.samples, condition.tolist()))

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
    def parse(cls, content: bytes, path: Path) -> Split:
        """Read a split from the content of its file.

        Args:
            content: What `write` wrote.
            path: The file, for messages.

        Raises:
            RunFolderError: The content is not a split.
        """
        try:
            return cls(tuple(map(_sample_of_row, csv.DictReader(table_of(content)))))
        except (KeyError, ValueError, TypeError, csv.Error) as error:
            columns = ", ".join(COLUMNS)
            message = f"{path} must have the columns {columns}, but was changed ({error!r}). Fit a new run."
            raise RunFolderError(message) from error


def _table_of(samples: Sequence[Sample]) -> SplitTable:
    images, masks = dict[str, int](), dict[str, int]()
    rows = np.empty(len(samples), ROW)
    for place, sample in enumerate(samples):
        image = images.setdefault(str(sample.image_path), len(images))
        joined = joined_masks(sample)
        mask = masks.setdefault(joined, len(masks)) if joined else NONE
        rows[place] = image, mask, UNKNOWN if sample.label is None else sample.label, SUBSETS.index(sample.subset)
    matrices = {str(sample.image_path): sample.matrix for sample in samples if sample.matrix is not None}
    known = [matrices.get(name, (np.nan,) * 9) for name in images]
    transforms = np.array(known, np.float64).reshape(-1, 9) if matrices else None
    return SplitTable(rows, Names.of([*images]), Names.of([*masks]), transforms)


def joined_masks(sample: Sample) -> str:
    """Give the name of the masks of an image in the table; empty if there are none."""
    return BETWEEN_MASKS.join(map(str, sample.masks))


def _sample_of_row(row: dict[str, str]) -> Sample:
    if row["subset"] not in SUBSETS:
        message = f"subset {row['subset']!r} is none of {', '.join(SUBSETS)}"
        raise ValueError(message)
    subset = next(name for name in SUBSETS if name == row["subset"])
    sample = Sample(subset, Path(row["image_path"]), None, int(row["label"]) if row["label"] else None)
    return with_masks(sample, [Path(path) for path in row["mask_path"].splitlines()])


def with_masks(sample: Sample, masks: list[Path]) -> Sample:
    """Give the same sample with other masks."""
    return replace(sample, mask_path=masks[0] if masks else None, further_masks=tuple(masks[1:]))
